"""A study's steps as a graph of typed nodes: what each stands on, and its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from holdfast.api import Attack, Defence, EvalPurpose, PromptAttack, Scorer
from holdfast.study.file import Study
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
from holdfast.study.tuning import HonestTuning, tuned_sets


class Graph:
    """The steps of a study. Line-ups that begin alike share `defends`, and so on down.

    `tracks` say which points a row label's numbers come from, `tunings` the same of honest
    fine-tuning, which no attacker's number rests on. `content` is the hash of the rows
    that defences see, `attacked` of those that attackers see.
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
        self.study, self.parts, self.prompts = study, parts, prompts
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
        if parts.tuning is not None:
            self._taught = tuned_sets(prompts, headline)
            self.tunings = [
                self._tuning(name, seed, parts.tuning)
                for seed in study.seeds
                for name in study.lineups
            ]

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

    def _released(self, released: Released, seed: int) -> Point:
        """Give the point of the model as released, which every attacker shares."""
        name = key("point", released=released.key)
        sampling = seed if self.study.generation.temperature > 0 else 0
        own = f"{name}/{sampling}"
        if own not in self.trajectories:
            config = {"released": released.key}
            point = self._point(name, 0.0, released, config, sampling, range(len(self.prompts)))
            label = f"release of {_label(released)}"
            self.trajectories[own] = Trajectory(
                name, released, None, sampling, label, config, {0.0: point}
            )
        return self.trajectories[own].points[0.0]

    def _trajectory(
        self, released: Released, attack: Attack, attacker: str, lineup: str, seed: int
    ) -> Trajectory:
        shared = {
            "released": released.key,
            "attack": attack.trajectory(),
            "original": self._original(attack.needs),
            "format": released.start.attack_format.identity(),
            "seed": seed,
            "sources": self.attacked,
        }
        loop = getattr(attack, "loop", None)
        if loop and loop.lora and not loop.precision.startswith("fp32"):
            shared["adapter"] = "merged"  # in fp32 the answers are the same as beside the weights
        name = key("point", **shared)
        if name not in self.trajectories:
            kind = "tune" if isinstance(attack, HonestTuning) else "attack"
            label = f"{kind} {lineup}: {attacker.strip()}, seed {seed}"
            self.trajectories[name] = Trajectory(name, released, attack, seed, label, shared, {})
        found = self.trajectories[name]
        if attack is not found.attack and found.attack is not None:
            # The same trajectory asked for twice with other budgets: the longer one serves both.
            longer = max(attack, found.attack, key=lambda one: max(one.points()))
            found.attack = longer
        sampling = seed if self.study.generation.temperature > 0 else 0
        for budget in attack.points():
            if budget not in found.points:
                point = key("point", trajectory=name, budget=float(budget))
                found.points[budget] = self._point(
                    point, budget, released, shared, sampling, self._sets_of(attack),
                    isinstance(attack, PromptAttack),
                )  # fmt: skip
        return found

    def _sets_of(self, attack: Attack) -> list[int]:
        """Give the places of the sets that an attacked or tuned model is asked."""
        if isinstance(attack, HonestTuning):
            return sorted(self._taught)
        return [i for i, one in enumerate(self.study.evaluation) if one.at == "all"]

    def _point(
        self,
        name: str,
        budget: float,
        released: Released,
        config: Mapping[str, Any],
        sampling: int,
        which: Iterable[int],
        prompts_only: bool = False,
    ) -> Point:
        """Give a model at one budget with what is asked of it.

        Under an attack by prompt the weights are the release's, and whoever wants a benign answer
        asks as before: those answers are the release's own.
        """
        asked = {}
        generation = self.study.generation
        form = released.start.evaluation_format.identity()
        release = self._released(released, sampling) if prompts_only else None
        for i in which:
            prompts = self.prompts[i]
            if release is not None and prompts.set.purpose is not EvalPurpose.HARM:
                asked[i] = release.asked[i]
                continue
            harm = prompts.set.purpose is EvalPurpose.HARM
            sampler = generation if harm else generation.with_(draws=1)
            parts: dict[str, Any] = {
                "point": name,
                "prompts": prompts.asked,
                "format": form,
                "sampler": sampler.key_fields() if prompts.sampled else None,
                "seed": sampling,
            }
            step = Generate(
                key("generate", **parts),
                name,
                i,
                {**parts, "set": prompts.set.name, "side": prompts.side, "budget": budget}
                | {"stands_on": dict(config)},
                sampler.draws,
            )
            for j in self.judges_of(prompts):
                judge = self.parts.judges[j]
                step.judges[j] = key(
                    "judge",
                    answers=step.key,
                    judge=self._identities[id(judge)],
                    known=prompts.known,
                    **({"purpose": prompts.set.purpose.value} if judge.reads_purpose else {}),
                )
            asked[i] = step
        return Point(name, budget, asked)

    def judges_of(self, prompts: Prompts) -> list[int]:
        """Give the judges that read a set, as its scorer says.

        All that tell harm, the first that tells a refusal, or none.
        """
        judges = self.parts.judges
        if prompts.set.scorer is Scorer.JUDGES:
            return [j for j, judge in enumerate(judges) if judge.tells_harm]
        able = [j for j, judge in enumerate(judges) if judge.tells_refusals]
        return able[:1] if prompts.set.scorer is Scorer.JUDGE else []


def _label(released: Released) -> str:
    if released.last is None:
        return f"{released.start.name}"
    names = "+".join(step.method.name() for step in released.chain)
    return f"{released.start.name}+{names}, seed {released.last.seed}"
