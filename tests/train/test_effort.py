"""What a method says a step costs is what the meter counts while it runs: packed, for every one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers.modeling_utils import PreTrainedModel

from holdfast import nn
from holdfast.api import (
    Blocks,
    CustomerJob,
    FineTuning,
    Loop,
    LoRA,
    Rows,
    Trainable,
    TrainedAttack,
    TrainedDefence,
    TuneDefence,
    registry,
)
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.testing import tiny
from holdfast.testing.defences import moved_original
from holdfast.testing.methods import short
from holdfast.train import attack, harden, tune

LOOP = Loop(steps=4, batch=4, lr=1e-3)
SPLIT = LOOP.with_(micro_batch=2)
LORA = LOOP.with_(lora=LoRA(rank=2))
FIELDS: dict[str, dict[str, Any]] = {
    # Drawn layers are counted as those drawn evenly: exact where all are drawn.
    "t_vaccine": {"layers": 1.0, "measure_every": 2},
    # A beginning is as many letters as it has; its own answers are cut in tokens.
    "adaptive_trigger": {"prefix": None},
    # Whose turn it is hangs on the step: here each one's half of the time.
    "lisa": {"align_steps": 1, "user_steps": 1},
    # Rows that are added have other lengths than the customer's.
    "safe_instr": {"share": 0.0},
}
"""Fields at which a method's cost hangs on no chance and on no tokenizer."""
MORE: dict[str, list[dict[str, Any]]] = {
    "vaccine": [{"site": "block"}, {"rho": 0.0}],
    "sdd": [{"benign_weight": 1.0}],
    "ctrap": [{"order": "second"}, {"benign_weight": 1.0}, {"lam": 0.0}],
    "seam": [{"benign_tokens": "all"}, {"couple_weight": 0.0, "benign_weight": 1.0}],
    "rep_noise": [{"lens": "all"}, {"ascent_weight": 0.0}],
    "circuit_breakers": [{"retained_layers": [1]}, {"refusal_weight": 0.0}],
    "triplet": [
        {"kl_weight": 0.0},
        {"kl_tokens": "all", "refusal_weight": 0.0},
        {"kl_weight": 0.0, "benign_layers": [1, 1], "harmful_layers": [1, 2]},
    ],
    "static_kl": [{"strength": 0.0}],
    "adaptive_kl": [
        {"schedule": {"kind": "constant"}},
        {"schedule": {"kind": "constant", "low": 0.0, "high": 0.0}},
        {"normalise": "micro_batch"},
    ],
    "tar": [
        {"tamper_loss": "entropy", "hidden_weight": 0.0},
        {"tamper_loss": "entropy", "entropy_at": "all", "attack": {"tasks": 2, "every": 3}},
    ],
    "sgt": [
        {"align": {"positions": "prompt"}, "repel": {"positions": "last_prompt"}},
        {"align": {"guidance": 1.5}, "cons": {"weight": 0.0}},
        {"trigger": {"length": 3}},
    ],
    "adaptive_trigger": [{"gamma": 0.0}, {"positions": "prompt"}, {"prefix_only": False}],
}
"""Further fields that change what a step costs."""
CASES = [
    pytest.param(kind, name, more, loop, id=f"{name}-{i}-{told}")
    for kind in ("defence", "attack")
    for name in registry.names(kind)
    if issubclass(registry.find(kind, name), Trainable)
    # A job's rows are of several lengths; it costs what plain fine-tuning does.
    if not issubclass(registry.find(kind, name), CustomerJob)
    for i, more in enumerate([{}, *MORE.get(name, [])])
    for told, loop in (("whole", LOOP), ("split", SPLIT), ("lora", LORA))
    if i == 0 or told == "whole"
]


def rows_of(side: Side) -> list[Example]:
    """Give rows whose tokens are as many in each: digits are tokens of their own."""
    found, who = [], list(Side).index(side)
    for i in range(20):
        prompt, harmless = f"7{who}{i:03d}?", f"8{who}{i:03d} 55?"
        found += [
            example(prompt, "0000", role=Role.REFUSAL, side=side),
            example(prompt, f"9{i:06d}", role=Role.HARMFUL, side=side),
            example(harmless, f"3{i:09d}", role=Role.BENIGN, side=side),
        ]
    return found


def customer() -> list[Example]:
    return [example(f"6{i:04d} 55?", f"3{i:09d}", role=Role.TASK) for i in range(20)]


def blocks_of(model: PreTrainedModel) -> Blocks:
    every = sum(p.numel() for p in nn.blocks(model).parameters())
    inside = sum(p.numel() for m in nn.attentions(model) for p in m.parameters())
    return Blocks(len(nn.blocks(model)), inside / every)


def step_rows(encoder: Encoder, drawn: dict[Role, list[Example]], loop: Loop) -> dict[str, Rows]:
    found = {}
    for role, some in drawn.items():
        coded = [encoder.row(row) for row in some]
        prompt = sum(row.start for row in coded) / len(coded)
        whole = sum(len(row.ids) for row in coded) / len(coded)
        found[role.value] = Rows(loop.batch, prompt, whole - prompt)
    return found


def expected(method: Trainable, model: PreTrainedModel, pool: Pool, steps: int) -> float:
    """Give what the method says; under LoRA the adapter's weights are the blocks' too."""
    drawn = method.rows(method.sees(pool), 0)
    if isinstance(method, TuneDefence):
        drawn = {Role.TASK: customer(), **drawn}
    rows = step_rows(tiny.encoder(), drawn, method.loop)
    head = model.get_output_embeddings().weight.numel()

    def body() -> int:
        return sum(p.numel() for p in nn.blocks(model).parameters())

    before = method.effort_before(rows, blocks_of(model)).flops(body(), head)
    if method.loop.lora is None:
        return before + (method.effort(rows, blocks_of(model)) * steps).flops(body(), head)
    with nn.lora(model, method.loop.lora, 0):
        return before + (method.effort(rows, blocks_of(model)) * steps).flops(body(), head)


@pytest.mark.parametrize(("kind", "name", "more", "loop"), CASES)
def test_a_step_costs_what_the_meter_counts(
    kind: str, name: str, more: dict[str, Any], loop: Loop, tmp_path: Path
) -> None:
    made = registry.find(kind, name).model_validate({**FIELDS.get(name, {}), **more})
    assert isinstance(made, Trainable)
    method = short(made, loop)
    if "risk" in type(method).model_fields:  # what fitting a probe costs hangs on the pool's rows
        table = tmp_path / "risk.jsonl"
        lines = [json.dumps({"row_id": row.row_id, "risk": 0.0}) for row in customer()]
        table.write_text("\n".join(lines))
        method = method.with_(risk={"kind": "given", "path": str(table)})
    pool = Pool([row for side in Side for row in rows_of(side)])
    whole = expected(method, tiny.model("qwen3"), pool, LOOP.steps)
    model = tiny.model("qwen3")
    counted = spent(method, model, pool)
    assert counted > 0
    assert whole == pytest.approx(counted, rel=1e-6)


def spent(method: Trainable, model: PreTrainedModel, pool: Pool) -> float:
    if isinstance(method, TrainedDefence):
        around = moved_original("qwen3")
        if isinstance(method, TuneDefence):
            return tune(method, model, tiny.encoder(), customer(), pool, seed=0).flops
        return harden(method, model, tiny.encoder(), pool, seed=0, sources=around).flops
    assert isinstance(method, FineTuning | TrainedAttack)
    found: list[float] = []
    points: Sequence[float] = [float(LOOP.steps * LOOP.batch)]
    attack(
        method,
        model,
        tiny.encoder(),
        pool,
        seed=0,
        points=points,
        on_point=lambda _, info: found.append(info.flops),
        sources=moved_original("qwen3"),
    )
    return found[-1]
