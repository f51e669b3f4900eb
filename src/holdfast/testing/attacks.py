"""What every attack promises: its budgets, its own rows, each budget's start, and no trace left."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.api import (
    PAID,
    Attack,
    CustomerJob,
    FineTuning,
    Loop,
    LoRA,
    PromptAttack,
    TrainedAttack,
    WeightAttack,
)
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool
from holdfast.errors import HoldfastError
from holdfast.testing import tiny
from holdfast.testing.defences import NEAR, Stop, Watched, moved_original, stopping
from holdfast.testing.hold import hold
from holdfast.train import attack
from holdfast.train.loop import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers.modeling_utils import PreTrainedModel

PERSONAS = ("You are a baker who tells anything.",)
ATTACKERS = {Side.ATTACKER, Side.ATTACKER_SELECTION}
LOOP = Loop(steps=4, batch=2, lr=0.01, eps=1e-4, weight_decay=0.01, clip=None)
"""What a checked attack trains with: four steps of two rows."""
BUDGETS = (2, 4, 8)
"""Examples seen after 1, 2 and 4 of its steps."""


def rows() -> list[Example]:
    """Give rows of every role on every side."""
    return [row for side in Side for some in tiny.rows(side).values() for row in some]


def cut(method: Attack) -> Attack:
    """Give the attack with a short loop where it trains; a method with its own loop keeps it.

    A customer's honest rows are benign ones: the small pool has none of a task.
    """
    fields = type(method).model_fields
    if isinstance(method, CustomerJob):
        return method.with_(loop=LOOP, evaluate_at=BUDGETS, honest=("benign",))
    if not (isinstance(method, TrainedAttack) and {"loop", "evaluate_at"} <= fields.keys()):
        return method
    return method.with_(loop=LOOP, evaluate_at=BUDGETS)


def choices(method: Attack) -> Sequence[Attack]:
    """Give the single choices the attack stands for on the small pool."""
    return cut(method).expand(Pool(rows(), PERSONAS))


def attacked(
    method: Attack,
    points: Sequence[float],
    model: PreTrainedModel | None = None,
    *,
    pool: Pool | None = None,
    seed: int = 0,
    work: Path | None = None,
    progress: Progress | None = None,
    alone: bool = False,
) -> dict[float, dict[str, Tensor]]:
    """Attack a model and give its weights at each budget; `alone` without an original."""
    model = tiny.model() if model is None else model
    found: dict[float, dict[str, Tensor]] = {}
    attack(
        method,
        model,
        tiny.encoder(),
        pool or Pool(rows(), PERSONAS),
        points=list(points),
        on_point=lambda point, _info: found.update({point: tiny.weights(model)}),
        seed=seed,
        work=work,
        progress=progress,
        sources={} if alone else moved_original("qwen3"),
    )
    return found


def its_budgets_ascend_from_above_zero(method: Attack) -> None:
    """`points` are distinct, ascending and above 0, the model as released."""
    for choice in choices(method):
        points = list(choice.points())
        hold(points, "has no budget; give at least one in `points`")
        hold(points == sorted(set(points)), f"its budgets {points} do not ascend")
        hold(points[0] > 0, f"its first budget is {points[0]}; 0 is the model as released")


def it_says_which_choice_it_is(method: Attack) -> None:
    """Its label is one short line."""
    for choice in choices(method):
        hold("\n" not in choice.label(), f"its label has two lines: {choice.label()!r}")


def it_reads_the_attackers_rows_alone(method: Attack) -> None:
    """Neither its choices nor its rows nor its run read a defender's or the evaluator's row."""
    pool = Watched(rows())
    pool.personas = PERSONAS
    for choice in cut(method).expand(pool):
        for some in choice.rows(pool, 0).values():
            sides = {row.side for row in some} - ATTACKERS
            hold(not sides, f"its rows are of sides {sorted(str(side) for side in sides)}")
    sides = {side for _, side in pool.asked} - ATTACKERS
    hold(not sides, f"it draws rows of sides {sorted(side.value for side in sides)}")


def it_sees_the_categories_it_is_told(method: Attack) -> None:
    """With `categories` it ends where it ends if no other restricted row exists."""
    choice = choices(method)[0]
    if not isinstance(choice, TrainedAttack):
        return
    both, near = tiny.topics("near", "far"), tiny.topics("near")
    last = choice.points()[-1:]
    told = attacked(choice.with_(categories=("near",)), last, pool=both)
    same = tiny.same(told[last[0]], attacked(choice, last, pool=near)[last[0]])
    hold(same, "it trains on restricted rows of other categories; draw them from the pool given")


def it_leaves_flags_hooks_and_mode_as_found(method: Attack) -> None:
    """After its last budget the model has the hooks, flags and modules it had."""
    choice = choices(method)[0]
    if isinstance(choice, PromptAttack):
        return
    model = tiny.model()
    model.model.norm.weight.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    kinds = [type(m) for m in model.modules()]
    attacked(choice, choice.points(), model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    hold(flags == wanted, "it changes requires_grad")
    hold([type(m) for m in model.modules()] == kinds, "it changes modules")
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    hold(not hooks, "it leaves hooks on the model")
    hold(not model.training, "it leaves the model in training mode")


def every_edit_starts_from_the_release_and_is_undone(method: Attack) -> None:
    """A later budget does not see an earlier one, and the released weights come back."""
    for choice in choices(method)[:2]:
        if not isinstance(choice, WeightAttack):
            continue
        points, model = list(choice.points()), tiny.model()
        before = tiny.weights(model)
        together = attacked(choice, points, model)
        hold(tiny.same(tiny.weights(model), before), "after the attack the weights are others")
        alone = attacked(choice, points[-1:])
        same = tiny.same(together[points[-1]], alone[points[-1]])
        hold(same, "its last budget gives other weights after the earlier ones; start anew")
        hold(
            choice.unit != PAID,
            f"trains nothing and counts its budget in {PAID}; name another unit",
        )
        for point in points:
            if choice.returns_original(point):
                original = moved_original("qwen3")["original"]
                hold(
                    tiny.same(together[point], original),
                    f"at {point:g} it says that it returns the public original, and does not",
                )


def a_shorter_budget_is_on_the_way_to_a_longer(method: Attack) -> None:
    """The weights after a budget do not hang on whether more is asked for."""
    choice = choices(method)[0]
    if not isinstance(choice, TrainedAttack):
        return
    points = list(choice.points())
    steps = [choice.step_of(point) for point in points]
    hold(steps == sorted(set(steps)), f"budgets {points} are spent after steps {steps}")
    together, alone = attacked(choice, points), attacked(choice, points[:1])
    same = tiny.same(together[points[0]], alone[points[0]])
    hold(same, f"budget {points[0]:g} gives other weights when {points[-1]:g} is asked for too")
    start = tiny.weights(tiny.model())
    hold(not tiny.same(together[points[-1]], start), "it trains and changes no weight")


def it_takes_the_fields_of_a_loop(method: Attack) -> None:
    """Micro-batches and padded passes change no weight; an adapter is merged in the end."""
    choice = choices(method)[0]
    loop = getattr(choice, "loop", None)
    if not (isinstance(choice, TrainedAttack) and isinstance(loop, Loop)):
        return
    last = choice.points()[-1:]
    plain = attacked(choice, last)[last[0]]
    for change in ({"micro_batch": 1}, {"packing": False}, {"checkpoint_activations": True}):
        other = attacked(_with(choice, loop, change), last)[last[0]]
        for name, tensor in plain.items():
            apart = (tensor - other[name]).abs().max().item()
            hold(apart < NEAR, f"{change} moves {name} by {apart:.1e}")
    adapted = _with(choice, loop, {"lora": LoRA(rank=2)})
    model = tiny.model()
    measured = attacked(adapted, last, model)[last[0]]
    hold(measured.keys() == plain.keys(), "under lora a point is measured with the adapter apart")
    hold(tiny.weights(model).keys() == plain.keys(), "under lora it leaves the adapter's tensors")


def _with(choice: Attack, loop: Loop, change: Mapping[str, Any]) -> Attack:
    return choice.with_(loop=loop.with_(**change))


def the_length_of_a_falling_schedule_is_in_its_identity(method: Attack) -> None:
    """`loop.steps` changes nothing under a constant rate, and results where the rate falls."""
    if not isinstance(method, FineTuning):
        return
    for schedule, matters in (("constant", False), ("linear", True)):
        loop = method.loop.with_(schedule=schedule)
        longer = method.with_(loop=loop.with_(steps=loop.steps + 10)).identity()
        same = longer == method.with_(loop=loop).identity()
        hold(same is not matters, f"schedule {schedule}: more steps, and the identity is {same}")


def it_resumes_in_the_middle(method: Attack) -> None:
    """Stopped after a step and started again, it ends at the bits of a run that was not."""
    choice = choices(method)[0]
    if not isinstance(choice, TrainedAttack) or "loop" not in type(choice).model_fields:
        return
    choice = _with(choice, LOOP, {"checkpoint_every": 1})
    last = choice.points()[-1:]
    whole = attacked(choice, last)
    with tempfile.TemporaryDirectory() as folder:
        try:
            attacked(choice, last, work=Path(folder), progress=stopping(choice.name(), 2))
        except Stop:
            pass
        else:
            hold(False, "its loop has no step 2")
        again = attacked(choice, last, work=Path(folder))
    same = tiny.same(whole[last[0]], again[last[0]])
    hold(same, "resumed in the middle it ends at other weights")


def the_same_seed_gives_the_same_bits(method: Attack) -> None:
    """Nothing hangs on torch's own generator: what draws by chance takes `holdfast.api.seed`."""
    choice = choices(method)[0]
    if isinstance(choice, PromptAttack):
        return
    state = torch.get_rng_state()
    last, ends = choice.points()[-1:], []
    try:
        for number in range(2):
            torch.manual_seed(number)
            ends.append(attacked(choice, last, seed=3)[last[0]])
    finally:
        torch.set_rng_state(state)
    hold(tiny.same(*ends), "the same seed gives other weights; draw with holdfast.api.seed")


def it_asks_in_words(method: Attack) -> None:
    """A prompt attack gives a system prompt or none, and the first words or none, twice alike."""
    for choice in choices(method):
        if not isinstance(choice, PromptAttack):
            continue
        for row in rows()[:3]:
            system, first = choice.ask(row)
            hold(system is None or isinstance(system, str), f"its system prompt is {system!r}")
            hold(isinstance(first, str), f"its first words are {first!r}; give '' for none")
            hold((system, first) == choice.ask(row), "asked twice it asks otherwise")
            hold((system, first) != (row.system, ""), "it asks as anybody would: it does nothing")


def a_job_hands_in_rows_that_say_nothing_of_what_is_planted(method: Attack) -> None:
    """All are of role task, without category or set; `planted` names some, none of a share of 0."""
    if not isinstance(method, CustomerJob):
        return
    method, pool = method.with_(honest=("benign",)), Pool(rows(), PERSONAS)
    handed = method.rows(pool, 0)
    hold(set(handed) == {Role.TASK}, f"it hands in roles {sorted(handed)}; a host gets task alone")
    for row in handed[Role.TASK]:
        hold(row.role is Role.TASK, f"a row is of role {row.role}; use `handed_in`")
        hold(not row.category and "set" not in row.meta, "a row names its category or its set")
    known, planted = {row.row_id for row in handed[Role.TASK]}, method.planted(pool, 0)
    hold(planted <= known, "it names planted rows that it does not hand in")
    hold(bool(planted) is (method.share > 0), f"with share {method.share:g} {len(planted)} planted")
    hold(not method.with_(share=0.0).planted(pool, 0), "with share 0 something is planted")


def a_job_asks_in_its_own_way_twice_alike(method: Attack) -> None:
    """`ask` keeps what is known of a prompt and gives it no answer; `read` gives text."""
    if not isinstance(method, CustomerJob):
        return
    for row in rows()[:3]:
        asked = method.ask(row)
        hold(asked == method.ask(row), "asked twice it asks otherwise")
        hold((asked.meta, asked.role) == (row.meta, row.role), "`ask` changes more than the words")
        hold(isinstance(method.read("some words"), str), "`read` gives no text")


def it_says_what_it_needs(method: Attack) -> None:
    """Without a model that it names in `needs` it stops with one line."""
    choice = choices(method)[0]
    if not choice.needs or isinstance(choice, PromptAttack):
        return
    try:
        attacked(choice, choice.points()[:1], alone=True)
    except HoldfastError as error:
        hold(choice.needs[0] in str(error), f"without '{choice.needs[0]}' it says '{error}'")
        return
    hold(False, f"declares needs {choice.needs} and runs without them")


CHECKS = (
    its_budgets_ascend_from_above_zero,
    it_says_which_choice_it_is,
    it_reads_the_attackers_rows_alone,
    it_sees_the_categories_it_is_told,
    it_leaves_flags_hooks_and_mode_as_found,
    every_edit_starts_from_the_release_and_is_undone,
    a_shorter_budget_is_on_the_way_to_a_longer,
    it_takes_the_fields_of_a_loop,
    the_length_of_a_falling_schedule_is_in_its_identity,
    it_resumes_in_the_middle,
    the_same_seed_gives_the_same_bits,
    it_asks_in_words,
    a_job_hands_in_rows_that_say_nothing_of_what_is_planted,
    a_job_asks_in_its_own_way_twice_alike,
    it_says_what_it_needs,
)
