"""A study's steps as a graph of typed nodes: what each stands on, and its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from holdfast.api import Attack, Defence, EvalPurpose, PromptAttack
from holdfast.study.file import Study
from holdfast.study.hosting import (
    PREFILLED,
    SAMPLED,
    AsReleased,
    Hosted,
    Hosting,
    asked_again,
    plain_sets,
)
from holdfast.study.keys import digest, key
from holdfast.study.nodes import (
    Defend,
    Generate,
    Point,
    Prompts,
    Released,
    Start,
    Track,
    Trajectory,
)
from holdfast.study.parts import Parts
from holdfast.study.prompts import readers
from holdfast.study.tuning import HonestTuning, tuned_sets


class Graph:
    """The steps of a study. Line-ups that begin alike share `defends`, and so on down.

    `tracks` say which points a row label's numbers come from, `tunings` the same of honest
    fine-tuning and `hosted` of customers' jobs, which no attacker's number rests on. `content` is
    the hash of the rows that defences see, `attacked` of those that attackers see. `prompts` are
    the study's, then the headline's as customers' models are asked them besides.
    """

    def __init__(
        self,
        study: Study,
        parts: Parts,
        prompts: Sequence[Prompts],
        headline: Prompts,
        content: str,
        attacked: str,
    ) -> None:
        self.study, self.parts, self.prompts = study, parts, list(prompts)
        self.content, self.attacked = content, attacked
        self.defends: dict[str, Defend] = {}
        self.trajectories: dict[str, Trajectory] = {}
        members = (member for lineup in parts.lineups.values() for member in lineup)
        self._identities = {id(m): digest(m.identity()) for m in [*parts.judges, *members]}
        self.tracks = [
            track
            for seed in study.seeds
            for name in study.lineups
            for track in self._tracks(name, seed)
        ]
        self.tunings: list[Track] = []
        self.hosted: list[Track] = []
        if parts.tuning is not None:
            self._taught = tuned_sets(prompts, headline)
            self.tunings = [
                self._tuning(name, seed, parts.tuning)
                for seed in study.seeds
                for name in study.lineups
            ]

        if parts.hosting is not None:
            self._host(parts.hosting, headline)

    def _host(self, hosting: Hosting, headline: Prompts) -> None:
        """Add what customers' jobs make of released models."""
        self._plainly = plain_sets(self.study, self.prompts)
        again = asked_again(hosting, headline)
        self._ways = {name: len(self.prompts) + i for i, name in enumerate(again)}
        self._asks = {name: hosting.jobs.get(name) for name in again}
        self.prompts += again.values()
        self.hosted = [
            self._hosting(hosting, lineup, job, defence, seed)
            for seed in self.study.seeds
            for lineup, job, defence in hosting.tried(list(self.study.lineups))
        ]

    def _hosting(self, hosting: Hosting, lineup: str, job: str, defence: str, seed: int) -> Track:
        """Give one customer's job under one defence, beside the release."""
        released = self._release_of(lineup, seed)
        first = self._released(released, seed)
        for place in self._ways.values():
            if place not in first.asked:
                self._ask(first, place, released, {"released": released.key}, self._drawn(seed))
        method = hosting.methods[job, defence]
        found = self._trajectory(released, method, f"{job} under {defence}", lineup, seed)
        points = [(0.0, first), *((b, found.points[b]) for b in method.points())]
        return Track(lineup, job, defence, method, seed, released, tuple(points))

    def _release_of(self, name: str, seed: int) -> Released:
        """Give a line-up's released model."""
        start = self.parts.starts[self.study.lineups[name].start]
        last: Defend | None = None
        for member in self.parts.lineups[name]:
            last = self._defend(start, last, member, seed, name)
        return Released(start, last)

    def _tuning(self, name: str, seed: int, method: HonestTuning) -> Track:
        """Give honest fine-tuning of a line-up, beside its release."""
        released = self._release_of(name, seed)
        first = self._released(released, seed)
        found = self._trajectory(released, method, method.name(), name, seed)
        points = [(0.0, first), *((b, found.points[b]) for b in method.points())]
        return Track(name, method.name(), "", method, seed, released, tuple(points))

    def _tracks(self, name: str, seed: int) -> Iterator[Track]:
        released = self._release_of(name, seed)
        first = self._released(released, seed)
        if not self.parts.attacks:
            yield Track(name, "", "", AsReleased(), seed, released, ((0.0, first),))
        for attacker, choices in self.parts.attacks.items():
            for choice, variant in zip(choices, self.parts.variants[attacker], strict=True):
                found = self._trajectory(released, choice, f"{attacker} {variant}", name, seed)
                points = [(0.0, first), *((b, found.points[b]) for b in choice.points())]
                yield Track(name, attacker, variant, choice, seed, released, tuple(points))

    def _original(self, needs: Sequence[str]) -> str | None:
        return self.parts.original.key if self.parts.original and "original" in needs else None

    def _defend(
        self, start: Start, before: Defend | None, method: Defence, seed: int, lineup: str
    ) -> Defend:
        parts = {
            "method": self._identities[id(method)],
            "input": before.key if before else start.key,
            "original": self._original(getattr(method, "needs", ())),
            "format": start.format.identity(),
            "seed": seed,
            "sources": self.content,
        }
        if start.dtype != "fp32":  # what it makes is saved in it
            parts["dtype"] = start.dtype
        name = key("defend", **parts)
        if name not in self.defends:
            config = {**parts, "method": method.identity(), "lineup": lineup, "model": start.name}
            label = f"defend {lineup}: {method.name()}, seed {seed}"
            self.defends[name] = Defend(name, start, before, method, seed, label, config)
        return self.defends[name]

    def _drawn(self, seed: int) -> int:
        """Give the seed that a release's answers hang on: 0 where a study asks greedily."""
        return seed if self.study.generation.temperature > 0 else 0

    def _released(self, released: Released, seed: int) -> Point:
        """Give the point of the model as released, which every attacker shares."""
        name = key("point", released=released.key)
        sampling = self._drawn(seed)
        own = f"{name}/{sampling}"
        if own not in self.trajectories:
            config = {"released": released.key}
            asked = range(len(self.study.evaluation))
            point = self._point(name, 0.0, released, config, sampling, asked)
            label = f"release of {_label(released)}"
            self.trajectories[own] = Trajectory(
                name, released, None, sampling, label, config, {0.0: point}
            )
        return self.trajectories[own].points[0.0]

    def _trajectory(
        self, released: Released, attack: Attack, attacker: str, lineup: str, seed: int
    ) -> Trajectory:
        hosted, start = isinstance(attack, Hosted), released.start
        form = start.format if hosted else start.attack_format  # who runs the loop says how
        shared = {
            "released": released.key,
            "attack": attack.trajectory(),
            "original": self._original(attack.needs),
            "format": form.identity(),
            "seed": seed,
            "sources": self.attacked,
        }
        loop = getattr(attack, "loop", None)
        if loop and loop.lora and not loop.precision.startswith("fp32"):
            shared["adapter"] = "merged"  # in fp32 the answers are the same as beside the weights
        name = key("point", **shared)
        if name not in self.trajectories:
            kind = "tune" if hosted or isinstance(attack, HonestTuning) else "attack"
            label = f"{kind} {lineup}: {attacker.strip()}, seed {seed}"
            self.trajectories[name] = Trajectory(name, released, attack, seed, label, shared, {})
        found = self.trajectories[name]
        if attack is not found.attack and found.attack is not None:
            # The same trajectory asked for twice with other budgets: the longer one serves both.
            longer = max(attack, found.attack, key=lambda one: max(one.points()))
            found.attack = longer
        for budget in attack.points():
            if budget not in found.points:
                point = key("point", trajectory=name, budget=float(budget))
                found.points[budget] = self._point(
                    point, budget, released, shared, seed, self._sets_of(attack, budget),
                    isinstance(attack, PromptAttack),
                )  # fmt: skip
        return found

    def _sets_of(self, attack: Attack, budget: float) -> list[int]:
        """Give the places of the sets that an attacked or tuned model is asked at a budget."""
        if isinstance(attack, HonestTuning):
            return sorted(self._taught)
        if isinstance(attack, Hosted):
            last = budget == attack.points()[-1]
            ways = [
                place
                for name, place in self._ways.items()
                if self._asks[name] is attack.job or (last and name in (SAMPLED, PREFILLED))
            ]
            return [*self._plainly, *ways]
        return [i for i, one in enumerate(self.study.evaluation) if one.at == "all"]

    def _point(
        self,
        name: str,
        budget: float,
        released: Released,
        config: Mapping[str, Any],
        seed: int,
        which: Iterable[int],
        prompts_only: bool = False,
    ) -> Point:
        """Give a model at one budget with what is asked of it.

        Under an attack by prompt the weights are the release's, and whoever wants a benign answer
        asks as before: those answers are the release's own.
        """
        release = self._released(released, seed) if prompts_only else None
        point = Point(name, budget, {})
        for i in which:
            if release is not None and self.prompts[i].set.purpose is not EvalPurpose.HARM:
                point.asked[i] = release.asked[i]
            else:
                self._ask(point, i, released, config, seed)
        return point

    def _ask(
        self, point: Point, place: int, released: Released, config: Mapping[str, Any], seed: int
    ) -> None:
        """Ask a point the prompts at a place; the seed counts where answers are drawn."""
        prompts = self.prompts[place]
        sampler = prompts.sampler(self.study.generation)
        parts: dict[str, Any] = {
            "point": point.key,
            "prompts": prompts.asked,
            "format": released.start.evaluation_format.identity(),
            "sampler": sampler.key_fields() if prompts.sampled else None,
            "seed": seed if sampler.temperature > 0 else 0,
        }
        step = Generate(
            key("generate", **parts),
            point.key,
            place,
            {**parts, "set": prompts.set.name, "side": prompts.side, "budget": point.budget}
            | {"stands_on": dict(config)},
            sampler.draws,
        )
        for j in readers(self.parts.judges, prompts):
            judge = self.parts.judges[j]
            step.judges[j] = key(
                "judge",
                answers=step.key,
                judge=self._identities[id(judge)],
                known=prompts.known,
                **({"purpose": prompts.set.purpose.value} if judge.reads_purpose else {}),
            )
        point.asked[place] = step


def _label(released: Released) -> str:
    if released.last is None:
        return f"{released.start.name}"
    names = "+".join(step.method.name() for step in released.chain)
    return f"{released.start.name}+{names}, seed {released.last.seed}"
