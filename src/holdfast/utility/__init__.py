"""What a model is still good for: exact crafts and facts, a quiz, over-refusal."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"quiz": ["choose"]})
