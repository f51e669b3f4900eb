"""What happens inside a model: its states before and after an attack, compared and drawn."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "neighbours": ["knn_overlap"],
        "plane": ["Plane", "plane"],
        "shift": ["drift", "linear_cka"],
    },
)
