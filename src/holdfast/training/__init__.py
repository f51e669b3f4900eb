"""The one training loop, and what runs on it: hardening and attacking."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attacking": ["PointInfo", "attack"],
        "hardening": ["Hardened", "apply", "harden"],
        "measuring": ["measure"],
        "optimiser": ["Optimiser", "stochastic"],
        "loop": ["Stream", "TrainLog", "learning_rate", "optimise"],
    },
)
