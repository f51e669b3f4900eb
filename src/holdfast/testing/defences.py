"""What every defence promises: its terms, its rows, and a model left as it was found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from holdfast import nn
from holdfast.api import (
    Defence,
    GradientDefence,
    Loop,
    LoRA,
    Precision,
    Run,
    TrainedDefence,
    TuneDefence,
    WeightDefence,
)
from holdfast.api.terms import Batch, Enough, Loss, State
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool, Where
from holdfast.data.tokens import Tokens
from holdfast.errors import ConfigError, TrainingError, did_you_mean
from holdfast.nn.vectors import ParamVector
from holdfast.testing import tiny
from holdfast.testing.hold import hold
from holdfast.testing.methods import short
from holdfast.train import Hardened, harden, measure, tune
from holdfast.train.loop import Progress

LOOP = Loop(steps=3, batch=4, lr=0.01)
"""What every loop of a checked method is cut to."""
NEAR = 2e-4
"""How far weights may lie apart after three steps of 0.01 whose sums ran in another order. AdamW
divides by the gradient's size, so rounding shows; still a fiftieth of a step."""
Kind = TypeVar("Kind", bound=Defence)
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def moved_original(family: str) -> dict[str, dict[str, Tensor]]:
    """Give an original that the model has moved away from, and itself as the other models."""
    original = tiny.weights(tiny.model(family))
    generator = torch.Generator().manual_seed(4)
    moved = {
        name: p + 0.05 * torch.randn(p.shape, generator=generator) for name, p in original.items()
    }
    return {"original": moved, "unaligned": moved, "tuned": original}


def hardened(
    method: Defence,
    model: PreTrainedModel,
    pool: Pool | None = None,
    *,
    seed: int = 0,
    family: str = "qwen3",
    work: Path | None = None,
    progress: Progress | None = None,
) -> Hardened:
    """Harden a model of a family as the package does."""
    sources = moved_original(family)
    pool = pool or tiny.pool()
    if isinstance(method, TuneDefence):
        rows, encoder = tiny.customer(), tiny.encoder()
        return tune(
            method, model, encoder, rows, pool, seed=seed, sources=sources, work=work,
            progress=progress,
        )  # fmt: skip
    return harden(
        method,
        model,
        tiny.encoder(),
        pool,
        seed=seed,
        sources=sources,
        work=work,
        progress=progress,
    )


def cut(method: Kind, **changes: object) -> Kind:
    """Give the defence with its loops cut short, `changes` in its own loop; an edit at rank 2."""
    if isinstance(method, WeightDefence):
        fields = type(method).model_fields
        return method.with_(rank=2) if "rank" in fields else method
    short_one = short(method, LOOP)
    return short_one.with_(loop=LOOP.with_(**changes)) if changes else short_one


def parts_of(roles: Sequence[str], size: int = 4) -> list[dict[Role, Tokens]]:
    """Give a step of four rows a role, `size` in a micro-batch."""
    encoder, rows = tiny.encoder(), tiny.rows(n=4) | {Role.TASK: tiny.customer(2)}
    return [
        {Role(r): encoder.batch(rows[Role(r)][i : i + size]) for r in roles}
        for i in range(0, 4, size)
    ]


def gradient(
    method: TrainedDefence, model: PreTrainedModel, parts: list[dict[Role, Tokens]], state: State
) -> ParamVector:
    """Give the gradient of one optimiser step, as the loop asks for it."""
    if isinstance(method, GradientDefence):
        whole = {role: [part[role] for part in parts] for role in parts[0]}
        return method.gradient(model, whole, state)[0]
    assert method.writes("loss")
    return nn.grad(
        nn.trainable(model),
        lambda part: method.loss(model, part, state),
        parts,
        lambda part: method.counts(part, state),
    )[0]


def _not_trained(
    name: str,
    params: Mapping[str, Tensor],
    loss: Callable[[Batch, int], Loss],
    rows: Mapping[Role, list[Example]],
    loop: Loop,
    enough: Enough | None = None,
) -> int:
    """Leave what would be trained beside the model at its first draw."""
    return 0


def set_up(method: TrainedDefence, model: PreTrainedModel) -> State:
    """Run `setup` and `begin`; what would be trained beside the model stays at its first draw."""
    run = Run(
        model, tiny.encoder(), tiny.pool(), 0, models=moved_original("qwen3"), fit=_not_trained
    )
    state = method.begin(run, nn.trainable(model), method.setup(run))
    if isinstance(method, TuneDefence):
        method.admit(tiny.customer(), run, state)
    return state


def read_by(method: TrainedDefence) -> tuple[str, ...]:
    """Give the roles of the rows that a step of it has, a customer's at stage `tune`."""
    if not isinstance(method, TuneDefence):
        return method.roles
    return ("task", *(role.value for role in method.rows(tiny.pool(), 0)))


def its_neutral_point_is_plain_fine_tuning_or_nothing(method: Defence) -> None:
    """At `neutral` its gradient is that of the cross-entropies in `plain`; an edit edits nothing.

    A method without a neutral point proves another identity in its own tests.
    """
    if method.neutral is None:
        return
    neutral = cut(method).with_(**method.neutral)
    model = tiny.model()
    if isinstance(method, WeightDefence):
        before = tiny.weights(model)
        hardened(neutral, model)
        hold(
            tiny.same(tiny.weights(model), before), "at its neutral point the edit changes weights"
        )
        return
    assert isinstance(neutral, TrainedDefence)  # an edit has no steps
    hold(method.plain, "has a neutral point; say in `plain` which cross-entropies it then equals")
    parts = parts_of(read_by(neutral))
    found = gradient(neutral, model, parts, set_up(neutral, model))
    value = torch.zeros(())
    for role, weight in method.plain.items():
        tokens = parts[0][Role(role)]
        logits = model(tokens.ids, attention_mask=tokens.mask).logits[:, :-1]
        value = value + weight * torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.labels[:, 1:].flatten()
        )
    params = nn.trainable(model)
    expected = torch.autograd.grad(value, list(params.values()))
    for name, tensor in zip(params, expected, strict=True):
        near = torch.allclose(found[name], tensor, atol=1e-6, rtol=1e-5)
        hold(near, f"at its neutral point the gradient of {name} is not that of {method.plain}")


def a_step_is_the_same_in_one_piece_or_two(method: Defence) -> None:
    """A separable method gives the same gradient from one micro-batch and from two halves."""
    if not (isinstance(method, TrainedDefence) and method.separable):
        return
    made, model = cut(method), tiny.model()
    state = set_up(made, model)
    whole = gradient(made, model, parts_of(read_by(method)), state)
    halves = gradient(made, model, parts_of(read_by(method), 2), state)
    hold(whole.norm() > 0, "its gradient is 0: it trains nothing")
    for name, tensor in whole.items():
        apart = (halves[name] - tensor).abs().max().item()
        hold(
            apart <= 1e-6 * max(1.0, whole.norm()),
            f"two halves give another gradient of {name} (by {apart:.1e}); give sums and counts, "
            "or set separable = False",
        )


def a_gradient_leaves_the_model_as_found(method: Defence) -> None:
    """Weights, hooks and flags are as they were after one gradient, a teacher's too."""
    if not isinstance(method, TrainedDefence):
        return
    made, model = cut(method), tiny.model()
    state = set_up(made, model)
    before = tiny.weights(model)
    teacher = getattr(state, "teacher", None)
    kept = {} if teacher is None else tiny.weights(teacher)
    gradient(made, model, parts_of(read_by(method)), state)
    hold(tiny.same(tiny.weights(model), before), "a gradient changes weights")
    now = {} if teacher is None else tiny.weights(teacher)
    hold(tiny.same(now, kept), "a gradient changes its teacher")
    clean = all(p.requires_grad and p.grad is None for p in model.parameters())
    hold(clean, "a gradient leaves `.grad` filled or a parameter frozen")
    hold(not _hooks(model), "a gradient leaves hooks on the model")


def _hooks(model: PreTrainedModel) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def hardening_leaves_flags_and_hooks_as_found(method: Defence) -> None:
    """Only weights change: not `requires_grad`, hooks, modules or the mode."""
    model = tiny.model("llama")
    model.model.norm.weight.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    kinds = [type(m) for m in model.modules()]
    before = tiny.weights(model)
    done = hardened(cut(method), model, family="llama")
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    hold(flags == wanted, "hardening changes requires_grad")
    hold([type(m) for m in model.modules()] == kinds, "hardening changes modules")
    hold(not _hooks(model), "hardening leaves hooks on the model")
    hold(not model.training, "hardening leaves the model in training mode")
    hold(not tiny.same(tiny.weights(model), before), "hardening changes no weight")
    numbers = all(isinstance(value, float) for value in done.diagnostics.values())
    hold(numbers, f"a diagnostic is no float: {done.diagnostics}")


def it_trains_on_the_roles_it_declares(method: Defence) -> None:
    """`rows` gives exactly the roles in `roles`, of the defender's side; at `tune` some of them."""
    if not isinstance(method, TrainedDefence):
        hold(not method.roles, "trains nothing and declares roles")
        return
    rows = method.rows(tiny.pool(), 0)
    found = {role.value for role in rows}
    declared = set(method.roles)
    right = found <= declared if isinstance(method, TuneDefence) else found == declared
    hold(right, f"reads {sorted(found)}, declares {sorted(declared)}")
    for role, some in rows.items():
        hold({row.role for row in some} == {role}, f"rows under {role.value} have another role")
        sides = {row.side.value for row in some if row.side is not None}
        hold(sides == {Side.DEFENDER.value}, f"rows of {role.value} are of sides {sorted(sides)}")


class Watched(Pool):
    """A pool that notes which roles and sides are asked for."""

    def __init__(self, rows: list[Example]) -> None:
        super().__init__(rows)
        self.asked: set[tuple[Role, Side]] = set()

    def draw(
        self,
        role: Role,
        side: Side,
        n: int | None,
        seed: int,
        *,
        where: Where | None = None,
        what: str = "rows",
    ) -> list[Example]:
        """Note and draw."""
        self.asked.add((role, side))
        return super().draw(role, side, n, seed, where=where, what=what)

    def paired(
        self, first: Role, second: Role, side: Side, n: int | None, seed: int
    ) -> list[tuple[Example, Example]]:
        """Note and draw."""
        self.asked |= {(first, side), (second, side)}
        return super().paired(first, second, side, n, seed)


def it_reads_no_other_role_and_no_other_side(method: Defence) -> None:
    """Its own measurement may read the defender's selection side; nothing reads further."""
    pool = Watched([row for side in Side for some in tiny.rows(side).values() for row in some])
    hardened(cut(method), tiny.model(), pool)
    trained = {role.value for role, side in pool.asked if side is Side.DEFENDER}
    declared = set(method.roles)
    right = trained <= declared if isinstance(method, TuneDefence) else trained == declared
    hold(right, f"draws {sorted(trained)}, declares {sorted(declared)}")
    sides = {side for _, side in pool.asked} - {Side.DEFENDER, Side.DEFENDER_SELECTION}
    hold(not sides, f"reads rows of {sorted(side.value for side in sides)}")
    roles = {role.value for role, _ in pool.asked} - set(method.roles)
    hold(not roles, f"measures on roles it does not declare: {sorted(roles)}")


def it_sees_the_categories_it_is_told(method: Defence) -> None:
    """With `categories` it ends where it ends if no other restricted row exists, and says the same.

    So its own stages and its own measurement keep to them too.
    """
    if not isinstance(method, TrainedDefence):
        return
    told, whole = tiny.model(), tiny.model()
    pool = tiny.topics("near", "far")
    mine = hardened(cut(method).with_(categories=("near",)), told, pool)
    plain = hardened(cut(method), whole, tiny.topics("near"))
    same = tiny.same(tiny.weights(told), tiny.weights(whole))
    hold(same, "it trains on restricted rows of other categories; draw them from the pool given")
    hold(mine.diagnostics == plain.diagnostics, "it measures on other categories")


def it_works_without_a_selection_side(method: Defence) -> None:
    """A pool with the defender's own rows alone is enough to train on."""
    hardened(cut(method), tiny.model(), Pool([r for some in tiny.rows().values() for r in some]))


def under_lora_it_ends_as_a_plain_model(method: Defence) -> None:
    """With an adapter it trains, and leaves plain weights of the same names."""
    if not isinstance(method, TrainedDefence):
        return
    model = tiny.model()
    before = tiny.weights(model)
    hardened(cut(method, lora=LoRA(rank=2), micro_batch=1), model)
    after = tiny.weights(model)
    hold(after.keys() == before.keys(), "under lora the model ends with other parameters")
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    hold(moved == LINEAR, f"under lora it moves {sorted(moved)}, the adapter has {sorted(LINEAR)}")


def _ends(method: Defence, *changes: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Give the weights it ends at under each change of its loop, rounding kept small."""
    ends = []
    for change in changes:
        model = tiny.model()
        hardened(cut(method, eps=1e-4, **change), model)
        ends.append(tiny.weights(model))
    return ends


def _near(ends: list[dict[str, Tensor]], said: str) -> None:
    for name, tensor in ends[0].items():
        apart = (tensor - ends[1][name]).abs().max().item()
        hold(apart < NEAR, f"{said} moves {name} by {apart:.1e}")


def micro_batches_change_no_weight(method: Defence) -> None:
    """A separable method ends at the same weights from whole steps and from single rows."""
    if isinstance(method, TrainedDefence) and method.separable:
        _near(_ends(method, {}, {"micro_batch": 1}), "micro_batch: 1")


def packing_changes_no_weight(method: Defence) -> None:
    """Packed and padded passes end at the same weights."""
    if isinstance(method, TrainedDefence):
        _near(_ends(method, {}, {"packing": False}), "packing: false")


def a_step_may_lack_a_role(method: Defence) -> None:
    """Mixed batching in single rows works, or is refused by a method that needs every role."""
    if not isinstance(method, TrainedDefence):
        return
    model = tiny.model()
    try:
        hardened(cut(method, batching="mixed", micro_batch=1), model)
    except ConfigError as error:
        hold("batching" in str(error), f"under batching: mixed it says '{error}'")
        return
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    hold(finite, "under batching: mixed a weight is no number")


def it_trains_in_every_precision(method: Defence) -> None:
    """Under each precision weights move and stay finite, or it says that rounding eats its work."""
    if not isinstance(method, TrainedDefence):
        return
    for precision in get_args(Precision):
        model = tiny.model()
        before = tiny.weights(model)
        try:
            hardened(cut(method, precision=precision), model)
        except (ConfigError, TrainingError) as error:
            said = "precision" in str(error) and precision != "fp32"
            hold(said, f"under {precision} it says '{error}'; name a precision that works")
            continue
        after = tiny.weights(model)
        dtypes = {p.dtype for p in after.values()}
        hold(len(dtypes) == 1, f"under {precision} weights end in {dtypes}")
        hold(all(bool(p.isfinite().all()) for p in after.values()), f"{precision}: not finite")
        same = all(torch.equal(before[name].to(p.dtype), p) for name, p in after.items())
        hold(not same, f"under {precision} no weight moves")


def its_signal_is_measured_on_its_own_model_and_on_others(method: Defence) -> None:
    """`signal` is a key of `diagnostic`, which also works on a model another method made."""
    if not method.signal:
        return
    model = tiny.model()
    start = tiny.weights(model)
    done = hardened(cut(method), model)
    known = did_you_mean(method.signal, done.diagnostics)
    hold(
        method.signal in done.diagnostics,
        f"signal '{method.signal}' is no key of its diagnostic; {known}",
    )
    sources = {**moved_original("qwen3"), "start": start, "kept": done.state}
    try:
        found = measure(
            cut(method), tiny.model(), tiny.encoder(), tiny.pool(), seed=0, sources=sources
        )
    except Exception as error:  # whatever a method does wrong
        hold(False, f"on a model it did not make, state is None and diagnostic raises {error!r}")
        return
    hold(method.signal in found, "on a model it did not make, the diagnostic lacks its signal")


class Stop(KeyboardInterrupt):
    """An interruption."""


def stopping(part: str, step: int) -> Callable[[str, int, int], None]:
    """Interrupt after step `step` of a part."""

    def progress(name: str, done: int, _of: int) -> None:
        if (name, done) == (part, step):
            raise Stop

    return progress


def it_resumes_in_the_middle(method: Defence) -> None:
    """Stopped after any step and started again, it ends at the bits of a run that was not."""
    if not isinstance(method, TrainedDefence):
        return
    try:
        made = short(method, LOOP.with_(checkpoint_every=1))
        made.rows(tiny.pool(), 0)
    except ConfigError:  # it says which steps it can continue from; it may begin anew
        made = short(method, LOOP)
    whole = tiny.model()
    with tempfile.TemporaryDirectory() as folder:
        hardened(made, whole, work=Path(folder))
    for step in (1, LOOP.steps):
        with tempfile.TemporaryDirectory() as folder:
            try:
                stop = stopping(method.name(), step)
                hardened(made, tiny.model(), work=Path(folder), progress=stop)
            except Stop:
                pass
            else:
                hold(False, f"its loop of {LOOP.steps} steps has no step {step}")
            again = tiny.model()
            hardened(made, again, work=Path(folder))
        same = tiny.same(tiny.weights(again), tiny.weights(whole))
        hold(same, f"resumed after step {step} it ends at other weights")


def the_same_seed_gives_the_same_bits(method: Defence) -> None:
    """Nothing hangs on torch's own generator: what draws by chance takes `holdfast.api.seed`."""
    ends = []
    state = torch.get_rng_state()
    try:
        for number in range(2):
            model = tiny.model()
            torch.manual_seed(number)
            hardened(cut(method), model, seed=3)
            ends.append(tiny.weights(model))
    finally:
        torch.set_rng_state(state)
    hold(tiny.same(*ends), "the same seed gives other weights; draw with holdfast.api.seed")


CHECKS = (
    its_neutral_point_is_plain_fine_tuning_or_nothing,
    a_step_is_the_same_in_one_piece_or_two,
    a_gradient_leaves_the_model_as_found,
    hardening_leaves_flags_and_hooks_as_found,
    it_trains_on_the_roles_it_declares,
    it_reads_no_other_role_and_no_other_side,
    it_sees_the_categories_it_is_told,
    it_works_without_a_selection_side,
    under_lora_it_ends_as_a_plain_model,
    micro_batches_change_no_weight,
    packing_changes_no_weight,
    a_step_may_lack_a_role,
    it_trains_in_every_precision,
    its_signal_is_measured_on_its_own_model_and_on_others,
    it_resumes_in_the_middle,
    the_same_seed_gives_the_same_bits,
)
