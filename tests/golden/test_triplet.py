"""Triplet against numbers worked by hand, a float64 twin and what must hold of it."""

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
from holdfast.defences.triplet import (
    Start,
    Triplet,
    benign_triplet,
    centre_of,
    distance,
    harmful_triplet,
)
from holdfast.errors import ConfigError, DataError
from holdfast.nn.adapter import lora
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden

FULL = Loop(steps=4, batch=4, lr=0.01)
FIELD = LoRA(rank=2, alpha=4.0)
METRICS = (("cosine", "cosine"), ("l2", "l2"), ("l2", "cosine"))
ROLES = (Role.HARMFUL, Role.BENIGN, Role.REFUSAL)
RELEASED = {name: value for name, value in Triplet.presets["released"].items() if name != "loop"}


def method(**fields: Any) -> Triplet:
    own = {"loop": FULL, "benign_layers": (2, 3), "harmful_layers": (2, 3)}
    return Triplet.model_validate(own | fields)


def part(bos: bool = False, n: int = 2) -> dict[Role, Tokens]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)
    return {role: encoder.batch(rows[role][-n:]) for role in ROLES}


def started(of: Triplet, model: Any) -> Start:
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


def gradient(of: Triplet, model: Any, state: Start, given: dict[Role, Tokens]) -> Any:
    return nn.grad(nn.trainable(model), lambda p: of.loss(model, p, state), [given])


# ---- the equations


def test_distances_worked_by_hand() -> None:
    """1 - 24/25 and |(-1, 1)| = sqrt 2; opposite vectors are at 2, whatever their lengths."""
    one, other = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-7.0, 0.0]])
    torch.testing.assert_close(distance(one, other, "cosine"), torch.tensor([0.04, 2.0]))
    torch.testing.assert_close(distance(one, other, "l2"), torch.tensor([2**0.5, 8.0]))


def test_both_triplets_worked_by_hand() -> None:
    """In l2: new (0, 0), old (3, 4), c (0, 2). Benign 5 - 2 + m, harmful 2 - 5 + m, cut at 0."""
    new, old, c = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 2.0])
    both = ("l2", "l2")
    assert benign_triplet(new, old, c, 1.0, both).item() == 4.0
    assert benign_triplet(new, old, c, 0.0, both).item() == 3.0
    assert harmful_triplet(new, old, c, 4.0, both).item() == 1.0
    assert harmful_triplet(new, old, c, 2.0, both).item() == 0.0


def test_each_distance_of_a_triplet_has_its_metric() -> None:
    """New (3, 4), old (3, 0), c (0, 5): to old l2 4, cosine 0.4; to c l2 sqrt 10, cosine 0.2."""
    new, old, c = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([0.0, 5.0])
    assert benign_triplet(new, old, c, 2.0, ("l2", "cosine")).item() == pytest.approx(5.8)
    assert benign_triplet(new, old, c, 4.0, ("cosine", "l2")).item() == pytest.approx(4.4 - 10**0.5)
    assert harmful_triplet(new, old, c, 3.0, ("cosine", "cosine")).item() == pytest.approx(2.8)
    assert harmful_triplet(new, old, c, 5.0, ("cosine", "l2")).item() == pytest.approx(1.2)


def test_the_centre_is_the_mean_over_tokens_and_carries_a_gradient() -> None:
    h = torch.tensor([[1.0, 2.0], [3.0, 6.0]], requires_grad=True)
    c = centre_of(h)
    assert c.tolist() == [2.0, 4.0]
    assert torch.autograd.grad(c.sum(), h)[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


# ---- the objective


def twin_states(of: Triplet, model: Any, row: Row) -> tuple[Tensor, Tensor]:
    """Give layers 1 to L of one row alone [L, T, H], the last before the norm unless `final_norm`,
    and the logits [T, V], in float64.
    """
    raw: list[Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda _m, _i, o: raw.append((o[0] if isinstance(o, tuple) else o)[0])
        )
        for block in model.model.layers
    ]
    logits = model(torch.tensor([row.ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    if of.final_norm:
        raw[-1] = model.model.norm(raw[-1])
    return torch.stack(raw).double(), logits.double()


def twin_distance(a: Tensor, b: Tensor, metric: str) -> Tensor:
    if metric == "l2":
        return (a - b).square().sum().sqrt()
    return 1 - (a @ b) / (a.norm() * b.norm())


def twin_triplets(of: Triplet, new: Any, old: Any, given: dict[Role, Tokens]) -> Tensor:
    """Write both triplets out token by token: every layer, role and row alone."""
    depth = len(next(iter(new.values()))[0])
    sums: dict[str, list[Tensor]] = {"harmful": [], "safe": [], "weights": []}
    for k in range(1, depth + 1):
        states = [
            new[row][0][k - 1, t]
            for row in given[Role.HARMFUL].rows
            for t in range(row.start, len(row.ids))
        ]
        c = torch.stack(states).mean(0)
        for role, tokens in given.items():
            harmful = role is Role.HARMFUL
            inside = of.harmful_layers if harmful else of.benign_layers
            metrics = of.harmful_metrics[::-1] if harmful else of.benign_metrics
            if not inside[0] <= k <= (depth if inside[1] == 1.0 else inside[1]):
                continue
            for row in tokens.rows:
                for t in range(row.start, len(row.ids)):
                    h, h_0 = new[row][0][k - 1, t], old[row][0][k - 1, t]
                    back = twin_distance(h, h_0, metrics[0])
                    there = twin_distance(h, c, metrics[1])
                    if harmful:
                        sums["harmful"].append((there - back + of.harmful_margin).clamp(min=0))
                        continue
                    weight = 1.0 if role is Role.BENIGN else of.refusal_weight
                    sums["safe"].append(weight * (back - there + of.benign_margin).clamp(min=0))
                    sums["weights"].append(torch.tensor(weight))
    safe = torch.stack(sums["safe"]).sum() / torch.stack(sums["weights"]).sum()
    return of.harmful_weight * torch.stack(sums["harmful"]).mean() + of.benign_weight * safe


def twin(of: Triplet, model: Any, old: dict[Row, Any], given: dict[Role, Tokens]) -> Tensor:
    new = {row: twin_states(of, model, row) for tokens in given.values() for row in tokens.rows}
    heat, apart = of.kl_temperature, []
    for row in given[Role.BENIGN].rows:
        p, q = ((side[row][1] / heat).log_softmax(-1) for side in (old, new))
        each = (p.exp() * (p - q)).sum(-1)
        apart.append(each if of.kl_tokens == "all" else each[row.start - 1 : -1])
    kl = torch.cat(apart).mean()
    if of.kl_reduce == "sum":
        kl = torch.stack([each.sum() for each in apart]).mean()
    return twin_triplets(of, new, old, given) + of.kl_weight * heat**2 * kl


@pytest.mark.parametrize(
    ("family", "bos", "how"),
    [
        ("qwen3", False, {"refusal_weight": 0.5}),
        ("llama", True, {"benign_metrics": ("l2", "l2"), "harmful_metrics": ("l2", "l2")}),
        ("llama", False, RELEASED | {"harmful_layers": (2, 3)}),
        ("qwen3", False, RELEASED | {"harmful_layers": (2, 3), "kl_tokens": "response"}),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("under_lora", [False, True])
def test_value_and_gradient_equal_the_twin(
    family: str, bos: bool, how: dict[str, Any], under_lora: bool, packed: bool
) -> None:
    of = method(**how, **({"loop": FULL.with_(lora=FIELD)} if under_lora else {}))
    model, start = moved(family)
    start = model if under_lora else start
    given = part(bos)
    rows = {row for tokens in given.values() for row in tokens.rows}
    with torch.no_grad():
        old = {row: twin_states(of, start, row) for row in rows}
    state = started(of, start)
    around = adapted(model) if under_lora else contextlib.nullcontext(nn.trainable(model))
    with around as params:
        with nn.packed_passes(packed):
            found, terms = nn.grad(params, lambda p: of.loss(model, p, state), [given])
        value = twin(of, model, old, given)
        expected = torch.autograd.grad(value, list(params.values()), allow_unused=True)
    assert total(terms) == pytest.approx(value.item(), rel=1e-5)
    known = [torch.zeros(()) if e is None else e for e in expected]
    size = max(1.0, sum(float(e.double().square().sum()) for e in known) ** 0.5)
    for name, tensor in zip(params, known, strict=True):
        assert (found[name] - tensor).abs().max().item() <= 3e-6 * size, name


# ---- invariants


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_at_the_start_nothing_has_moved_and_no_distribution_differs(metric: Any) -> None:
    """Then the harmful term is mean d(h'_h, c) + m_h, the KL 0 and the gradient finite."""
    of, model, given = method(harmful_metrics=(metric, metric)), tiny.model(), part()
    state = started(of, model)
    found, terms = gradient(of, model, state, given)
    assert terms["kl"].sum.item() == pytest.approx(0.0, abs=1e-5)
    spans = [(row.start, len(row.ids)) for row in given[Role.HARMFUL].rows]
    with torch.no_grad():
        states, _ = nn.layer_states(model, given[Role.HARMFUL], spans, [2, 3], final_norm=False)
    spread = torch.cat([distance(h, centre_of(h), metric) for h in states]).mean()
    mean = float(terms["harmful"].sum) / terms["harmful"].count
    assert mean == pytest.approx(float(spread) + of.harmful_margin, rel=1e-5)
    assert 0 < found.norm() < float("inf")


def test_beyond_both_margins_only_the_kl_is_left() -> None:
    """Margins of 0 and a model whose benign states have not moved: relu cuts the benign term."""
    of, model, given = method(benign_margin=0.0, harmful_weight=0.0), tiny.model(), part()
    found, terms = gradient(of, model, started(of, model), given)
    assert terms["benign"].sum.item() == 0.0
    whole, _ = gradient(of.with_(harmful_weight=1.0), model, started(of, model), given)
    assert found.norm() < 1e-5 * whole.norm()


def test_the_cosine_form_does_not_see_the_length_of_states_and_l2_does() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 5, 4, generator=generator)
    c = centre_of(new)
    for metrics in METRICS:
        once = harmful_triplet(new, old, c, 0.5, metrics)
        wide = harmful_triplet(3 * new, 3 * old, 3 * c, 0.5, metrics)
        assert torch.allclose(once, wide, atol=1e-6) is (metrics == ("cosine", "cosine"))


@pytest.mark.parametrize("packed", [False, True])
def test_neither_padding_nor_the_order_of_rows_changes_anything(packed: bool) -> None:
    of, (model, start) = method(), moved()
    state, given = started(of, start), part()
    longest = Row((7,) * 90, 90, (0, 90), bos=False)
    wide = {role: collate([longest, *reversed(tokens.rows)], 0) for role, tokens in given.items()}
    with nn.packed_passes(packed):
        first, _ = gradient(of, model, state, given)
        second, _ = gradient(of, model, state, wide)
    assert second.add_(first, -1.0).norm() <= 3e-6 * first.norm()


def test_a_micro_batch_has_a_centre_of_its_own_so_that_a_split_matters() -> None:
    of, (model, start) = method(), moved()
    state, given = started(of, start), part(n=4)
    halves = [
        {role: collate(tokens.rows[i : i + 2], 0) for role, tokens in given.items()} for i in (0, 2)
    ]
    whole, _ = gradient(of, model, state, given)
    split, _ = nn.grad(nn.trainable(model), lambda p: of.loss(model, p, state), halves)
    told = {name: term.count for name, term in of.loss(model, given, state).items()}
    assert of.counts(given, state) == told
    assert split.add_(whole, -1.0).norm() > 1e-3 * whole.norm()
    assert not of.separable


def test_no_gradient_reaches_the_start() -> None:
    of, (model, start) = method(), moved()
    state = started(of, start)
    state.teacher.requires_grad_(True)
    terms = of.loss(model, part(), state)
    value = sum(term.sum for term in terms.values())
    found = torch.autograd.grad(value, list(state.teacher.parameters()), allow_unused=True)
    assert set(found) == {None}


def test_without_the_kl_no_head_and_no_later_block_is_run() -> None:
    model, meter, whole = tiny.model(), nn.FlopMeter(), nn.FlopMeter()
    early = {"benign_layers": (1, 1), "harmful_layers": (1, 2)}
    of = method(kl_weight=0.0, **early)
    state = started(of, model)
    with meter.on():
        assert set(of.loss(model, part(), state)) == {"harmful", "benign"}
    with whole.on():
        method(**early).loss(model, part(), state)
    tokens = sum(len(row.ids) for some in part().values() for row in some.rows)
    block = sum(p.numel() for p in nn.blocks(model)[0].parameters())
    assert meter.total == 2 * 2 * block * tokens * (1 + 3)
    assert whole.total > 1.5 * meter.total


@pytest.mark.parametrize(
    ("lacking", "left"),
    [
        (Role.HARMFUL, {"kl"}),
        (Role.BENIGN, {"harmful", "benign"}),
        (Role.REFUSAL, {"harmful", "benign", "kl"}),
    ],
)
def test_a_role_that_a_mixed_part_lacks_is_left_out(lacking: Role, left: set[str]) -> None:
    model = tiny.model()
    of = method()
    terms = of.loss(model, part() | {lacking: collate([], 0)}, started(of, model))
    assert set(terms) == left


def test_refusals_are_safe_rows_and_without_weight_are_not_read() -> None:
    (model, start), given, meter = moved(), part(), nn.FlopMeter()
    of = method()
    mixed = of.loss(model, given, started(of, start))
    without = of.with_(refusal_weight=0.0)
    with meter.on():
        alone = without.loss(model, given, started(of, start))
    bare = given | {Role.REFUSAL: collate([], 0)}
    less = of.loss(model, bare, started(of, start))
    assert {k: t.sum.item() for k, t in alone.items()} == {k: t.sum.item() for k, t in less.items()}
    assert alone["benign"].count == less["benign"].count < mixed["benign"].count
    assert alone["kl"].sum.item() == pytest.approx(mixed["kl"].sum.item(), rel=1e-5)
    halved = of.with_(refusal_weight=0.5).loss(model, given, started(of, start))["benign"]
    told = (alone["benign"].sum.item() + mixed["benign"].sum.item()) / 2
    assert halved.sum.item() == pytest.approx(told, rel=1e-6)
    read = sum(len(row.ids) for role in ROLES[:2] for row in given[role].rows)
    size = sum(p.numel() for block in nn.blocks(model) for p in block.parameters())
    head = model.get_output_embeddings().weight.numel()
    said = sum(len(row.ids) - row.start for row in given[Role.BENIGN].rows)
    assert meter.total == 2 * (1 + 3) * (size * read + head * said)
    assert set(of.rows(tiny.pool(), 0)) == set(ROLES)


def test_it_gathers_harmful_states_away_from_their_old_place() -> None:
    of = Triplet.model_validate(
        {
            "benign_layers": (2, 2),
            "harmful_layers": (2, 2),
            "loop": Loop(steps=15, batch=4, lr=0.03, lora=LoRA(rank=4, alpha=8.0)),
        }
    )
    model = tiny.model("llama")
    kept = {"start": tiny.weights(model)}
    run = Run(model, tiny.encoder(), tiny.pool(), 0, models=kept)
    before = of.diagnostic(run, None)
    assert before["harmful_moved"] == pytest.approx(0.0, abs=1e-6)
    assert before["harmful_margin"] == pytest.approx(-before["harmful_spread"], abs=1e-6)
    told = harden(of, model, tiny.encoder(), tiny.pool(), seed=0).diagnostics
    assert told["harmful_margin"] > before["harmful_margin"] + 0.1
    assert told["harmful_moved"] > told["benign_moved"]
    assert set(told) == {
        "harmful_margin",
        "harmful_moved",
        "harmful_spread",
        "benign_margin",
        "benign_moved",
        "refusal_margin",
        "refusal_moved",
    }
    assert (of.signal, of.moves) == ("harmful_margin", "up")
    assert of.diagnostic(run, None) == pytest.approx(told, abs=1e-6)


def test_the_diagnostic_needs_a_start_and_harmful_rows() -> None:
    run = Run(tiny.model(), tiny.encoder(), tiny.pool(), 0)
    assert method().diagnostic(run, None) == {}
    run.pool = Pool([row for some in tiny.rows(Side.DEFENDER).values() for row in some])
    assert method().diagnostic(run, None) == {}


# ---- fields and bad input


def test_it_has_the_published_numbers() -> None:
    of = Triplet()
    assert (of.benign_weight, of.harmful_weight, of.kl_weight) == (0.5, 0.4, 0.9)
    assert (of.benign_margin, of.harmful_margin) == (0.3, 0.5)
    assert of.loop == Loop(steps=1100, batch=16, lr=1e-5, lora=LoRA())
    assert started(method(benign_layers=(0.4, 1.0)), tiny.model()).benign == [1, 2, 3]
    assert (of.copies(), method().copies()) == (0, 1)


def test_the_released_layers_of_32_are_the_scripts() -> None:
    """All blocks of the safe rows, 20 to 30 of the harmful ones, an adapter up to block 31."""
    released = Triplet.model_validate({"preset": "released"})
    for ends, known in ((released.benign_layers, (1, 32)), (released.harmful_layers, (20, 30))):
        assert tuple(nn.layer_number(end, 32, "") for end in ends) == known
    assert released.loop.lora is not None
    assert nn.layer_number(released.loop.lora.through, 32, "") == 31


@pytest.mark.parametrize("name", ["benign_layers", "harmful_layers"])
@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            (1, 40),
            "layer 40 is beyond the model's 3 blocks; use 1 to 3, or a fraction of depth such as "
            "0.5",
        ),
        ((3, 0.3), "(3, 0.3) of 3 is empty; put the lower one first"),
    ],
)
def test_wrong_layers_are_told_before_training(name: str, layers: Any, text: str) -> None:
    of = method(**{name: layers})
    with pytest.raises(ConfigError) as caught:
        harden(of, tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert str(caught.value) == f"triplet.{name}: {text}"


def test_a_role_that_is_absent_is_told() -> None:
    pool = Pool(tiny.rows()[Role.HARMFUL])
    with pytest.raises(DataError) as caught:
        method().rows(pool, 0)
    assert str(caught.value).startswith(
        "triplet of role benign, side defender: no rows; add a source that has some"
    )
