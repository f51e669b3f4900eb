"""TAR's gradient against a float64 twin, and what must hold whatever the numbers."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from holdfast import nn
from holdfast.api import Loop, LoRA, Loss, LossDefence, Run, Term
from holdfast.api import seed as seed_of
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.defences.tar import TAR, Simulated, TARState, dpo, drift, share
from holdfast.errors import ConfigError, DataError, TrainingError
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden

LOOP = Loop(steps=4, batch=4, lr=0.003)
SHORT = {"steps": 3, "every": 2, "decay": 0.5, "rates": (0.01,), "batch": 6}


def made(**fields: Any) -> TAR:
    """Make a short one; `attack` is laid over `SHORT`."""
    attack = Simulated.model_validate(SHORT | fields.pop("attack", {}))
    return TAR.model_validate({"loop": LOOP, "attack": attack} | fields)


def step(cuts: int = 4, bos: bool = False, left: bool = False) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)
    return {
        role: [encoder.batch(rows[role][i : i + cuts], left=left) for i in range(0, 4, cuts)]
        for role in (Role.REFUSAL, Role.HARMFUL, Role.BENIGN)
    }


def set_up(method: TAR, model: Any, bos: bool = False, away: float = 0.05) -> TARState:
    """Set up, then move the model from where it started, so that no distance is 0."""
    state = method.setup(Run(model, tiny.encoder(bos=bos), tiny.pool(), 0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(away * torch.randn(p.shape, generator=generator).to(p.dtype))
    return state


def close(found: Any, expected: Any, bound: float = 1e-6) -> None:
    size = max(1.0, sum(e.double().square().sum().item() for e in expected.values()) ** 0.5)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max().item() <= bound * size, name


# ---- each equation


def test_preference_worked_by_hand() -> None:
    """-log sigmoid(0.1 (-1 + 2 - 0.5)) = log(1 + exp(-0.05))."""
    values = (torch.tensor([x], dtype=torch.float64) for x in (-1.0, -2.0, 0.5))
    assert dpo(*values, beta=0.1).item() == pytest.approx(0.6684596, abs=1e-7)


def test_drift_worked_by_hand_and_flat_where_nothing_moved() -> None:
    """|(3, 4)| = 5 with slope (0.6, 0.8); between equal states there is no direction."""
    student = torch.tensor([[4.0, 4.0], [1.0, 0.0]], requires_grad=True)
    apart = drift(student, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert apart.tolist() == [5.0, 0.0]
    apart.sum().backward()
    torch.testing.assert_close(student.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_the_papers_weights_of_inner_steps() -> None:
    """Every 4th of 64 with 0.0625: sum 4.44, the last 1 (by hand)."""
    weights = [share(k, 64, 0.0625) for k in range(64) if (63 - k) % 4 == 0]
    assert len(weights) == 16
    assert weights[-1] == 1.0
    assert sum(weights) == pytest.approx(4.44, abs=0.005)


# ---- the whole gradient


def chances(model: Any, params: dict[str, Tensor], row: Any) -> Tensor:
    arguments = (torch.tensor([row.ids]),)
    logits = functional_call(model, params, arguments, {"use_cache": False}).logits
    return logits[0].double().log_softmax(-1)


def answer(model: Any, params: dict[str, Tensor], row: Any) -> Tensor:
    """Give log p of each response token of a row."""
    log = chances(model, params, row)
    return torch.stack([log[i - 1, row.ids[i]] for i in range(row.start, len(row.ids))])


def twin(method: TAR, model: Any, state: TARState, parts: dict[Role, list[Tokens]]) -> Any:
    """Give the gradient written from the maths, one row at a time, without padding."""
    how = method.attack
    weights = {n: p.detach().clone().requires_grad_(True) for n, p in model.named_parameters()}
    held = {n: p.detach() for n, p in state.reference.named_parameters()}
    harmful, _, benign = (
        [row for tokens in parts[role] for row in tokens.rows]
        for role in (Role.HARMFUL, Role.REFUSAL, Role.BENIGN)
    )

    def slopes(value: Tensor, at: dict[str, Tensor]) -> dict[str, Tensor]:
        found = torch.autograd.grad(value, list(at.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(at.items(), found, strict=True)
        }

    def resistance(at: dict[str, Tensor]) -> Tensor:
        if method.tamper_loss == "entropy":
            each = []
            for row in harmful:
                log = chances(model, at, row)
                first = 0 if method.entropy_at == "all" else row.start - 1
                last = len(row.ids) if method.entropy_at == "all" else len(row.ids) - 1
                each += [(log[i].exp() * log[i]).sum() for i in range(first, last)]
            return sum(each) / len(each)
        each = []
        for row in harmful:
            other = state.refusal[row.ids]
            now = answer(model, at, other).sum() - answer(model, at, row).sum()
            then = answer(model, held, other).sum() - answer(model, held, row).sum()
            each.append(torch.log1p(torch.exp(-method.beta * (now - then))))
        return sum(each) / len(each)

    result = {name: torch.zeros_like(p) for name, p in weights.items()}
    value = 0.0
    walking = {name: p.detach().clone() for name, p in weights.items()}
    leaves = [p.requires_grad_(True) for p in walking.values()]
    steps = {
        "adamw": lambda: torch.optim.AdamW(leaves, how.rates[0], weight_decay=how.weight_decay),
        "sgd": lambda: torch.optim.SGD(leaves, how.rates[0]),
    }[how.optimiser]()
    for k in range(how.steps):
        told = torch.cat([answer(model, walking, row) for row in state.harmful])
        steps.zero_grad()
        (-told.mean()).backward()
        steps.step()
        if (how.steps - 1 - k) % how.every == 0:
            s = method.tamper_weight * 2.718281828459045 ** (how.decay * (k - how.steps + 1))
            loss = resistance(walking)
            value += s * loss.item()
            for name, g in slopes(loss, walking).items():
                result[name] += s * g
    told = torch.cat([answer(model, weights, row) for row in benign])
    gaps = []
    for row in benign:
        both = [
            functional_call(
                model, at, (torch.tensor([row.ids]),), {"output_hidden_states": True}
            ).hidden_states[1:]
            for at in (weights, held)
        ]
        gaps.append(sum((a - b)[0].norm(dim=-1) for a, b in zip(*both, strict=True)) / len(both[0]))
    retain = -told.mean() + method.hidden_weight * torch.cat(gaps).mean()
    for name, g in slopes(method.retain_weight * retain, weights).items():
        result[name] += g
    return value + method.retain_weight * retain.item(), result


@pytest.mark.parametrize(
    ("family", "bos", "fields"),
    [
        ("qwen3", False, {}),
        ("llama", True, {"retain_weight": 0.5, "hidden_weight": 2.0}),
        ("llama", True, {"tamper_loss": "entropy", "attack": {"optimiser": "sgd"}}),
        ("qwen3", False, {"tamper_loss": "entropy", "entropy_at": "all"}),
    ],
)
def test_the_gradient_is_the_twins(family: str, bos: bool, fields: dict[str, Any]) -> None:
    model = tiny.model(family, num_hidden_layers=2).double()
    method = made(tamper_weight=4.0, held_out=0.0, **fields)
    state = set_up(method, model, bos)
    before = tiny.weights(model)
    found, terms = method.gradient(model, step(2, bos), state)
    assert tiny.same(tiny.weights(model), before)
    value, expected = twin(method, model, state, step(4, bos))
    assert total(terms) == pytest.approx(value, rel=1e-5)
    close(found, expected, 3e-7)


def test_one_plain_inner_step_gives_the_gradient_where_it_leads() -> None:
    """K = 1, plain descent, fp64: the buffer is grad L_TR(w - rate * grad h(w))."""
    model = tiny.model(spread=0.3, num_hidden_layers=2).double()
    method = made(
        tamper_weight=1.0,
        retain_weight=0.0,
        held_out=0.0,
        tamper_loss="entropy",
        attack={"steps": 1, "every": 1, "optimiser": "sgd", "rates": (0.1,)},
    )
    state = set_up(method, model)
    found, _ = method.gradient(model, step(), state)
    params = dict(model.named_parameters())
    told = torch.cat([answer(model, params, row) for row in state.harmful])
    harm = torch.autograd.grad(-told.mean(), list(params.values()))
    with torch.no_grad():
        for p, g in zip(params.values(), harm, strict=True):
            p.sub_(0.1 * g)
    each = []
    for row in step()[Role.HARMFUL][0].rows:
        log = chances(model, params, row)[row.start - 1 : len(row.ids) - 1]
        each.append((log.exp() * log).sum(-1))
    expected = torch.autograd.grad(torch.cat(each).mean(), list(params.values()))
    close(found, dict(zip(params, expected, strict=True)))


class Retain(LossDefence):
    """The retain part alone."""

    roles: ClassVar[tuple[str, ...]] = ("benign",)
    loop: Loop = LOOP

    def rows(self, pool: Pool, seed: int) -> Any:
        return {Role.BENIGN: TAR().rows(pool, seed)[Role.BENIGN]}

    def loss(self, model: Any, batch: Any, state: Any) -> Loss:
        value, count = nn.nll(model, batch[Role.BENIGN])
        return {"retain": Term(value, count, 1.0, "tokens")}


def test_without_weight_the_attacks_leave_no_trace() -> None:
    """The weights after 4 outer steps are a plain retain run's, bit for bit: exact restore."""
    ends = []
    for method in (made(tamper_weight=0.0, hidden_weight=0.0), Retain()):
        model = tiny.model(num_hidden_layers=2)
        harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
        ends.append(tiny.weights(model))
    assert tiny.same(*ends)


def attacked(model: Any, steps: int) -> float:
    """Attack a copy with torch's own AdamW; give the preference loss it then has."""
    model = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.003)
    rows = {role: some[:3] for role, some in tiny.rows().items()}
    batch = tiny.encoder().batch(rows[Role.HARMFUL])
    for _ in range(steps):
        value, count = nn.nll(model, batch)
        optimiser.zero_grad()
        (value / count).backward()
        optimiser.step()
    with torch.no_grad():
        sums = []
        for role in (Role.REFUSAL, Role.HARMFUL):
            values, index = nn.log_probs(model, tiny.encoder().batch(rows[role]))
            sums.append(nn.per_row(values, index, len(rows[role])))
        return float(dpo(sums[0], sums[1], torch.zeros(len(sums[0])), 0.1).mean())


def test_outer_training_shows_after_a_real_attack_of_64_steps() -> None:
    """In the objective it trains, and in its diagnostic, beside the same steps without it."""
    method = made(
        tamper_weight=4.0,
        held_out=0.0,
        attack={"steps": 2, "every": 2, "rates": (0.003, 0.01), "batch": 4},
        loop=Loop(steps=8, batch=4, lr=0.01),
    )
    plain = method.with_(tamper_weight=0.0, attack=method.attack.with_(steps=1))
    ends, found = [], []
    for one in (method, plain):
        model = tiny.model(num_hidden_layers=1)
        harden(one, model, tiny.encoder(), tiny.pool(), seed=0)
        ends.append(attacked(model, 64))
        run = Run(model, tiny.encoder(), tiny.pool(), 0)
        found.append(method.with_(attack=method.attack.with_(steps=8)).diagnostic(run, None))
    assert ends[0] < 0.8 * ends[1]
    assert found[0][TAR.signal] > found[1][TAR.signal] + 0.1
    assert found[0]["margin_after"] > found[1]["margin_after"]
    assert (TAR.signal, TAR.moves) == ("harm_loss_after", "up")


# ---- how it is split, padded, packed


@pytest.mark.parametrize("loss", ["dpo", "entropy"])
def test_a_step_is_the_same_from_4_or_2_micro_batches_as_from_1(loss: str) -> None:
    model = tiny.model(num_hidden_layers=2)
    method = made(tamper_loss=loss, tamper_weight=4.0)
    state = set_up(method, model)
    whole, terms = method.gradient(model, step(), state)
    for cuts in (1, 2):
        found, others = method.gradient(model, step(cuts), state)
        assert total(others) == pytest.approx(total(terms), rel=1e-6)
        close(found, whole)


def test_padding_and_packing_change_nothing() -> None:
    for fields in ({}, {"tamper_loss": "entropy", "entropy_at": "all"}):
        model = tiny.model("llama", num_hidden_layers=2)
        method = made(tamper_weight=4.0, **fields)
        state = set_up(method, model)
        whole, _ = method.gradient(model, step(), state)
        close(method.gradient(model, step(left=True), state)[0], whole)
        with nn.packed_passes(True):
            close(method.gradient(model, step(), state)[0], whole)


# ---- which rows attack


def test_attacks_hang_on_seed_and_step_alone() -> None:
    method = made(attack={"rates": (0.01, 0.02), "batch": 2, "switch": 0.5})
    model = tiny.model()
    state = set_up(method, model)

    def at(number: int) -> Any:
        method.on_step(number, state)
        return method.gradient(model, step(), state)[0]

    first, second = at(0), at(1)
    torch.manual_seed(7)
    assert tiny.same(at(0), first)
    assert tiny.same(at(1), second)
    assert not tiny.same(first, second)


def test_a_run_cut_short_continues_to_the_same_bits(tmp_path: Path) -> None:
    method = made(
        attack={"rates": (0.01, 0.02), "batch": 2, "switch": 0.5},
        loop=LOOP.with_(checkpoint_every=1),
    )

    def stop(_part: str, done: int, _of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole, model = tiny.model(num_hidden_layers=1), tiny.model(num_hidden_layers=1)
    harden(method, whole, tiny.encoder(), tiny.pool(), seed=0)
    with pytest.raises(KeyboardInterrupt):
        harden(method, model, tiny.encoder(), tiny.pool(), seed=0, work=tmp_path, progress=stop)
    again = tiny.model(num_hidden_layers=1)
    harden(method, again, tiny.encoder(), tiny.pool(), seed=0, work=tmp_path)
    assert tiny.same(tiny.weights(again), tiny.weights(whole))


def test_no_attack_trains_on_the_held_out_prompts() -> None:
    method = made(held_out=0.34)
    judged = method.rows(tiny.pool(), 0)
    state = set_up(method, tiny.model())
    coded = {tiny.encoder().batch([row]).rows[0].ids for row in judged[Role.HARMFUL]}
    assert len(coded) == 2
    assert len(state.harmful) == 4
    assert not coded & {row.ids for row in state.harmful}
    assert coded <= state.refusal.keys()
    both = made(held_out=0.0)
    assert len(both.rows(tiny.pool(), 0)[Role.HARMFUL]) == len(
        both.setup(Run(tiny.model(), tiny.encoder(), tiny.pool(), 0)).harmful
    )


def test_an_attack_that_switches_starts_benign_and_turns_once() -> None:
    method = made(attack={"switch": 1.0, "steps": 40, "batch": 2})
    state = set_up(method, tiny.model())
    benign, harmful = ({row.ids for row in rows} for rows in (state.benign, state.harmful))
    turns = []
    for seed in range(30):
        kinds = [
            all(row.ids in benign for row in batch.rows)
            for batch in method.batches(state.harmful, state.benign, random.Random(seed))
        ]
        turns.append(sum(kinds))
        assert kinds == sorted(kinds, reverse=True)
    assert 0.5 < sum(turns) / len(turns) / 40 < 0.8  # Beta(6, 3) has mean 2/3
    for batch in made(attack={"batch": 2}).batches(state.harmful, [], random.Random(0)):
        assert all(row.ids in harmful for row in batch.rows)
        assert len({row.ids for row in batch.rows}) == 2


def test_several_attacks_are_averaged() -> None:
    """The first of two attacks and the second, each alone, give the mean of both."""
    model = tiny.model()
    fields = {"retain_weight": 0.0, "tamper_weight": 1.0}
    method = made(**fields, attack={"rates": (0.01, 0.03), "batch": 1, "tasks": 2})
    state = set_up(method, model)
    both, terms = method.gradient(model, step(), state)
    assert set(terms) == {
        "retain",
        "hidden",
        "tamper",
        "tamper_last",
        "attack_first",
        "attack_last",
    }
    first, _ = made(**fields, attack={"rates": (0.01, 0.03), "batch": 1}).gradient(
        model, step(), state
    )
    second = both.scale_(2.0).add_(first, -1.0)
    assert second.norm() > 0
    assert second.add_(first, -1.0).norm() > 1e-3 * first.norm()


@pytest.mark.parametrize(
    ("loss", "student", "reference"), [("dpo", 4 + 2 * 2 + 1, 3), ("entropy", 4 + 2 + 1, 1)]
)
def test_it_makes_no_pass_but_those_its_cost_counts(
    loss: str, student: int, reference: int
) -> None:
    """K = 4 with 2 judgements: K + E (or 2 E) + 1, the reference 1 (and both answers once)."""
    model = tiny.model(num_hidden_layers=1)
    method = made(tamper_loss=loss, attack={"steps": 4, "every": 2})
    state = set_up(method, model)
    made_of = {"student": 0, "reference": 0}

    def counting(name: str, of: Any) -> Any:
        def hook(*_: Any) -> None:
            made_of[name] += 1

        return of.get_decoder().register_forward_hook(hook)

    handles = [counting("student", model), counting("reference", state.reference)]
    method.gradient(model, step(), state)
    for handle in handles:
        handle.remove()
    assert made_of == {"student": student, "reference": reference}


# ---- precision, LoRA


@pytest.mark.parametrize("rate", [1e-6, 0.01])
def test_a_walk_lost_to_bf16_stops_the_run_and_leaves_the_weights(rate: float) -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    method = made(attack={"rates": (rate,)})
    state = method.setup(Run(model, tiny.encoder(), tiny.pool(), 0))
    before = tiny.weights(model)
    if rate == 0.01:
        method.gradient(model, step(), state)
    else:
        with pytest.raises(TrainingError) as caught:
            method.gradient(model, step(), state)
        assert str(caught.value).startswith("tar: lost to rounding (cosine 0.")
        assert str(caught.value).endswith("); use precision: fp32 or a larger step")
    assert tiny.same(tiny.weights(model), before)


def test_under_lora_the_adapter_walks_and_the_model_without_it_is_the_reference() -> None:
    model = tiny.model()
    before = tiny.weights(model)
    method = made(loop=LOOP.with_(lora=LoRA(rank=2)))
    assert method.copies() == 0
    state = method.setup(Run(model, tiny.encoder(), tiny.pool(), 0))
    assert state.reference is model
    with nn.lora(model, LoRA(rank=2), 0) as params:
        for p in params.values():
            p.requires_grad_(False).add_(0.1).requires_grad_(True)
        adapter = {name: p.detach().clone() for name, p in params.items()}
        found, terms = method.gradient(model, step(), state)
        assert found.keys() == params.keys()
        assert tiny.same({name: p.detach() for name, p in params.items()}, adapter)
        assert float(terms["hidden"].sum) > 0
    assert before.keys() == tiny.weights(model).keys()


def test_a_reference_is_only_kept_where_something_is_compared() -> None:
    assert made().copies() == 1
    assert made(tamper_loss="entropy").copies() == 1
    free = made(tamper_loss="entropy", hidden_weight=0.0)
    assert free.copies() == 0
    assert set_up(free, tiny.model()).reference is None


# ---- its own measurement


def test_its_diagnostic_needs_only_the_model_and_leaves_it_as_it_was() -> None:
    """`harm_loss_after` is what torch's own AdamW gives on the same rows."""
    model = tiny.model()
    model.requires_grad_(False)
    before = tiny.weights(model)
    method = made(attack={"steps": 5, "rates": (0.001, 0.01)})
    found = method.diagnostic(Run(model, tiny.encoder(), tiny.pool(), 0), None)
    assert tiny.same(tiny.weights(model), before)
    assert not any(p.requires_grad for p in model.parameters())
    pairs = tiny.pool().paired(
        Role.REFUSAL, Role.HARMFUL, Side.DEFENDER_SELECTION, None, seed_of(0, "draw")
    )
    model.requires_grad_(True)
    encoder = tiny.encoder()
    used, judged = (encoder.batch([h for _, h in some]) for some in (pairs[::2], pairs[1::2]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(5):
        value, count = nn.nll(model, used)
        optimiser.zero_grad()
        (value / count).backward()
        optimiser.step()
    with torch.no_grad():
        value, count = nn.nll(model, judged)
    assert found["harm_loss_after"] == pytest.approx(float(value) / count, rel=1e-4)
    assert found["harm_loss_after"] != found["harm_loss"]
    assert set(found) == {
        "refusal_loss",
        "harm_loss",
        "refusal_loss_after",
        "harm_loss_after",
        "margin_after",
    }


# ---- bad input


def test_what_it_cannot_use_is_told_in_one_line() -> None:
    rows = tiny.rows(n=1)
    one = Pool([*rows[Role.REFUSAL], *rows[Role.HARMFUL], *rows[Role.BENIGN]])
    with pytest.raises(DataError) as caught:
        TAR().rows(one, 0)
    assert str(caught.value) == (
        "tar.held_out: 0.2 of 1 pairs leaves none to attack with; "
        "lower it or give more prompts with both answers"
    )
    with pytest.raises(DataError) as caught:
        TAR().rows(Pool([*rows[Role.REFUSAL], *rows[Role.BENIGN]]), 0)
    assert str(caught.value) == (
        "pairs of roles refusal and harmful, side defender: some asked for, the pool has 0; "
        "give both responses for the same prompts"
    )
    with pytest.raises(ConfigError) as config:
        TAR(loop=LOOP.with_(compile_layers=True)).rows(tiny.pool(), 0)
    assert str(config.value) == (
        "tar.loop.compile_layers: compiled blocks hide the hidden states it compares; leave it off"
    )


def test_a_harmful_row_without_its_refusal_is_told() -> None:
    method = made()
    model = tiny.model()
    state = set_up(method, model)
    state.refusal.clear()
    with pytest.raises(DataError) as caught:
        method.gradient(model, step(), state)
    assert str(caught.value) == (
        "tar: 4 harmful rows of a batch: no refusal of the same prompt; "
        "give both responses for the same prompts"
    )


def test_an_attack_that_cannot_move_is_told() -> None:
    method = made()
    model = tiny.model("llama")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.lm_head.weight.requires_grad_(False)
    state = method.setup(Run(model, tiny.encoder(), tiny.pool(), 0))
    with pytest.raises(TrainingError) as caught:
        method.gradient(model, step(), state)
    assert str(caught.value) == (
        "tar: the simulated attack's gradient is 0; check the harmful rows and the precision"
    )


def test_it_reads_the_released_numbers() -> None:
    """The refusal script's; the bio script's as `released`."""
    assert (TAR().tamper_weight, TAR().beta, TAR().attack.steps) == (0.1, 0.1, 8)
    assert TAR().loop == Loop(steps=100, batch=8, lr=6e-5, warmup=32)
    bio = TAR.model_validate({"preset": "released"})
    assert (bio.tamper_weight, bio.tamper_loss, bio.entropy_at) == (4.0, "entropy", "all")
    assert (bio.attack.steps, bio.attack.every, bio.attack.decay) == (64, 4, 0.0625)
    how = {"clip": None, "precision": "fp32_master"}
    assert bio.loop == Loop.model_validate({"steps": 750, "lr": 2e-5, "warmup": 32} | how)
    script = TAR.model_validate({"preset": "refusal_script"})
    assert (script.hidden_weight, script.attack.batch, script.attack.tasks) == (0.0, 8, 2)
    assert script.loop.clip is None
    lite = TAR.model_validate({"preset": "lite"}).attack
    assert lite.steps < TAR().attack.steps
    assert [a * lite.steps for a in lite.rates] == [a * 8 for a in TAR().attack.rates]
    assert TAR.starts_from == "aligned"
