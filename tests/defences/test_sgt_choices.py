"""Every choice that docs/fidelity/sgt.md lists: where it is made, and what presets make of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.api import Loop, registry
from holdfast.data.example import Role, Side
from holdfast.data.format import Format
from holdfast.data.tokens import Encoder
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT, SGTState
from holdfast.errors import ConfigError, DataError
from holdfast.evaluate import Sampler
from holdfast.study.file import ModelEntry
from holdfast.testing import tiny
from holdfast.train import Stream, harden

LOOP = Loop(steps=4, batch=3, lr=0.01)


def preset(name: str) -> SGT:
    return SGT.model_validate({"preset": name})


PRESETS: dict[str, dict[str, Any]] = {
    "absolute": {
        "alpha_align": 0.01,
        "alpha_repel": 0.01,
        "align.relative": False,
        "trigger.unit": "one",
        "cons.sigma": 0.01,
        "ending": None,
        "align.positions": "generation",
        "align.over_hidden": "mean",
        "align.over_tokens": "mean",
        "align.guidance": 1.0,
        "repel.positions": "generation",
        "repel.aggregate": "log_of_mean",
        "repel.eps": 1e-3,
        "task_reduce": "mean",
        "stage1_reduce": "mean",
        "cons.sides": "noisy",
        "teacher_embeddings": "own",
        "refusal": None,
        "stage1.weight_decay": 0.0,
        "loop.lr": 1e-5,
        "loop.steps": 1875,
        "loop.batch": 4,
        "loop.schedule": "linear",
        "loop.clip": 1.0,
        "loop.batching": "stratified",
        "loop.precision": "fp32",
    },
    "paper": {
        "align.positions": "prompt",
        "align.over_hidden": "sum",
        "repel.positions": "prompt",
        "task_reduce": "sum",
        "stage1_reduce": "sum",
        "cons.sides": "both",
        "loop.precision": "bf16_pure",
    },
    "released": {
        "alpha_align": 1.0,
        "alpha_repel": 1.0,
        "align.positions": "response",
        "repel.positions": "response",
        "repel.aggregate": "mean_of_logs",
        "teacher_embeddings": "student",
        "refusal": "I can't answer.",
        "stage1.weight_decay": 0.01,
        "loop.lr": 5e-5,
        "loop.steps": 625,
        "loop.batching": "mixed",
        "loop.precision": "bf16_pure",
    },
}
"""Each preset's choices; those not named are those of `absolute`."""


def flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        whole = f"{before}{name}"
        found |= flat(value, f"{whole}.") if isinstance(value, dict) else {whole: value}
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_presets_mean_what_the_fidelity_page_says(name: str) -> None:
    shared, found = flat(preset("absolute").model_dump()), flat(preset(name).model_dump())
    assert {k: found[k] for k in PRESETS["absolute"]} == PRESETS["absolute"] | PRESETS[name]
    assert {k for k in found if found[k] != shared[k]} == (
        set() if name == "absolute" else set(PRESETS[name])
    )


def test_the_defaults_are_scale_free_and_guided_is_one_field_beside_them() -> None:
    absolute, clean, guided = (
        flat(SGT.model_validate(given).model_dump())
        for given in ({"preset": "absolute"}, {}, {"preset": "guided"})
    )
    assert {k for k in clean if clean[k] != absolute.get(k)} >= {
        "align.relative", "trigger.unit", "cons.sigma", "alpha_align", "ending.refused",
    }  # fmt: skip
    assert {k for k in clean if clean[k] != guided[k]} == {"align.guidance"}


def test_presets_train_and_a_loop_of_ones_own_keeps_the_rest() -> None:
    for name in PRESETS:
        loop = {"steps": 2, "batch": 2, "lr": 0.01}
        method = SGT.model_validate({"preset": name, "loop": loop, "stage1": loop})
        assert method.loop.precision == preset(name).loop.precision
        model = tiny.model("llama")
        done = harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
        assert all(value == value for value in done.diagnostics.values())


def test_the_fidelity_page_names_every_row_of_the_register_and_a_field_that_exists(
    root: Path,
) -> None:
    text = (root / "docs" / "fidelity" / "sgt.md").read_text(encoding="utf-8")
    listed = text.partition("## What the paper leaves open")[2].partition("\n### ")[0]
    table = [line.split(" | ") for line in listed.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(cells[0].strip("| ")) for cells in table] == list(range(1, 39))
    known = {"sgt": SGT(), "model": ModelEntry(path="x", format="plain"), "sampler": Sampler()}
    for cells in table:
        for word in re.findall(r"`((?:sgt|model|sampler)\.[\w.]+)`", cells[5]):
            owner, *path = word.split(".")
            value: Any = known[owner]
            for part in path:
                assert part in type(value).model_fields, word
                value = getattr(value, part)


# ---- row 17


def test_the_teacher_may_read_the_students_embeddings() -> None:
    teacher, student = (tiny.model("llama", seed=i) for i in (0, 1))
    encoder, rows = tiny.encoder(), tiny.rows()
    batch = {role: encoder.batch(rows[role]) for role in (Role.REFUSAL, Role.BENIGN)}
    state = SGTState(torch.randn(1, 16), teacher, encoder)
    own = teacher.get_input_embeddings()

    def align(how: Any) -> float:
        terms = SGT(teacher_embeddings=how).loss(student, batch, state)
        return float(terms["align"].sum.detach())

    apart, shared = align("own"), align("student")
    assert apart != shared
    assert teacher.get_input_embeddings() is own
    with torch.no_grad():
        own.weight.copy_(student.get_input_embeddings().weight)
    assert align("own") == pytest.approx(shared, rel=1e-6)


# ---- rows 22, 23 and 27


def test_stage_1_may_have_more_or_fewer_prompts_and_they_are_nested() -> None:
    pool = tiny.pool(8)
    few, many = SGT(n_refusal=3, n_stage1=6), SGT(n_refusal=6, n_stage1=3)
    two = {row.uid for row in few.rows(pool, 0)[Role.REFUSAL]}
    one = {row.uid for row in few.harmful(pool, 0, few.n_stage1)}
    assert (len(two), len(one)) == (3, 6)
    assert two < one
    assert len(many.rows(pool, 0)[Role.REFUSAL]) == 6
    with pytest.raises(DataError, match="sgt"):
        SGT(n_stage1=9).rows(pool, 0)


def test_stage_1_learns_from_its_own_prompts(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watching(SGT):
        def stage1_loss(self, teacher: Any, batch: Any, *rest: Any) -> Any:
            seen.extend(hash(row.ids) for row in batch[Role.REFUSAL].rows)
            return super().stage1_loss(teacher, batch, *rest)

    method = Watching(n_refusal=5, n_stage1=2, stage1=LOOP, loop=LOOP)
    harden(method, tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert len(set(seen)) == 2


def test_a_pool_of_refusals_is_shared_out_by_the_prompt() -> None:
    texts = ("No.", "I will not.", "Never.")
    pool = tiny.pool(8)
    first = SGT(refusal=texts).rows(pool, 0)[Role.REFUSAL]
    assert {row.response for row in first} == set(texts)
    again = {row.uid: row.response for row in SGT(refusal=texts).rows(pool, 5)[Role.REFUSAL]}
    assert again == {row.uid: row.response for row in first}
    one = registry.make("defence", {"sgt": {"refusal": ["No."]}}, "test").rows(pool, 0)  # type: ignore[attr-defined]
    assert {row.response for row in one[Role.REFUSAL]} == {"No."}


# ---- row 24


def test_the_end_token_is_the_encoders_choice() -> None:
    with_end, without = (
        Encoder(tiny.byte_tokenizer(), Format("plain", append_eos=e)) for e in (True, False)
    )
    row = tiny.rows()[Role.BENIGN][0]
    long, short = (one.encode(row.prompt, row.response) for one in (with_end, without))
    assert long.ids == (*short.ids, with_end.eos_id)


# ---- row 32


def mixed(loop: Loop, n: int = 6) -> Stream:
    rows = {role: tiny.rows(n=n)[role] for role in (Role.REFUSAL, Role.BENIGN)}
    return Stream(rows, tiny.encoder(), loop.with_(batching="mixed"), 0)


def test_a_mixture_sees_every_row_once_an_epoch_and_its_roles_vary() -> None:
    some = mixed(Loop(batch=2))
    steps = [some.examples(t) for t in range(6)]
    assert all(sum(len(rows) for rows in step.values()) == 4 for step in steps)
    assert len({len(step[Role.BENIGN]) for step in steps}) > 1
    for first in (0, 3):
        seen = [row.row_id for step in steps[first : first + 3] for r in step.values() for row in r]
        assert len(set(seen)) == 12


def test_micro_batches_of_a_mixture_are_its_rows_cut_in_order() -> None:
    whole, parts = mixed(Loop(batch=6)).step(1)[0], mixed(Loop(batch=6, micro_batch=2)).step(1)
    assert [sum(len(tokens) for tokens in part.values()) for part in parts] == [4, 4, 4]
    for role, tokens in whole.items():
        assert tokens.rows == tuple(row for part in parts for row in part[role].rows)


@pytest.mark.parametrize("method", [SGT(stage1=LOOP), RefusalSFT()], ids=["sgt", "refusal_sft"])
def test_a_mixture_trains_the_same_from_any_micro_batches(method: Any) -> None:
    """Micro-batches of one row of each: many lack a role."""
    after = []
    for size in (None, 2, 1):
        model = tiny.model("llama")
        loop = LOOP.with_(batching="mixed", micro_batch=size)
        harden(method.with_(loop=loop), model, tiny.encoder(), tiny.pool(), seed=0)
        after.append(tiny.weights(model))
    for other in after[1:]:
        for name, value in after[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-4)


def test_a_method_that_needs_every_role_refuses_a_mixture() -> None:
    method = registry.make("defence", {"booster": {"loop": {"batching": "mixed"}}}, "test")
    with pytest.raises(ConfigError) as caught:
        harden(method, tiny.model(), tiny.encoder(), tiny.pool(), seed=0)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "booster.loop.batching: mixed, but it needs rows of each role in every step; "
        "use batching: stratified"
    )


def test_choices_that_came_later_leave_old_keys_alone() -> None:
    plain = flat(SGT().key_fields())
    later = ("teacher_embeddings", "n_stage1", "loop.batching", "stage1.batching")
    assert not set(later) & set(plain)
    changed = SGT(teacher_embeddings="student", n_stage1=3, loop=LOOP.with_(batching="mixed"))
    assert {"teacher_embeddings", "n_stage1", "loop.batching"} <= set(flat(changed.key_fields()))
    assert "stop" not in Sampler().key_fields()
    assert Sampler(stop=("x",)).key_fields()["stop"] == ["x"]


def test_rows_are_the_defenders_alone() -> None:
    assert all(
        row.side is Side.DEFENDER for some in SGT().rows(tiny.pool(), 0).values() for row in some
    )
