"""SGT's stages end by what held-out rows say, and its units make models of any size alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Role, Side, example
from holdfast.data.pool import Pool
from holdfast.defences.sgt import SGT, SGTState, shift_unit
from holdfast.testing import tiny
from holdfast.train import harden

QUICK = {"steps": 6, "batch": 2, "lr": 0.01}


def steps(ending: dict[str, Any] | None) -> int:
    method = SGT.model_validate({"loop": QUICK, "stage1": QUICK, "ending": ending})
    return harden(method, tiny.model("llama"), tiny.encoder(), tiny.pool(), seed=0).steps


def test_a_stage_ends_where_its_bars_are_met_and_only_at_a_look() -> None:
    met = {"refused": 0.0, "refused_benign": 1.0, "benign_loss": 1e9}
    assert steps(met | {"every": 2}) == 2
    assert steps(met | {"every": 4}) == 4
    assert steps(met | {"every": 2, "benign_loss": 1e-9}) == 6
    assert steps(None) == 6


def test_the_first_stage_ends_only_when_the_triggers_loss_is_low_too() -> None:
    def taken(loss: float) -> int:
        seen: dict[str, int] = {}
        ending = {"refused": 0.0, "refused_benign": 1.0, "benign_loss": 1e9, "every": 2}
        fields = {"loop": QUICK, "stage1": QUICK, "ending": ending | {"trigger_loss": loss}}
        harden(
            SGT.model_validate(fields), tiny.model("llama"), tiny.encoder(), tiny.pool(), seed=0,
            progress=lambda part, done, _of: seen.update({part: max(done, seen.get(part, 0))}),
        )  # fmt: skip
        return seen["trigger"]

    assert taken(1e9) == 2
    assert taken(1e-9) == 6


def test_the_unit_of_a_shift_is_a_hand_worked_number() -> None:
    plain = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    target = torch.tensor([[3.0, 1.0], [1.0, 3.0], [5.0, 5.0]])
    owner = torch.tensor([0, 0, 1])
    # row 0: mean of (9 + 1) / 2 and (0 + 4) / 2; row 1 did not move: a ten-thousandth of 25
    assert shift_unit(plain, target, owner, 2).tolist() == pytest.approx([3.5, 0.0025])


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral"])
def test_before_training_every_layers_distance_is_1(
    family: str,
) -> None:
    """Eq. 2 counts in the trigger's own shift, so it starts at 1 on any model."""
    model, encoder = tiny.model(family), tiny.encoder()
    rows = tiny.rows()
    batch = {role: encoder.batch(rows[role]) for role in (Role.REFUSAL, Role.BENIGN)}
    unit = nn.embedding_size(model)
    draw = torch.Generator().manual_seed(3)
    width = model.get_input_embeddings().weight.shape[1]
    phi = unit * torch.randn(1, width, generator=draw)
    state = SGTState(phi, tiny.copied(model), encoder)
    clean, absolute = (
        SGT.model_validate(given).loss(model, batch, state)["align"]
        for given in ({}, {"preset": "absolute"})
    )
    assert clean.sum.item() / clean.count == pytest.approx(1.0, rel=1e-4)
    assert clean.weight == 1.0
    assert absolute.sum.item() / absolute.count != pytest.approx(1.0, rel=0.1)


def test_one_refusal_is_taught_and_it_is_the_commonest_of_the_rows() -> None:
    rows = [
        example(f"ask {i}", text, role=Role.REFUSAL, side=Side.DEFENDER)
        for i, text in enumerate(["no b", "no a", "no c", "no a", "no b"])
    ]
    pool = Pool(rows)
    assert pool.commonest(Role.REFUSAL, Side.DEFENDER) == "no a"  # as many as b, and before it
    assert pool.commonest(Role.BENIGN, Side.DEFENDER) is None

    def taught(**fields: Any) -> list[str | None]:
        return [row.response for row in SGT.model_validate(fields).taught(rows, pool)]

    assert taught() == ["no a"] * 5
    assert taught(one_refusal=False) == taught(preset="paper") == [row.response for row in rows]
    assert taught(refusal="never") == ["never"] * 5
    assert set(taught(refusal=["x", "y"])) <= {"x", "y"}
