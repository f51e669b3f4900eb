"""Load and save models; the only forward passes training makes; vectors of parameters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapter": ["lora", "without_adapter"],
        "collapse": ["constant_nll"],
        "compare": ["linear_cka", "openings", "spread"],
        "depth": ["layer_number"],
        "distance": ["matched_distance"],
        "divergence": ["head_kl", "summed_kl"],
        "files": ["ModelFiles", "resolve"],
        "lens": ["depth_nll", "final_norm", "head_nll", "inside", "mlp_of"],
        "noise": ["noise_distance"],
        "gradients": ["Mix", "all_trainable", "mean_gradient", "whole"],
        "packing": ["Packed", "pack", "pack_for", "packable"],
        "passes": ["Passes", "packed_passes"],
        "perturb": [
            "attentions",
            "equal_batches",
            "gaussian",
            "output_gradients",
            "perturbed_grad",
            "perturbed_loss",
            "shifting",
            "sites",
            "total_norm",
            "worst_case",
        "reference": [
            "as_it_started",
            "layer_states",
            "owners",
            "response_states",
            "starting_model",
        ],
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
