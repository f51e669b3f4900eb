"""Fine-tune with TRL, each row held to the start as tightly as it is risky.

    pip install 'holdfast[trl]'   # in a clone: pip install '.[trl]'
    python examples/trl_adaptive_kl.py MODEL rows.jsonl risks.json tuned

Lines of rows.jsonl are {"row_id": "1", "prompt": "...", "completion": "..."}; risks.json is
{"1": 0.02, ...}: what a scorer of yours said of each row, 0 harmless to 1 harmful. Beside the plain
trainer there are three things more: the import, the column `row_id`, and `risk=`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from holdfast.train.trl import AdaptiveKLSFTTrainer


def main(model: str, rows: str, risks: str, out: str, steps: int = 100) -> None:
    lines = Path(rows).read_text(encoding="utf-8").splitlines()
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = AdaptiveKLSFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(
            out,
            max_steps=steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            learning_rate=2e-5,
            activation_checkpointing=False,
            bf16=False,
            logging_steps=10,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list([json.loads(line) for line in lines]),
        processing_class=tokenizer,
        risk=json.loads(Path(risks).read_text(encoding="utf-8")),
    )
    trainer.train()
    trainer.save_model(out)
    print(f"rows without a usable risk: {trainer.failed}; kl and beta: {trainer.state.log_history}")


if __name__ == "__main__":
    main(*sys.argv[1:5])
