"""Dropping, replacing and mixing: which rows are trained on, and that they are trained plainly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.api import Loop, registry
from holdfast.data.example import Role, Side
from holdfast.errors import DataError
from holdfast.testing import tiny
from holdfast.train import tune

LOOP = Loop(steps=4, batch=4, lr=0.01).model_dump()


def risky(tmp_path: Path, risks: list[float]) -> dict[str, str]:
    path = tmp_path / "risk.jsonl"
    lines = zip(tiny.customer(), risks, strict=True)
    path.write_text("".join(json.dumps({"row_id": r.row_id, "risk": s}) + "\n" for r, s in lines))
    return {"kind": "given", "path": str(path)}


def end(name: str, rows: Any, **fields: Any) -> Any:
    model = tiny.model()
    method: Any = registry.make("defence", {name: {"loop": LOOP} | fields}, "test")
    tune(method, model, tiny.encoder(), rows, tiny.pool(), seed=0)
    return tiny.weights(model)


def test_a_filter_is_plain_training_on_what_is_below_the_threshold(tmp_path: Path) -> None:
    rows = tiny.customer()
    risk = risky(tmp_path, [0.0, 0.7] * 6)
    clean = end("plain_tuning", rows[::2])
    assert tiny.same(end("risk_filter", rows, risk=risk, threshold=0.7), clean)
    assert tiny.same(end("risk_filter", rows, risk=risk, threshold=0.71), end("plain_tuning", rows))


def test_replacing_is_plain_training_on_the_prompts_with_refusals(tmp_path: Path) -> None:
    rows = tiny.customer()
    risk = risky(tmp_path, [0.0, 1.0] * 6)
    refusals = tiny.pool().draw(Role.REFUSAL, Side.DEFENDER, None, _draw())
    said = [
        row if i % 2 == 0 else row.answered(refusals[i % len(refusals)].response)
        for i, row in enumerate(rows)
    ]
    assert tiny.same(end("risk_replace", rows, risk=risk), end("plain_tuning", said))


def test_mixing_is_plain_training_on_the_rows_and_refusals_of_the_defenders() -> None:
    rows = tiny.customer()
    refusals = tiny.pool().draw(Role.REFUSAL, Side.DEFENDER, None, _draw())
    assert tiny.same(
        end("safe_instr", rows, share=0.25), end("plain_tuning", [*rows, *refusals[:3]])
    )
    assert tiny.same(end("safe_instr", rows, share=0.0), end("plain_tuning", rows))
    again = [*rows, *refusals, *refusals]
    assert tiny.same(end("safe_instr", rows, share=1.0), end("plain_tuning", again))


def test_a_filter_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        end("risk_filter", tiny.customer(), risk=risky(tmp_path, [1.0] * 12))
    assert str(error.value) == (
        "risk_filter.task: none of the customer's 12 rows is admitted; "
        "raise its threshold, or refuse the job"
    )


def _draw() -> int:
    from holdfast.api import seed

    return seed(0, "draw")
