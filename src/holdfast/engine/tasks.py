"""What is left of a study as pieces of work, and in which order they are taken."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.api import Chain, Judge, TrainedAttack
from holdfast.engine.store import Store
from holdfast.engine.work import loop_steps
from holdfast.study.looking import unlooked
from holdfast.study.plan import Plan

JUDGING = 2
"""The rank of the first judge's tasks."""


@dataclass(slots=True)
class Task:
    """A piece of work for one worker: a method of `Runner` with its arguments."""

    name: str
    call: tuple[Any, ...]
    label: str
    after: set[str] = field(default_factory=set)
    model: str = ""
    """The key of the model it loads: a worker that has it is asked first."""
    size: float = 0.0
    """Larger ones start first, so that no worker idles at the end."""
    rank: int = 0
    """0 hardens, 1 attacks, asks and measures, `JUDGING` and above judges: a rank a judge."""
    alone: bool = False
    """Whether one worker does all of this rank: a judge that loads something is loaded once."""
    turn: int = 0
    """Earlier ones come first: in a rehearsal the line-up's place, so that trials end in turn."""


def tasks(plan: Plan, store: Store, *, only_judge: bool = False) -> list[Task]:
    """Give what is left to do, each with what must come before it."""
    found: dict[str, Task] = {}
    kinds = ("defend", "generate", "judge", "measure", "analyse")
    have = {kind: store.keys(kind) for kind in kinds}
    if not only_judge:
        found |= {task.name: task for task in _first(plan, have)}
    releases = {  # a prompt attack shares the release's answers: who makes them comes first
        step.key: own
        for own, trajectory in plan.trajectories.items()
        if trajectory.attack is None
        for point in trajectory.points.values()
        for step in point.asked.values()
    }
    for own, trajectory in plan.trajectories.items():
        asked = [step for point in trajectory.points.values() for step in point.asked.values()]
        missing = [step for step in asked if step.key not in have["generate"]]
        attack = f"attack/{own}"
        shared = {releases[step.key] for step in asked if step.key in releases} - {own}
        looks = any(unlooked(list(trajectory.points.values()), have))
        if (missing or looks) and not only_judge:
            last = trajectory.released.last
            prompts = sum(len(plan.prompts[step.evaluation].rows) for step in missing)
            steps = 0
            if isinstance(trajectory.attack, TrainedAttack | Chain):
                steps = trajectory.attack.step_of(max(trajectory.points))
                steps += loop_steps(trajectory.attack)
            found[attack] = Task(
                attack,
                ("attack", own),
                trajectory.label,
                {*([last.key] if last else []), *(f"attack/{release}" for release in shared)},
                trajectory.released.key,
                steps + prompts / 10,
                1,
            )
        for number, judge in enumerate(plan.judges):
            unread = [
                step
                for step in asked
                if number in step.judges and step.judges[number] not in have["judge"]
            ]
            if not unread or (only_judge and missing):
                continue
            name = f"judge/{number}/{own}"
            label = f"judge {trajectory.label}: {judge.name()}"
            after = {attack, *(f"judge/{number}/{release}" for release in shared)}
            found[name] = Task(
                name,
                ("judge", number, own),
                label,
                after,
                judge.name(),
                len(unread),
                JUDGING + number,
                alone=type(judge).open is not Judge.open,
            )
    for task in found.values():
        task.after &= found.keys()
    return _in_turn(plan, list(found.values()))


def _in_turn(plan: Plan, found: list[Task]) -> list[Task]:
    """Give each task of a rehearsal the place of the first line-up that needs it."""
    if not plan.rehearsal:
        return found
    order = {name: place for place, name in enumerate(plan.study.lineups)}
    places: dict[str, int] = {}
    for track in plan.tracks:
        place = order[track.lineup]
        for key in (track.released.key, *(step.key for step in track.released.chain)):
            places[key] = min(place, places.get(key, place))
    places |= {own: places[t.released.key] for own, t in plan.trajectories.items()}
    for task in found:
        task.turn = places.get(str(task.call[-1]), 0)
    return found


def _first(plan: Plan, have: Mapping[str, set[str]]) -> Iterator[Task]:
    """Give what is to be hardened, and measured on plain refusal fine-tuning."""
    for step in plan.defends.values():
        if step.key in have["defend"]:
            continue
        yield Task(
            step.key,
            ("defend", step.key),
            step.label,
            {step.before.key} if step.before else set(),
            step.inputs[0],
            loop_steps(step.method),
        )
    for measure in plan.measures.values():
        if measure.key in have["measure"]:
            continue
        yield Task(
            measure.key,
            ("measure", measure.key),
            measure.label,
            set(measure.inputs),
            measure.beside.key,
            rank=1,
        )


def choose(
    todo: list[Task], blocked: set[str], model: str, taken: Container[int] = ()
) -> Task | None:
    """Choose the next task: hardening first, then what needs the model at hand, then the largest.

    Judging waits until nothing else of its turn is left to begin, and for the judge before: so a
    worker opens a judge once, over all waiting answers. Ranks in `taken` are another worker's.
    """
    lowest: dict[int, int] = {}
    for task in todo:
        lowest[task.turn] = min(task.rank, lowest.get(task.turn, task.rank))
    ready = [
        task
        for task in todo
        if not (task.after & blocked)
        and not (task.alone and task.rank in taken)
        and (task.rank < JUDGING or task.rank == lowest[task.turn])
    ]
    if not ready:
        return None
    return min(ready, key=lambda task: (task.turn, task.rank, task.model != model, -task.size))


def drop(todo: list[Task], failed: str, *, everything: bool = False) -> int:
    """Take away all that stands on a failed task; give how many that were.

    `everything` is for a store that cannot be written: no other step could be kept either.
    """
    if everything:
        count = len(todo)
        todo.clear()
        return count
    gone, count = {failed}, 0
    while True:
        hit = [task for task in todo if task.after & gone]
        if not hit:
            return count
        for task in hit:
            todo.remove(task)
            gone.add(task.name)
            count += 1
