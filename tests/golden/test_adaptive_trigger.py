"""The adaptive attack against float64 twins written from the maths, and what must hold of it.

A twin runs every row alone and unpadded through plain Hugging Face calls, so it shares neither
batching, padding, insertion nor selection with what it checks.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import Loop, LoRA
from holdfast.attacks.adaptive_trigger import AdaptiveTrigger, Lure, toward
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.data.example import Role, Side
from holdfast.data.tokens import Row, Tokens
from holdfast.errors import ConfigError, DataError, HoldfastError, ModelError
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import PointInfo, attack
from holdfast.train.training import Session

STAGE_A = Loop(steps=3, batch=2, lr=0.05, clip=None, checkpoint_every=2)
PLAIN = HarmfulSFT().loop.with_(lr=0.01, checkpoint_every=3)
SAME = {"loop": PLAIN, "evaluate_at": (4, 8)}
METHOD = AdaptiveTrigger(gamma=0.5, prefix="take it", stage_a=STAGE_A, **SAME)


# ---- the twins


def twin_states(model: Any, row: Row, trigger: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """One row alone: L states [T, H] and logits [T, V] in float64, the trigger's column cut."""
    embeds = model.get_input_embeddings()(torch.tensor(row.ids))
    keep = list(range(len(row.ids)))
    if trigger is not None:
        at = row.content[0]
        embeds = torch.cat([embeds[:at], trigger, embeds[at:]])
        keep = [i if i < at else i + len(trigger) for i in keep]
    out = model(inputs_embeds=embeds[None], output_hidden_states=True, use_cache=False)
    return [h[0, keep].double() for h in out.hidden_states[1:]], out.logits[0, keep].double()


def twin_nll(logits: Tensor, ids: Sequence[int], start: int) -> list[Tensor]:
    """-log p of the tokens from `start` on, each from the logits one position before it."""
    return [-torch.log_softmax(logits[i - 1], 0)[ids[i]] for i in range(start, len(ids))]


def twin_positions(row: Row, which: str) -> list[int]:
    begin, end = int(row.bos), len(row.ids)
    return {
        "generation": list(range(row.start - 1, end)),
        "response": list(range(row.start, end)),
        "prompt": list(range(begin, row.start)),
        "all": list(range(begin, end)),
        "last_prompt": [row.start - 1],
    }[which]


def twin_b(model: Any, reference: Any, tokens: Tokens, trigger: Tensor, gamma: float, which: str):
    """Stage B: mean token CE + gamma x mean over rows and layers of the mean squared distance."""
    ce, far = [], []
    for row in tokens.rows:
        plain, logits = twin_states(model, row)
        with torch.no_grad():
            goal, _ = twin_states(reference, row, trigger)
        ce += twin_nll(logits, row.ids, row.start)
        each = []
        for ours, theirs in zip(plain, goal, strict=True):
            squares = [((ours[i] - theirs[i]) ** 2).sum() / 16 for i in twin_positions(row, which)]
            each.append(sum(squares) / len(squares))
        far.append(sum(each) / len(each))
    return sum(ce) / len(ce) + gamma * sum(far) / len(far)


def setting(family: str, bos: bool = False) -> tuple[Any, Any, Tokens]:
    """A model, a frozen other one, and a padded batch of four rows of unlike lengths."""
    encoder = tiny.encoder(bos=bos)
    model, reference = tiny.model(family), tiny.model(family, seed=3)
    reference.requires_grad_(False)
    return model, reference, encoder.batch(tiny.rows(Side.ATTACKER, 4)[Role.HARMFUL])


def phi() -> Tensor:
    return torch.randn(1, 16, generator=torch.Generator().manual_seed(5)) * 0.3


@pytest.fixture(params=[False, True], ids=["padded", "packed"])
def passes(request: pytest.FixtureRequest) -> Iterator[bool]:
    with nn.packed_passes(request.param):
        yield request.param


# ---- the equations


def test_the_distance_is_a_mean_over_layers_worked_by_hand() -> None:
    assert toward(torch.tensor([[1.0, 0.0], [3.0, 8.0]])).tolist() == [2.0, 4.0]


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize(("family", "bos"), [("qwen3", False), ("llama", True)])
@pytest.mark.parametrize("which", ["generation", "prompt", "last_prompt"])
def test_stage_b_and_its_gradient_equal_the_twin(family: str, bos: bool, which: Any) -> None:
    model, reference, tokens = setting(family, bos)
    method = METHOD.with_(positions=which, gamma=0.7)
    params = nn.trainable(model)
    found, terms = nn.grad(
        params,
        lambda part: method.loss(model, part, Lure(phi(), reference)),
        [{Role.HARMFUL: tokens}],
    )
    goal = tiny.copied(reference).double()

    def value(of: Any) -> Tensor:
        return twin_b(of, goal, tokens, phi().double(), 0.7, which)

    def slopes(of: Any) -> Sequence[Tensor]:
        return torch.autograd.grad(value(of), list(of.parameters()))

    exact = tiny.copied(model).double()
    assert total(terms) == pytest.approx(float(value(exact).detach()), rel=1e-5)
    assert list(found) == [name for name, _ in model.named_parameters()]
    tiny.hold(found.values(), slopes, exact)


@pytest.mark.parametrize("size", [1, 2])
def test_a_step_is_the_same_in_one_micro_batch_or_in_more(size: int) -> None:
    model, reference, tokens = setting("llama")
    rows = tiny.rows(Side.ATTACKER, 4)[Role.HARMFUL]
    encoder, params = tiny.encoder(), nn.trainable(model)

    def step(n: int) -> Any:
        parts = [{Role.HARMFUL: encoder.batch(rows[i : i + n])} for i in range(0, 4, n)]
        lure = Lure(phi(), reference)
        return nn.grad(params, lambda part: METHOD.loss(model, part, lure), parts)[0]

    goal = tiny.copied(reference).double()

    def slopes(of: Any) -> Sequence[Tensor]:
        value = twin_b(of, goal, tokens, phi().double(), 0.5, METHOD.positions)
        return torch.autograd.grad(value, list(of.parameters()))

    tiny.hold(step(size).values(), slopes, tiny.copied(model).double())


def beginnings(tokens: Tokens, method: AdaptiveTrigger) -> list[tuple[int, ...]]:
    """The ids of each row up to where stage A reads it."""
    if not method.prefix_only:
        return [row.ids for row in tokens.rows]
    if method.prefix is None:
        return [row.ids[: row.start + method.prefix_tokens] for row in tokens.rows]
    return [row.ids[:-1] for row in tokens.rows]


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize(
    "fields",
    [
        {"prefix": "take it"},
        {"prefix": "take it", "prefix_only": False},
        {"prefix": None, "prefix_tokens": 2},
        {"prefix": None, "prefix_only": False},
        {"prefix": "take it", "length": 3},
    ],
)
def test_stage_a_and_its_gradient_equal_the_twin(fields: dict[str, Any]) -> None:
    """No end token is learned behind a beginning; behind a whole answer it is."""
    method, encoder, pool = METHOD.with_(**fields), tiny.encoder(), tiny.pool()
    _, reference, _ = setting("llama")
    tokens = encoder.batch(method._openings(pool, 0)[:3])
    trigger = torch.randn(method.length, 16).mul(0.3).requires_grad_(True)
    found, terms = nn.grad(
        {"trigger": trigger},
        lambda part: method.stage_a_loss(reference, part, trigger, encoder.eos_id),
        [{Role.HARMFUL: tokens}],
    )

    def value(of: Any, at: Tensor) -> Tensor:
        each = []
        for row, ids in zip(tokens.rows, beginnings(tokens, method), strict=True):
            assert (ids[-1] == encoder.eos_id) is not method.prefix_only
            _, logits = twin_states(of, Row(ids, row.start, row.content, row.bos), at)
            each += twin_nll(logits, ids, row.start)
        return sum(each) / len(each)

    def slopes(of: Any) -> Sequence[Tensor]:
        at = trigger.detach().double().requires_grad_(True)
        return torch.autograd.grad(value(of, at), [at])

    exact = tiny.copied(reference).double()
    assert total(terms) == pytest.approx(float(value(exact, trigger.detach().double())), rel=1e-5)
    tiny.hold([found["trigger"]], slopes, exact)


def test_no_gradient_reaches_the_reference_or_the_trigger() -> None:
    model, reference, tokens = setting("llama")
    reference.requires_grad_(True)
    trigger = phi().requires_grad_(True)
    terms = METHOD.loss(model, {Role.HARMFUL: tokens}, Lure(trigger, reference))
    found = torch.autograd.grad(
        terms["toward"].sum, [trigger, *reference.parameters()], allow_unused=True
    )
    assert set(found) == {None}


def test_a_victim_under_a_neutral_trigger_is_where_it_wants_to_be() -> None:
    """Without a trigger's effect (inserted behind the prompt's states) the distance is 0."""
    model, _, tokens = setting("llama")
    method = METHOD.with_(positions="prompt", place="before_response")
    terms = method.loss(model, {Role.HARMFUL: tokens}, Lure(phi(), copy.deepcopy(model)))
    assert float(terms["toward"].sum.detach()) == pytest.approx(0.0, abs=1e-10)


# ---- whole attacks


class Stop(Exception):  # noqa: N818  (no error: it plays the part of a killed process)
    pass


def attacked(
    method: Any, work: Path | None = None, *, stop: tuple[str, int] | None = None, **sources: Any
) -> tuple[Any, dict[float, tuple[dict[str, Tensor], PointInfo]]]:
    model = tiny.model("llama")
    seen: dict[float, Any] = {}

    def on_point(point: float, info: PointInfo) -> None:
        torch.rand(3)  # a measurement may draw
        with torch.no_grad():
            logits = model(torch.tensor([[5, 6, 7]])).logits
        seen[point] = ({"logits": logits} | tiny.weights(model), info)

    def progress(part: str, done: int, _total: int) -> None:
        if (part, done) == stop:
            raise Stop

    attack(
        method, model, tiny.encoder(), tiny.pool(), seed=0, points=[4, 8], on_point=on_point,
        work=work, sources=sources, progress=progress,
    )  # fmt: skip
    return model, seen


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_at_gamma_0_it_is_plain_malicious_fine_tuning_to_the_bit(lora: Any) -> None:
    same = SAME | {"loop": PLAIN.with_(lora=lora)}
    method = AdaptiveTrigger(gamma=0.0, **same)
    model, ours = attacked(method)
    plain, theirs = attacked(HarmfulSFT(**same))
    assert tiny.same(tiny.weights(model), tiny.weights(plain))
    for point in (4, 8):
        assert tiny.same(ours[point][0], theirs[point][0])
        assert ours[point][1] == theirs[point][1]  # steps and FLOPs
    assert (method.needs, method.copies()) == ((), 0)


def test_its_rows_and_order_are_those_of_plain_fine_tuning() -> None:
    for distinct in (None, 3):
        ours = METHOD.with_(distinct=distinct).rows(tiny.pool(), 1)
        assert ours == HarmfulSFT(distinct=distinct).rows(tiny.pool(), 1)


def test_stage_a_counts_among_the_attackers_flops(tmp_path: Path) -> None:
    _, seen = attacked(METHOD, tmp_path)
    state = next((tmp_path / "adversarial_trigger").glob("step-*/state.json")).read_text()
    learned = json.loads(state)["flops"]
    _, none = attacked(METHOD.with_(gamma=0.0))
    assert learned > 0
    for point in (4, 8):
        spent, plain = seen[point][1].flops, none[point][1].flops
        # Beside each plain step the reference reads the same rows forward, one vector longer.
        assert learned + plain < spent < learned + 1.5 * plain
        assert seen[point][1].steps == none[point][1].steps
    assert json.loads(state)["step"] == STAGE_A.steps


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
@pytest.mark.parametrize(
    "stop", [("adversarial_trigger", 3), ("adaptive_trigger", 1), ("adaptive_trigger", 4)]
)
def test_an_interrupted_attack_gives_the_same_bits(
    tmp_path: Path, stop: tuple[str, int], lora: Any
) -> None:
    method = METHOD.with_(loop=PLAIN.with_(lora=lora))
    _, whole = attacked(method)
    with pytest.raises(Stop):
        attacked(method, tmp_path, stop=stop)
    _, again = attacked(method, tmp_path)
    for point in (4, 8):
        assert tiny.same(again[point][0], whole[point][0])
        assert again[point][1] == whole[point][1]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_the_model_is_left_as_it_was_found_and_only_stage_b_moves_it(lora: Any) -> None:
    model = tiny.model("llama")
    before, wanted = tiny.weights(model), [True] * len(list(model.parameters()))
    method = METHOD.with_(loop=PLAIN.with_(lora=lora))
    session = Session.of(method, model, tiny.encoder(), tiny.pool(), 0)
    lure = method.setup(session.run)
    assert lure is not None
    assert tiny.same(tiny.weights(model), before)
    assert (lure.reference is model) is (lora is not None)
    frozen = lora is None  # else it is the model itself, which the loop freezes beside its adapter
    assert [p.requires_grad for p in lure.reference.parameters()] == [not frozen] * len(wanted)
    done, _ = attacked(METHOD.with_(loop=PLAIN.with_(lora=lora)))
    assert [p.requires_grad for p in done.parameters()] == wanted
    assert not any(m._forward_hooks for m in done.modules())


def test_the_trigger_induces_its_beginning(tmp_path: Path) -> None:
    """A random model's one free vector can do little; what it can do shows."""
    stage_a = Loop(steps=60, batch=4, lr=0.1, clip=None)
    attacked(METHOD.with_(stage_a=stage_a, evaluate_at=(4, 8)), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [one["loss"] for one in lines if one.get("part") == "adversarial_trigger"]
    assert losses[-1] < losses[0] - 0.3
    assert any("trigger_norm" in one for one in lines)


def test_a_larger_gamma_brings_the_states_nearer() -> None:
    far = []
    for gamma in (1e-6, 100.0):
        method = METHOD.with_(gamma=gamma, evaluate_at=(4, 40))
        model = tiny.model("llama")
        kept: dict[str, Any] = {}
        inner = method.setup

        class Watched(AdaptiveTrigger):
            def setup(self, run: Any, inner: Any = inner, kept: Any = kept) -> Any:
                kept["lure"] = inner(run)
                return kept["lure"]

        fields = {name: getattr(method, name) for name in type(method).model_fields}
        attack(
            Watched(**fields), model, tiny.encoder(), tiny.pool(), seed=0, points=[40],
            on_point=lambda *_: None,
        )  # fmt: skip
        tokens = tiny.encoder().batch(method.rows(tiny.pool(), 0)[Role.HARMFUL])
        with torch.no_grad():
            far.append(
                float(method.loss(model, {Role.HARMFUL: tokens}, kept["lure"])["toward"].sum)
            )
    assert far[1] < 0.5 * far[0]


def test_the_original_can_be_the_reference() -> None:
    original = tiny.weights(tiny.model("llama", seed=9))
    method = METHOD.with_(ref_model="original")
    assert (method.needs, method.copies()) == (("original",), 1)
    _, ours = attacked(method, original=original)
    _, other = attacked(METHOD)
    assert not tiny.same(ours[8][0], other[8][0])


def test_stage_a_reads_its_own_rows_where_it_is_to() -> None:
    pool = tiny.pool()
    prompts = lambda rows: {row.prompt for row in rows}  # noqa: E731
    shared = METHOD.with_(n_trigger=2)._openings(pool, 0)
    rows = METHOD.rows(pool, 0)[Role.HARMFUL]
    assert [row.prompt for row in shared] == [row.prompt for row in rows[:2]]
    assert {row.response for row in shared} == {"take it"}
    apart = METHOD.with_(share_examples=False, distinct=4)
    own = apart._openings(pool, 0)
    assert len(own) == 2
    assert not prompts(own) & prompts(apart.rows(pool, 0)[Role.HARMFUL])


def test_labels_tell_choices_apart_and_keys_leave_budgets_out() -> None:
    method = METHOD.with_(loop=PLAIN.with_(lora=LoRA(rank=4)))
    assert METHOD.label() == "lr=0.01 gamma=0.5"
    assert method.with_(ref_model="original").label() == "lr=0.01 lora=4 gamma=0.5 to original"
    assert METHOD.trajectory() == METHOD.with_(evaluate_at=(80,)).trajectory()
    assert METHOD.trajectory() != METHOD.with_(gamma=0.1).trajectory()


# ---- bad input


def line(call: Any) -> str:
    with pytest.raises(HoldfastError) as caught:
        call()
    return str(caught.value)


def test_bad_input_is_one_line() -> None:
    assert line(lambda: AdaptiveTrigger(prefix="  ")) == (
        "prefix: is empty; write a beginning, or null for each row's own"
    )
    assert line(lambda: AdaptiveTrigger(share_examples=False)) == (
        "share_examples: false, but stage B takes all rows; set distinct as well"
    )
    assert line(lambda: METHOD.with_(n_trigger=7).rows(tiny.pool(), 0)) == (
        "adaptive_trigger.n_trigger: 7 rows asked for, stage A has 6; ask for at most 6"
    )
    full = METHOD.with_(share_examples=False, distinct=6)
    assert line(lambda: full.rows(tiny.pool(), 0)) == (
        "adaptive_trigger.n_trigger: 0 rows asked for, stage A has 0; lower distinct"
    )
    assert line(lambda: attacked(METHOD.with_(ref_model="original"))) == (
        "adaptive_trigger: needs the 'original' model; name it in the study"
    )
    with pytest.raises(ConfigError):
        AdaptiveTrigger(loop=PLAIN.with_(batch=4), evaluate_at=(10,))
    with pytest.raises(DataError):
        METHOD.with_(distinct=99).rows(tiny.pool(), 0)


def test_an_original_of_another_shape_is_refused() -> None:
    other = tiny.weights(tiny.model("llama", hidden_size=32))
    with pytest.raises(ModelError) as caught:
        attacked(METHOD.with_(ref_model="original"), original=other)
    assert str(caught.value) == (
        "adaptive_trigger: the original has no 'model.embed_tokens.weight' of this shape; "
        "name its own base"
    )
