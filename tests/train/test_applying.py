"""Hardening from Python: `apply` continues its own run and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_hardening import Stop, stopping

from holdfast.api import Loop
from holdfast.data.example import Role
from holdfast.data.pool import Pool
from holdfast.defences.booster import Booster
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.errors import ConfigError, DataError
from holdfast.testing import tiny
from holdfast.train import apply

LOOP = Loop(steps=6, batch=3, lr=0.01, checkpoint_every=2)


def applied(method: Any = None, *, model: Any = None, pool: Any = None, **options: Any) -> Any:
    method = method or RefusalSFT(loop=LOOP)
    options = {"format": "plain", **options}
    return apply(
        method, model or tiny.model(), tiny.byte_tokenizer(), pool or tiny.pool(), **options
    )


def test_it_gives_back_the_same_object_changed(tmp_path: Path) -> None:
    model = tiny.model()
    before = tiny.weights(model)
    assert applied(model=model, work=tmp_path) is model
    assert not tiny.same(tiny.weights(model), before)
    assert json.loads((tmp_path / "diagnostics.json").read_text()) == {}


def test_progress_is_told_every_step() -> None:
    seen: list[tuple[str, int, int]] = []
    applied(progress=lambda *step: seen.append(step))
    assert seen == [*(("refusal_sft", step, 6) for step in range(1, 7)), ("measuring", 0, 0)]


def test_the_same_call_continues_to_the_same_bits(tmp_path: Path) -> None:
    whole = tiny.weights(applied())
    with pytest.raises(Stop):
        applied(work=tmp_path, progress=stopping("refusal_sft", 5))
    steps: list[int] = []
    again = applied(work=tmp_path, progress=lambda _name, done, _of: steps.append(done))
    assert steps == [5, 6, 0]
    assert tiny.same(tiny.weights(again), whole)
    assert tiny.same(tiny.weights(applied(work=tmp_path)), whole)


def fewer() -> Pool:
    return Pool([row for some in tiny.rows(n=5).values() for row in some])


def nudged() -> Any:
    model = tiny.model()
    with torch.no_grad():
        model.model.norm.weight[0] += 2.0**-20
    return model


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rate": ("method", {"method": RefusalSFT(loop=LOOP.with_(lr=0.02))}),
    "method": ("method", {"method": Booster(loop=LOOP)}),
    "rows": ("rows", {"pool": fewer()}),
    "model": ("weights", {"model": tiny.model(seed=1)}),
    "one weight by a little": ("weights", {"model": nudged()}),
    "seed": ("seed", {"seed": 1}),
    "format": ("format", {"format": "chat"}),
    "original": ("original", {"original": tiny.weights(tiny.model(seed=2))}),
    "two of them": ("seed, rows", {"seed": 1, "pool": fewer()}),
}


@pytest.mark.parametrize("which", OTHERS)
@pytest.mark.parametrize("finished", [True, False])
def test_another_run_does_not_continue_from_it(
    which: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tiny.byte_tokenizer

    def chatty() -> Any:
        made = inner()
        made.chat_template = "{% for m in messages %}User: {{ m.content }}\n{% endfor %}"
        return made

    monkeypatch.setattr(tiny, "byte_tokenizer", chatty)
    with pytest.raises(Stop):
        applied(work=tmp_path, progress=stopping("refusal_sft", 5))
    if finished:
        applied(work=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    differs, options = OTHERS[which]
    with pytest.raises(ConfigError) as caught:
        applied(work=tmp_path, **options)
    assert str(caught.value) == (
        f"apply.work: {tmp_path} holds a run that differs in {differs}; give the same again to "
        "continue it, or remove that folder"
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == kept


def test_a_folder_that_holds_no_checkpoint_yet_belongs_to_nobody(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        applied(work=tmp_path, progress=stopping("refusal_sft", 1))
    other = RefusalSFT(loop=LOOP.with_(lr=0.02))
    assert tiny.same(tiny.weights(applied(other, work=tmp_path)), tiny.weights(applied(other)))


@pytest.mark.parametrize("said", [None, "", "[1]", "{"])
def test_checkpoints_that_do_not_say_whose_they_are_are_refused(
    said: str | None, tmp_path: Path
) -> None:
    applied(work=tmp_path)
    (tmp_path / "run.json").unlink()
    if said is not None:
        (tmp_path / "run.json").write_text(said)
    with pytest.raises(ConfigError) as caught:
        applied(work=tmp_path)
    assert str(caught.value) == (
        f"apply.work: {tmp_path} holds checkpoints that do not say whose they are; give the same "
        "again to continue it, or remove that folder"
    )


def test_a_row_longer_than_the_models_context_is_refused() -> None:
    rows = [row for some in tiny.rows().values() for row in some]
    some = next(row for row in rows if row.role is Role.REFUSAL)
    with pytest.raises(DataError) as caught:
        applied(model=tiny.model(max_position_embeddings=40))
    assert re.fullmatch(
        r"apply: row [0-9a-f]{16}: \d+ tokens, the model's context is 40; shorten or drop the row",
        str(caught.value),
    )
    assert len(some.prompt) > 40
