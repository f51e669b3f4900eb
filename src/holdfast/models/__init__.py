"""Load and save models; the only forward passes training makes; vectors of parameters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapter": ["lora", "without_adapter"],
        "anchoring": ["places_of", "states_apart", "triggered_states"],
        "compare": ["linear_cka", "openings", "spread"],
        "distance": ["matched_distance"],
        "files": ["ModelFiles", "resolve"],
        "packing": ["Packed", "pack", "pack_for", "packable"],
        "passes": ["Passes", "packed_passes"],
        "spans": ["matched_span"],
        "states": [
            "FlopMeter",
            "blocks",
            "forward",
            "generation_logits",
            "hidden_states",
            "insert",
            "log_probs",
            "nll",
            "response_nll",
            "response_positions",
        ],
        "trigger": ["load_trigger", "model_hash", "trigger_about"],
        "vectors": ["ParamVector", "grad", "holding", "shifted", "trainable"],
        "weights": ["load", "save", "tensors"],
    },
)
