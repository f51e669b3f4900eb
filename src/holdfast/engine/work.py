"""How much of a study is left to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.api import Attack, Chain, Loop, TrainedAttack
from holdfast.api.fields import Fields
from holdfast.engine.store import Store
from holdfast.study.hosting import Hosted
from holdfast.study.looking import unlooked
from holdfast.study.nodes import Trajectory

if TYPE_CHECKING:
    from holdfast.study.plan import Plan


@dataclass(frozen=True, slots=True)
class Work:
    """What a study costs from here: steps by kind as (all, to do), and what they amount to."""

    counts: Mapping[str, tuple[int, int]]
    cells: int
    steps: int
    generations: int
    choices: int
    verdicts: int

    @property
    def nothing(self) -> bool:
        """Say whether everything is there."""
        return not any(todo for _, todo in self.counts.values())


def left(plan: Plan, store: Store) -> Work:
    """Count what there is to do, and what is done."""
    kinds = ("defend", "generate", "judge", "measure", "analyse")
    have = {kind: store.keys(kind) for kind in kinds}
    todo_generate = [s for s in plan.generates.values() if s.key not in have["generate"]]
    waiting = {step.key for step in todo_generate}
    steps = generations = choices = verdicts = 0
    todo_trajectories = []
    for trajectory in plan.trajectories.values():
        missing = [
            budget
            for budget, point in trajectory.points.items()
            if any(step.key in waiting for step in point.asked.values())
            or any(unlooked([point], have))
        ]
        if not missing:
            continue
        todo_trajectories.append(trajectory)
        if isinstance(trajectory.attack, TrainedAttack | Chain):
            steps += trajectory.attack.step_of(max(missing)) + loop_steps(trajectory.attack)
    for step in todo_generate:
        prompts = plan.prompts[step.evaluation]
        if not prompts.sampled:
            choices += len(prompts.rows)
        else:
            generations += len(prompts.rows)
    todo_defend = [d for d in plan.defends.values() if d.key not in have["defend"]]
    steps += sum(loop_steps(d.method) for d in todo_defend)
    judges = plan.needed["judge"]
    todo_judge = judges - have["judge"]
    measures = plan.needed["measure"]
    for step in plan.generates.values():
        size = len(plan.prompts[step.evaluation].rows)
        verdicts += size * len(todo_judge.intersection(step.judges.values()))
    every = _by_kind(plan.trajectories.values())
    todo = _by_kind(todo_trajectories)
    hosted = {"tune": (every["tune"], todo["tune"])} if every["tune"] else {}
    looks = plan.needed["analyse"]
    looked = {"analyse": (len(looks), len(looks - have["analyse"]))} if looks else {}
    return Work(
        counts={
            "defend": (len(plan.defends), len(todo_defend)),
            "release": (every["release"], todo["release"]),
            "attack": (every["attack"], todo["attack"]),
            **hosted,
            "generate": (len(plan.generates), len(todo_generate)),
            "judge": (len(judges), len(todo_judge)),
            **looked,
            "measure": (len(measures), len(measures - have["measure"])),
        },
        cells=len(plan.tracks),
        steps=steps,
        generations=generations,
        choices=choices,
        verdicts=verdicts,
    )


def _by_kind(trajectories: Iterable[Trajectory]) -> Counter[str]:
    """Count releases, attacks and customers' jobs."""
    return Counter(
        "release" if one.attack is None else "tune" if isinstance(one.attack, Hosted) else "attack"
        for one in trajectories
    )


def loop_steps(method: Fields) -> int:
    """Give the optimiser steps of every loop among a method's fields.

    Not of an attack's own loop, whose steps are those of its last budget; nor of a customer's job
    and the defence it meets, which a host's loop trains.
    """
    if isinstance(method, Hosted):
        return 0
    if isinstance(method, Loop):
        return method.steps
    names = type(method).model_fields.keys() - ({"loop"} if isinstance(method, Attack) else set())
    values = (getattr(method, name) for name in names)
    return sum(loop_steps(value) for value in values if isinstance(value, Fields))
