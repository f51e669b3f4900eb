"""The example of training inside TRL runs as it stands, on files as people have them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from holdfast import nn
from holdfast.testing import tiny

EXAMPLE = Path(__file__).parents[2] / "examples" / "trl_adaptive_kl.py"


# Without a GPU torch says that memory is not pinned.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_it_trains_saves_and_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(bos=True), Path("model"))
    rows = [
        {"row_id": str(i), "prompt": row.prompt, "completion": row.response}
        for i, row in enumerate(tiny.customer())
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("risks.json").write_text(json.dumps({row["row_id"]: 0.5 for row in rows[1:]}))
    runpy.run_path(str(EXAMPLE))["main"]("model", "rows.jsonl", "risks.json", "tuned", steps=1)
    assert "rows without a usable risk: 1; " in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained("tuned").config.model_type == "llama"


def test_it_stays_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60
