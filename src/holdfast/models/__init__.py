"""Load and save models; the only forward passes training makes; vectors of parameters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapter": ["lora", "without_adapter"],
        "compare": ["linear_cka", "openings", "spread"],
        "distance": ["matched_distance"],
        "files": ["ModelFiles", "resolve"],
        "flatness": ["logits_entropy", "next_entropy", "summed_entropy"],
        "moving": ["Moving", "adamw_step", "moving"],
        "packing": ["Packed", "pack", "pack_for", "packable"],
        "passes": ["Passes", "packed_passes"],
        "states": [
            "FlopMeter",
            "blocks",
            "forward",
            "generation_logits",
            "hidden_states",
            "insert",
            "log_probs",
            "nll",
            "per_row",
            "response_nll",
            "response_positions",
        ],
        "trigger": ["load_trigger", "model_hash", "trigger_about"],
        "vectors": [
            "ParamVector",
            "all_trainable",
            "grad",
            "holding",
            "shifted",
            "survived",
            "trainable",
        ],
        "weights": ["load", "save", "tensors"],
    },
)
