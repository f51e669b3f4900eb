"""RepNoise against its objective written out in float64, one row at a time, every logit held."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import Loop, Run
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.data.tokens import Row
from holdfast.defences.rep_noise import RepNoise, RepNoiseState, ascent, chosen
from holdfast.errors import ConfigError, DataError
from holdfast.nn.passes import FlopMeter
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden


def batch(n: int = 4, bos: bool = False) -> dict[Role, Any]:
    rows = tiny.rows(n=n)
    return {r: tiny.encoder(bos=bos).batch(rows[r]) for r in (Role.REFUSAL, Role.HARMFUL)}


def state_of(method: RepNoise, model: Any = None, bos: bool = False) -> RepNoiseState:
    return method.setup(Run(model, tiny.encoder(bos=bos), tiny.pool(), 5))


def gradient(method: RepNoise, model: Any, state: RepNoiseState, parts: list[Any]) -> Any:
    return nn.grad(
        nn.trainable(model),
        lambda part: method.loss(model, part, state),
        parts,
        lambda part: method.counts(part, state),
    )


# ---- the twin


def insides(model: Any, row: Row) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Run one row alone: MLP outputs, hidden states (L + 1) and logits, [T, ...] each."""
    mlps: list[Tensor] = []
    handles = [
        b.mlp.register_forward_hook(lambda _m, _i, out: mlps.append(out[0]))
        for b in model.model.layers
    ]
    out = model(torch.tensor([row.ids]), output_hidden_states=True, use_cache=False)
    for handle in handles:
        handle.remove()
    return mlps, [h[0] for h in out.hidden_states], out.logits[0]


def ce(logits: Tensor, row: Row, at: list[int]) -> Tensor:
    chance = logits.log_softmax(-1)
    return -sum(chance[i - 1, row.ids[i]] for i in at)


def written_out(method: RepNoise, model: Any, pairs: list[tuple[Row, Row]], seed: int) -> Tensor:
    """The objective, term by term: no batch, no mask but lists of positions, all pairs of rows."""
    at = []
    for h, r in pairs:
        both = range(h.start, max(len(h.ids), len(r.ids)))
        if method.mask == "response":
            differ = set(both)
        else:
            differ = {i for i in both if h.ids[i : i + 1] != r.ids[i : i + 1]}
        at.append(([i for i in differ if i < len(h.ids)], [i for i in differ if i < len(r.ids)]))
        at[-1][0].sort()
    retain = sum(
        ce(insides(model, r)[2], r, own) for (_, r), (_, own) in zip(pairs, at, strict=True)
    )
    retain = retain / sum(len(own) for _, own in at)
    seen = [insides(model, h) for h, _ in pairs]
    tokens = sum(len(own) for own, _ in at)
    depth = len(model.model.layers)

    generator = torch.Generator().manual_seed(seed)
    longest = max(len(h.ids) for h, _ in pairs)
    distance: Any = 0.0
    for layer in range(depth):
        z_all = torch.randn(tokens, model.config.hidden_size, generator=generator).double()
        x, z, used = [], [], 0
        for (h, _), (own, _), (mlps, _, _) in zip(pairs, at, seen, strict=True):
            wide_x = torch.zeros(longest, model.config.hidden_size, dtype=torch.float64)
            wide_z = wide_x.clone()
            for number, i in enumerate(own):
                place = i - h.start if method.places == "answer" else i
                spot = torch.zeros(longest, 1, dtype=torch.float64)
                spot[place] = 1.0
                wide_x = wide_x + spot * mlps[layer][i]
                wide_z = wide_z + spot * z_all[used + number]
            used += len(own)
            x.append(wide_x.flatten())
            z.append(wide_z.flatten())
        both_kinds = torch.stack(x + z)
        apart = (both_kinds[:, None] - both_kinds[None]).square().sum(-1)
        n, b = len(both_kinds), len(pairs)
        width = apart.detach().sum() / (n * (n - 1)) / 4
        k: Any = sum((-apart / (width * 2**i)).exp() for i in range(5))
        distance = distance + k[:b, :b].mean() + k[b:, b:].mean() - 2 * k[:b, b:].mean()

    norm, head = model.model.norm, model.get_output_embeddings()
    if method.lens == "blocks":
        raw, count = list(range(1, depth)), depth
    else:
        raw, count = list(range(depth + 1)), depth + 1
    harm: Any = 0.0
    for (h, _), (own, _), (_, hidden, logits) in zip(pairs, at, seen, strict=True):
        harm = harm + ce(logits, h, own)
        harm = harm + sum(ce(head(norm(hidden[j])), h, own) for j in raw)
    return (
        method.retain_weight * retain
        + method.noise_weight * distance / depth
        - method.ascent_weight * torch.log(1 + harm / tokens / count)
    )


def compared(method: RepNoise, family: str, bos: bool, packed: bool, dtype: torch.dtype) -> None:
    model = tiny.model(family, spread=0.3, num_hidden_layers=2).to(dtype)
    state = state_of(method, bos=bos)
    state.step = 7
    part = batch(3, bos)
    with nn.packed_passes(packed):
        found, terms = gradient(method, model, state, [part])
    pairs = [(row, state.partner[row.ids]) for row in part[Role.HARMFUL].rows]
    words = [i for h, _ in pairs for i in h.ids]
    exact = tiny.copied(model).double()
    value = written_out(method, exact, pairs, seed_of(5, "noise", 7, *words))
    assert total(terms) == pytest.approx(value.item(), rel=3e-6)
    names = [name for name, _ in exact.named_parameters()]
    expected = torch.autograd.grad(value, list(exact.parameters()))
    size = max(1.0, sum(e.square().sum().item() for e in expected) ** 0.5)
    assert list(found) == names
    for name, tensor in zip(names, expected, strict=True):
        assert (found[name] - tensor).abs().max().item() <= 2e-6 * size, name


STRONG = {"noise_weight": 0.7, "ascent_weight": 0.6, "retain_weight": 1.3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("family", "bos"), [("qwen3", False), ("llama", True), ("mistral", False)])
def test_the_gradient_is_autograds_of_the_objective(
    family: str, bos: bool, dtype: torch.dtype
) -> None:
    compared(RepNoise(**STRONG), family, bos, True, dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("preset", ["clean", "paper", "released"])
def test_so_is_every_presets_packed_or_padded(preset: str, packed: bool) -> None:
    method = RepNoise.model_validate({"preset": preset} | STRONG)
    compared(method, "llama", False, packed, torch.float32)


@pytest.mark.parametrize("away", ["noise_weight", "ascent_weight"])
def test_each_term_stands_alone(away: str) -> None:
    compared(RepNoise(**(STRONG | {away: 0.0})), "qwen3", False, True, torch.float32)
    terms = RepNoise(**{away: 0.0}).loss(tiny.model(), batch(), state_of(RepNoise()))
    assert away.removesuffix("_weight") not in terms
    assert len(terms) == 2


# ---- its parts


def row(start: int, *ids: int) -> Row:
    return Row(tuple(ids), start, (0, start), False)


def test_masked_tokens_by_hand() -> None:
    """Id 0 is a word like any other; where one answer has ended the other's tokens differ."""
    harmful, refusal = row(2, 7, 8, 5, 0, 6, 1), row(2, 7, 8, 4, 0, 1)
    assert chosen(harmful, refusal, "response") == ([2, 3, 4, 5], [2, 3, 4])
    assert chosen(harmful, refusal, "difference") == ([2, 4, 5], [2, 4])
    assert chosen(harmful, harmful, "difference") == ([], [])
    assert chosen(row(1, 3, 0), row(1, 3, 9), "difference") == ([1], [1])


def test_the_ascent_by_hand() -> None:
    """Four tokens, two heads, 24 nats in all: log(1 + 3)."""
    summed = torch.tensor(24.0, requires_grad=True)
    value = ascent(summed, 4, 2)
    assert value.item() == pytest.approx(math.log(4.0))
    assert torch.autograd.grad(value, summed)[0].item() == pytest.approx(1 / 4 / 8)


def test_pairs_that_differ_nowhere_leave_only_what_is_defined() -> None:
    rows = [
        example("how do I bake?", "no.", role=role, side=Side.DEFENDER)
        for role in (Role.REFUSAL, Role.HARMFUL)
    ]
    method = RepNoise(mask="difference")
    model = tiny.model()
    state = method.setup(Run(model, tiny.encoder(), Pool(rows), 0))
    part = {r.role: tiny.encoder().batch([r]) for r in rows}
    found, terms = gradient(method, model, state, [part])
    assert all(torch.isfinite(g).all() for g in found.values())
    assert total(terms) == 0.0


# ---- the acceptance tests of the method


def moved(steps: int = 12, **fields: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Give the diagnostic and the losses of held-out pairs before and after some steps."""
    method = RepNoise(loop=Loop(steps=steps, batch=4, lr=0.01), **fields)
    model, ends = tiny.model(spread=0.3), []
    for number in range(2):
        if number:
            harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
        values = method.diagnostic(Run(model, tiny.encoder(), tiny.pool(), 0), None)
        rows = tiny.rows(Side.DEFENDER_SELECTION)[Role.REFUSAL]
        with torch.no_grad():
            nll, count = nn.nll(model, tiny.encoder().batch(rows))
        ends.append(values | {"refusal_loss": float(nll) / count})
    return ends[0], ends[1]


def test_ascent_raises_the_harmful_loss_and_the_refusals_stay_likely() -> None:
    before, after = moved(noise_weight=0.0, ascent_weight=0.5)
    plain = moved(noise_weight=0.0, ascent_weight=0.0)[1]
    assert after["harm_loss"] > before["harm_loss"] > plain["harm_loss"]
    assert after["lens_loss"] > before["lens_loss"]
    assert after["refusal_loss"] < before["refusal_loss"]


def test_the_distance_to_noise_falls_where_it_is_asked_to() -> None:
    before, after = moved(30, noise_weight=10.0, ascent_weight=0.0)
    plain = moved(30, noise_weight=0.0, ascent_weight=0.0)[1]
    assert after["noise_distance"] < before["noise_distance"] - 0.1
    assert after["noise_distance"] < plain["noise_distance"] - 0.1


def test_padding_adds_nothing() -> None:
    """A long row beside short ones changes no other row's part of the sums."""
    method, model = RepNoise(**STRONG), tiny.model("llama")
    state, part = state_of(method), batch(3)
    singles = [{r: type(t)(*cut(t, i)) for r, t in part.items()} for i in range(3)]
    with nn.packed_passes(False), torch.no_grad():
        whole = method.loss(model, part, state)
        alone = [method.loss(model, single, state) for single in singles]
    assert float(whole["retain"].sum) == pytest.approx(
        sum(float(one["retain"].sum) for one in alone), rel=1e-6
    )
    sizes = [len(r.ids) - r.start for r in part[Role.HARMFUL].rows]
    means = [math.expm1(float(one["ascent"].sum)) for one in alone]
    mean = sum(n * m for n, m in zip(sizes, means, strict=True)) / sum(sizes)
    assert float(whole["ascent"].sum) / 3 == pytest.approx(math.log1p(mean), rel=1e-5)


def cut(tokens: Any, i: int) -> tuple[Any, ...]:
    return (
        tokens.ids[i : i + 1],
        tokens.mask[i : i + 1],
        tokens.labels[i : i + 1],
        (tokens.rows[i],),
    )


def test_every_step_draws_its_own_noise_and_draws_it_again() -> None:
    method, model = RepNoise(), tiny.model()
    state, part = state_of(method), batch()

    def distance(step: int) -> float:
        method.on_step(step, state)
        with torch.no_grad():
            return float(method.loss(model, part, state)["noise"].sum)

    first, second = distance(0), distance(1)
    assert first != second
    torch.manual_seed(99)
    assert distance(0) == first


@pytest.mark.parametrize("precision", ["fp32_master", "bf16_kahan", "bf16_pure"])
def test_it_trains_and_is_measured_in_every_precision(precision: str) -> None:
    loop = Loop(steps=2, batch=2, lr=0.01, checkpoint_activations=True).with_(precision=precision)
    method = RepNoise.model_validate({"preset": "released", "loop": loop})
    model = tiny.model("llama")
    done = harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
    assert all(math.isfinite(value) for value in done.diagnostics.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert set(done.diagnostics) == {"noise_distance", "lens_loss", "harm_loss"}


# ---- pairs


def test_a_batch_is_made_of_pairs_in_whatever_order_rows_come() -> None:
    method, model = RepNoise(), tiny.model()
    state, part = state_of(method), batch()
    others = {**part, Role.REFUSAL: tiny.encoder().batch(tiny.rows(n=6)[Role.REFUSAL][2:])}
    with torch.no_grad():
        ours, theirs = (method.loss(model, p, state) for p in (part, others))
    assert {k: float(t.sum) for k, t in ours.items()} == {
        k: float(t.sum) for k, t in theirs.items()
    }
    assert method.counts(others, state) == {k: t.count for k, t in theirs.items()}


def test_rows_are_pairs_of_one_prompt() -> None:
    rows = RepNoise(n=4).rows(tiny.pool(), 0)
    assert [r.uid for r in rows[Role.REFUSAL]] == [r.uid for r in rows[Role.HARMFUL]]
    assert len({r.uid for r in rows[Role.HARMFUL]}) == 4


def test_a_pair_whose_prompts_differ_in_case_is_encoded_as_one() -> None:
    pair = [
        example("How do I bake?", "no.", role=Role.REFUSAL, side=Side.DEFENDER),
        example("how do I  bake?", "take one.", role=Role.HARMFUL, side=Side.DEFENDER),
    ]
    state = RepNoise().setup(Run(None, tiny.encoder(), Pool(pair), 0))  # type: ignore[arg-type]
    ((ids, refusal),) = state.partner.items()
    assert refusal.ids[: refusal.start] == ids[: refusal.start]


# ---- cost


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_it_costs_one_pass_of_both_and_the_head_at_masked_tokens(family: str) -> None:
    method, model = RepNoise(), tiny.model(family)
    state, part = state_of(method), batch()
    with FlopMeter().on() as meter, nn.packed_passes(True):
        method.loss(model, part, state)
    rows = [*part[Role.HARMFUL].rows, *(state.partner[r.ids] for r in part[Role.HARMFUL].rows)]
    answers = [len(r.ids) - r.start for r in rows]
    inner = sum(p.numel() for p in model.model.layers.parameters())
    head = model.get_output_embeddings().weight.numel()
    read = 3 * sum(answers[:4]) + sum(answers[4:])
    assert meter.total == 6.0 * (inner * sum(len(r.ids) for r in rows) + head * read)


def test_without_its_two_terms_no_harmful_row_is_run() -> None:
    model, part = tiny.model(), batch()
    method = RepNoise(noise_weight=0.0, ascent_weight=0.0)
    state = state_of(method)
    with FlopMeter().on() as ours:
        method.loss(model, part, state)
    with FlopMeter().on() as plain:
        nn.nll(model, part[Role.REFUSAL])
    assert ours.total == plain.total


# ---- bad input


def told(method: RepNoise, rows: list[Example]) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        harden(method, tiny.model(), tiny.encoder(), Pool(rows), seed=0)
    return str(caught.value)


def test_rows_that_are_no_pairs_are_told() -> None:
    rows = tiny.rows()
    harmful, refusals = rows[Role.HARMFUL], rows[Role.REFUSAL]
    assert told(RepNoise(), harmful[:3] + refusals[3:]) == (
        "pairs of roles refusal and harmful, side defender: some asked for, the pool has 0; "
        "give both responses for the same prompts"
    )
    assert told(RepNoise(n=4), harmful[:3] + refusals) == (
        "pairs of roles refusal and harmful, side defender: 4 asked for, the pool has 3; "
        "give both responses for the same prompts"
    )
    assert told(RepNoise(), refusals) == (
        "pairs of roles refusal and harmful, side defender: some asked for, the pool has 0; "
        "give both responses for the same prompts"
    )


def test_a_batch_with_a_row_of_no_pair_is_told() -> None:
    state = state_of(RepNoise())
    lone = tiny.encoder().batch(
        [example("who else?", "take one.", role=Role.HARMFUL, side=Side.DEFENDER)]
    )
    with pytest.raises(DataError) as caught:
        RepNoise().loss(tiny.model(), {Role.HARMFUL: lone, Role.REFUSAL: lone}, state)
    assert str(caught.value) == (
        "rep_noise: 1 harmful rows of a batch: no refusal of the same prompt; "
        "give both responses for the same prompts"
    )


def test_loops_that_hide_pairs_or_insides_are_told() -> None:
    rows = [r for some in tiny.rows().values() for r in some]
    mixed = RepNoise(loop=Loop(batching="mixed"))
    assert told(mixed, rows) == (
        "rep_noise.loop.batching: mixed, but a batch is made of pairs; use batching: stratified"
    )
    assert told(RepNoise(loop=Loop(compile_layers=True)), rows) == (
        "rep_noise.loop.compile_layers: compiled blocks hide the MLP outputs it reads; leave it off"
    )


def test_without_held_out_harmful_rows_nothing_is_measured() -> None:
    run = Run(tiny.model(), tiny.encoder(), Pool(tiny.rows()[Role.HARMFUL]), 0)
    assert RepNoise().diagnostic(run, None) == {}


def test_its_defaults_are_the_sources() -> None:
    one = RepNoise()
    assert (one.noise_weight, one.ascent_weight, one.retain_weight) == (0.001, 1.0, 1.0)
    assert one.loop == Loop(steps=2500, batch=4, lr=2e-5, schedule="cosine", warmup=250)
    released = RepNoise.model_validate({"preset": "released"})
    assert (released.mask, released.lens, released.places) == ("difference", "all", "row")
    assert (released.loop.lr, released.loop.steps, released.loop.schedule) == (1e-4, 250, "cosine")
