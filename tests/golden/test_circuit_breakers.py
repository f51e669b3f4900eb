"""Circuit breakers against numbers worked by hand, a float64 twin and its acceptance tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import Loop, LoRA, Run
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Row, Tokens, collate
from holdfast.defences.circuit_breakers import (
    CircuitBreakers,
    Rerouted,
    coefficients,
    cosine,
    rerouting,
    retention,
    turned,
)
from holdfast.errors import ConfigError, DataError
from holdfast.nn.adapter import lora
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden

ROLES = (Role.HARMFUL, Role.BENIGN, Role.REFUSAL)
FULL = Loop(steps=4, batch=4, lr=0.01)
FIELD = LoRA(rank=2, alpha=4.0)


def method(**fields: Any) -> CircuitBreakers:
    return CircuitBreakers.model_validate({"loop": FULL, "layers": (1, 2)} | fields)


def step(cuts: int = 4, bos: bool = False) -> list[dict[Role, Tokens]]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)
    return [
        {role: encoder.batch(rows[role][i : i + cuts]) for role in ROLES} for i in range(0, 4, cuts)
    ]


def started(of: CircuitBreakers, model: Any) -> Rerouted:
    return of.setup(Run(model, tiny.encoder(), tiny.pool(), 0))


def moved(family: str = "qwen3", spread: float = 0.05) -> tuple[Any, Any]:
    """Give a model and the one it started as."""
    start = tiny.model(family, spread=0.3)
    model, generator = tiny.copied(start), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(spread * torch.randn(p.shape, generator=generator))
    return model, start


@contextlib.contextmanager
def adapted(model: Any) -> Iterator[dict[str, Tensor]]:
    """Put a filled adapter on the model; afterwards the weights are as they were."""
    before, generator = tiny.weights(model), torch.Generator().manual_seed(2)
    with lora(model, FIELD, 0) as params:
        with torch.no_grad():
            for p in params.values():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        yield params
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])


def gradient(of: CircuitBreakers, model: Any, params: Any, parts: Any, state: Any) -> Any:
    return nn.grad(params, lambda p: of.loss(model, p, state), parts, lambda p: of.counts(p, state))


# ---- the equations


def test_the_terms_worked_by_hand() -> None:
    """cos((3, 4), (4, 3)) = 24/25; against (-4, -3) it is -24/25; |(3, 4) - (0, 0)| = 5."""
    new = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    old = torch.tensor([[4.0, 3.0], [-4.0, -3.0], [-4.0, 3.0]])
    torch.testing.assert_close(cosine(new, old), torch.tensor([0.96, -0.96, 0.0]))
    torch.testing.assert_close(rerouting(new, old), torch.tensor([0.96, 0.0, 0.0]))
    found = retention(new, torch.zeros(3, 2))
    torch.testing.assert_close(found, torch.tensor([5.0, 5.0, 5.0]))


def test_the_schedule_worked_by_hand() -> None:
    """150 steps at alpha 10: p runs from 0 to 149/300."""
    assert coefficients(0, 150, 10.0) == (10.0, 0.0)
    assert coefficients(75, 150, 10.0) == (7.5, 2.5)
    assert coefficients(149, 150, 10.0) == pytest.approx((10 * 151 / 300, 10 * 149 / 300))
    assert coefficients(15, 150, 10.0, floor=0.2) == (9.5, 2.0)
    assert coefficients(75, 150, 10.0, floor=0.2) == (7.5, 2.5)


def test_each_step_has_its_coefficients() -> None:
    of = method(alpha=8.0, floor=0.1)
    state = started(of, tiny.model())
    assert (state.c_s, state.c_r) == pytest.approx((8.0, 0.8))
    of.on_step(2, state)
    assert (state.c_s, state.c_r) == (6.0, 2.0)


def test_the_released_trainers_count_a_step_before_they_read_the_schedule() -> None:
    """Of 4 steps the first has p = 1/8: c_r starts at alpha / 2T, not at 0."""
    first = method(alpha=8.0, first_step=1)
    state = started(first, tiny.model())
    assert (state.c_s, state.c_r) == (7.0, 1.0)
    first.on_step(2, state)
    assert (state.c_s, state.c_r) == (5.0, 3.0)
    assert "first_step" not in method().key_fields()


def test_past_a_right_angle_there_is_no_gradient() -> None:
    new = torch.tensor([[-1.0, 0.2]], requires_grad=True)
    value = rerouting(new, torch.tensor([[1.0, 0.0]])).sum()
    assert value.item() == 0.0
    assert torch.autograd.grad(value, new)[0].abs().max() == 0.0


def test_states_that_are_equal_give_no_retention_and_no_gradient() -> None:
    new = torch.tensor([[1.0, 2.0]], requires_grad=True)
    value = retention(new, new.detach()).sum()
    assert value.item() == 0.0
    assert torch.autograd.grad(value, new)[0].abs().max() == 0.0


def test_a_turned_reference_is_at_the_angle_asked_for() -> None:
    """(2, 0) turned by 0.5 towards (0, 1) is (2, 1)."""
    found = turned(torch.tensor([[2.0, 0.0]]), torch.tensor([0.0, 1.0]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0]]))


# ---- the objective


def twin_states(model: Any, row: Row) -> Tensor:
    """Give layers 1 to L of one row alone, [L, T, H], in float64."""
    out = model(torch.tensor([row.ids]), output_hidden_states=True, use_cache=False)
    return torch.stack([h[0].double() for h in out.hidden_states[1:]])


def twin(
    of: CircuitBreakers,
    model: Any,
    old: dict[Row, Tensor],
    parts: list[dict[Role, Tokens]],
    c: tuple[float, float],
    directions: dict[int, Tensor],
) -> Tensor:
    """c_s mean relu(cos) over layers and harmful tokens + c_r mean |.|_2 over retained ones."""
    turns: list[Tensor] = []
    held: list[Tensor] = []
    weights: list[float] = []
    for part in parts:
        for role, tokens in part.items():
            for row in tokens.rows:
                new = twin_states(model, row)
                first = row.start if role is Role.HARMFUL else int(row.bos)
                for t in range(first, len(row.ids)):
                    if role is not Role.HARMFUL:
                        held += list((new[:, t] - old[row][:, t]).square().sum(-1).sqrt())
                        w = of.refusal_weight if role is Role.REFUSAL else 1.0
                        weights += [w] * len(new)
                        continue
                    for k, way in directions.items():
                        u, v = new[k - 1, t], old[row][k - 1, t]
                        v = v + of.turn * v.norm() * way.double()
                        turns.append(((u @ v) / (u.norm() * v.norm())).clamp(min=0))
    retained = sum(w * d for w, d in zip(weights, held, strict=True)) / sum(weights)
    return c[0] * sum(turns) / len(turns) + c[1] * retained


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("under_lora", [False, True])
@pytest.mark.parametrize(("family", "bos"), [("qwen3", False), ("llama", True)])
def test_value_and_gradient_equal_the_twin(
    family: str, bos: bool, under_lora: bool, packed: bool
) -> None:
    of = method(
        refusal_weight=0.5, turn=0.1, **({"loop": FULL.with_(lora=FIELD)} if under_lora else {})
    )
    model, start = moved(family)
    parts = step(2, bos)[:1]
    rows = {row for part in parts for tokens in part.values() for row in tokens.rows}
    if under_lora:
        start = model
    with torch.no_grad():
        old = {row: twin_states(start, row) for row in rows}
    state = started(of, start)
    of.on_step(3, state)
    with adapted(model) if under_lora else contextlib.nullcontext(nn.trainable(model)) as params:
        with nn.packed_passes(packed):
            found, terms = gradient(of, model, params, parts, state)
        value = twin(of, model, old, parts, (state.c_s, state.c_r), state.directions)
        expected = torch.autograd.grad(value, list(params.values()), allow_unused=True)
    assert total(terms) == pytest.approx(value.item(), rel=1e-5)
    known = [torch.zeros(()) if e is None else e for e in expected]
    size = max(1.0, sum(float(e.double().square().sum()) for e in known) ** 0.5)
    for name, tensor in zip(params, known, strict=True):
        assert (found[name] - tensor).abs().max().item() <= 3e-6 * size, name


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_is_the_same_in_1_2_or_4_parts(packed: bool) -> None:
    of, (model, start) = method(refusal_weight=0.3), moved()
    state = started(of, start)
    of.on_step(2, state)
    params = nn.trainable(model)
    with nn.packed_passes(packed):
        whole, _ = gradient(of, model, params, step(), state)
        for cuts in (2, 1):
            split, _ = gradient(of, model, params, step(cuts), state)
            assert split.add_(whole, -1.0).norm() <= 2e-6 * whole.norm()


def test_padding_changes_nothing() -> None:
    """A row ten times as long beside them, all of it prompt, adds padding and no token."""
    of, (model, start) = method(retain_tokens="response"), moved()
    state = started(of, start)
    of.on_step(2, state)
    params, part = nn.trainable(model), step()[0]
    longest = Row((7,) * 90, 90, (0, 90), bos=False)
    wide = {role: collate([*tokens.rows, longest], 0) for role, tokens in part.items()}
    first, _ = gradient(of, model, params, [part], state)
    second, _ = gradient(of, model, params, [wide], state)
    assert second.add_(first, -1.0).norm() <= 2e-6 * first.norm()


@pytest.mark.parametrize("where", ["harmful", "benign"])
def test_a_role_that_a_mixed_part_lacks_is_left_out(where: str) -> None:
    of, (model, start) = method(refusal_weight=0.0), moved()
    part = step()[0] | {Role(where): collate([], 0)}
    terms = of.loss(model, part, started(of, start))
    assert set(terms) == {"reroute", "retain"} - {"reroute" if where == "harmful" else "retain"}


# ---- the acceptance tests


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("under_lora", [False, True])
def test_at_step_0_nothing_is_retained_and_all_is_to_be_rerouted(
    under_lora: bool, packed: bool
) -> None:
    of = method(floor=0.5, **({"loop": FULL.with_(lora=FIELD)} if under_lora else {}))
    model = tiny.model()
    state = started(of, model)
    around = lora(model, FIELD, 0) if under_lora else contextlib.nullcontext(None)
    with around as params, nn.packed_passes(packed):
        params = params or nn.trainable(model)
        found, terms = gradient(of, model, params, step(), state)
    assert terms["retain"].sum.item() == 0.0
    turned = of.turn**2 / 2 + 16 * tiny.ROUNDING  # 1 - cos of the turn, and rounding
    assert float(terms["reroute"].sum) / terms["reroute"].count == pytest.approx(1.0, abs=turned)
    assert (terms["reroute"].weight, terms["retain"].weight) == (10.0, 5.0)
    assert 0 < found.norm() < float("inf")


def test_only_a_turned_reference_lets_training_leave_its_start() -> None:
    model = tiny.model()
    norms = []
    for turn in (0.0, 0.01, 0.02):
        of = method(turn=turn)
        norms.append(gradient(of, model, nn.trainable(model), step(), started(of, model))[0].norm())
    assert norms[0] < 1e-3 * norms[1]
    assert norms[2] == pytest.approx(2 * norms[1], rel=1e-2)


def test_with_its_adapter_off_the_model_is_the_start_throughout() -> None:
    of, model = method(loop=FULL.with_(lora=FIELD)), tiny.model()
    tokens = step()[0][Role.HARMFUL]
    with torch.no_grad():
        before = model(tokens.ids, attention_mask=tokens.mask).logits
        state = started(of, model)
        with adapted(model), nn.without_adapter(state.teacher) as teacher:
            assert torch.equal(teacher(tokens.ids, attention_mask=tokens.mask).logits, before)
    assert of.copies() == 0
    assert method().copies() == 1


def test_rerouting_reaches_no_block_behind_its_last_layer() -> None:
    of, (model, start) = method(layers=(1, 2)), moved()
    part, params = step()[0], nn.trainable(model)
    terms = of.loss(model, part, started(of, start))
    found = torch.autograd.grad(terms["reroute"].sum, list(params.values()), allow_unused=True)
    reached = {
        name.split(".")[2]
        for name, g in zip(params, found, strict=True)
        if g is not None and ".layers." in name
    }
    assert reached == {"0", "1"}


def test_it_turns_harmful_states_and_leaves_benign_ones() -> None:
    of = CircuitBreakers.model_validate(
        {"layers": (1, 2), "loop": Loop(steps=15, batch=4, lr=0.04, lora=LoRA(rank=4, alpha=8.0))}
    )
    model, kept = tiny.model("llama"), {}
    kept["start"] = tiny.weights(model)
    told = harden(of, model, tiny.encoder(), tiny.pool(), seed=0).diagnostics
    assert told["cosine_harmful"] < 0.8
    assert told["cosine_benign"] > told["cosine_harmful"]
    assert set(told) == {
        "cosine_harmful",
        "cosine_harmful_layer_01",
        "cosine_harmful_layer_02",
        "cosine_benign",
        "drift_benign",
    }
    assert (of.signal, of.moves) == ("cosine_harmful", "down")
    run = Run(model, tiny.encoder(), tiny.pool(), 0, models=kept)
    after = tiny.weights(model)
    assert of.diagnostic(run, None) == pytest.approx(told)
    assert tiny.same(tiny.weights(model), after)


def test_the_diagnostic_of_an_untouched_model_is_1_and_needs_a_start() -> None:
    model = tiny.model()
    run = Run(model, tiny.encoder(), tiny.pool(), 0, models={"start": tiny.weights(model)})
    told = method().diagnostic(run, None)
    assert told["cosine_harmful"] == pytest.approx(1.0, abs=1e-6)
    assert told["drift_benign"] == 0.0
    run.models = {}
    assert method().diagnostic(run, None) == {}
    run.pool = Pool([row for some in tiny.rows(Side.DEFENDER).values() for row in some])
    assert method().diagnostic(run, None) == {}


# ---- fields and bad input


def test_it_has_the_published_numbers() -> None:
    of = CircuitBreakers()
    assert (of.alpha, of.layers, of.floor) == (10.0, (10 / 32, 20 / 32), 0.0)
    assert of.loop == Loop(steps=150, batch=16, lr=1e-4, lora=LoRA(through=0.625))
    assert of.starts_from == "aligned"


def test_layers_are_fractions_or_numbers() -> None:
    assert started(method(layers=(0.3125, 0.625, 3)), tiny.model()).layers == [1, 2, 3]
    assert started(method(), tiny.model()).retained == [1, 2, 3]
    assert started(method(retained_layers=(1.0,)), tiny.model()).retained == [3]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"layers": (1, 40)},
            "circuit_breakers.layers: layer 40 is beyond the model's 3 blocks; use 1 to 3, or a "
            "fraction of depth such as 0.5",
        ),
        (
            {"retained_layers": (4,)},
            "circuit_breakers.retained_layers: layer 4 is beyond the model's 3 blocks; use 1 to 3, "
            "or a fraction of depth such as 0.5",
        ),
        ({"layers": ()}, "circuit_breakers.layers: no layers; give at least one"),
    ],
)
def test_wrong_layers_are_told_before_training(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        harden(method(**fields), tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert str(caught.value) == text


def test_a_role_that_is_absent_is_told() -> None:
    pool = Pool([row for role in (Role.HARMFUL, Role.BENIGN) for row in tiny.rows()[role]])
    with pytest.raises(DataError) as caught:
        method().rows(pool, 0)
    assert str(caught.value).startswith(
        "circuit_breakers of role refusal, side defender: no rows; add a source that has some"
    )
