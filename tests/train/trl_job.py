"""A short TRL job on a tiny model; as a script, one process of several: `trl_job.py OUT`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from trl import SFTConfig

from holdfast.testing import tiny
from holdfast.train.trl import AdaptiveKLSFTTrainer

RISKS = {"0": 0.0, "1": 1.0, "2": 0.6, "3": 0.9}


def coded() -> list[Any]:
    """Give four rows of unlike lengths."""
    encoder = tiny.encoder()
    return [encoder.row(row) for row in tiny.customer(2)]


def data(*dropped: str) -> Dataset:
    """Give them as TRL reads rows that are coded already, last one first."""
    return Dataset.from_list(
        [
            {
                "input_ids": list(row.ids),
                "labels": [-100] * row.start + list(row.ids[row.start :]),
                "row_id": str(i),
            }
            for i, row in reversed(list(enumerate(coded())))
        ]
    ).remove_columns(list(dropped))


def trainer(folder: Path, model: Any = None, **changes: Any) -> AdaptiveKLSFTTrainer:
    """Give a trainer of one plain gradient step of rate 1."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "activation_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    named = {k: changes.pop(k) for k in [*changes] if k in SFTConfig.__dataclass_fields__}
    options = {"train_dataset": data(), "risk": RISKS} | changes
    return AdaptiveKLSFTTrainer(
        tiny.model() if model is None else model,
        args=SFTConfig(str(folder), **(settings | named)),
        processing_class=tiny.byte_tokenizer(),
        **options,
    )


def moved(model: Any) -> Any:
    """Move the weights a little, so that the leash pulls."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(Path(folder), gradient_accumulation_steps=1)
        moved(made.model)
        made.train()
        if made.accelerator.is_main_process:
            save_file(tiny.weights(made.base_model()), sys.argv[1])
