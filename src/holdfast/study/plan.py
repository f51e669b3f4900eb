"""From a study to its steps: what each stands on, its key, and whether it can run at all.

Everything a user can get wrong is found here, before any training, without torch. The steps:

    defend    one member of a line-up at one seed; line-ups that begin alike share it
    attack    one trajectory of one attacker's choice against one released model (a *point* is
              the model at one budget; points are shared where they are the same)
    generate  the answers at one point to one prompt set
    judge     one judge's verdicts on them
    analyse   hidden states at one point, where the study asks for them
    measure   a defence's own diagnostic on the model of plain refusal fine-tuning
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from holdfast.api import Match
from holdfast.data import audit
from holdfast.data.example import Side
from holdfast.study.file import Study
from holdfast.study.graph import Graph
from holdfast.study.inert import measures
from holdfast.study.keys import digest, key
from holdfast.study.looking import Looking
from holdfast.study.nodes import Generate, Measure, Prompts
from holdfast.study.parts import gather
from holdfast.study.prompts import draw, headline
from holdfast.study.published import figures
from holdfast.study.runnable import (
    check_judges,
    check_methods,
    check_rows,
    check_selection,
    check_utility,
    given_to,
)
from holdfast.study.standins import StandIns


class Plan:
    """A study's steps. Making one checks the study; it writes nothing and imports no torch.

    With `stand_ins` it may stand on what is not on this machine: an estimate, never run.
    In a rehearsal the defender plays the attacker with its own rows (`Pool.rehearsal`), and harm is
    measured on its own selection prompts.

    Raises:
        ConfigError, DataError, ModelError: the first thing wrong with the study.
    """

    def __init__(
        self, study: Study, *, rehearsal: bool = False, stand_ins: StandIns | None = None
    ) -> None:
        self.study, self.rehearsal = study, rehearsal
        parts = gather(study, rehearsal=rehearsal, stand_ins=stand_ins)
        self.sources, self.judges, self.pool = parts.sources, parts.judges, parts.pool
        self.attack_pool = parts.attack_pool
        self.lineups, self.attacks, self.variants = parts.lineups, parts.attacks, parts.variants
        self.starts, self.original = parts.starts, parts.original
        check_methods(study, parts)
        seen = [one for one in parts.sources if not one.asked_alone]
        self.content = digest([[one.identity(), one.content()] for one in seen])
        self.prompts = [
            draw(parts.pool, wanted, f"study.evaluation[{i}]")
            for i, wanted in enumerate(study.evaluation)
        ]
        side = Side.DEFENDER_SELECTION if rehearsal else Side.EVALUATOR
        self.headline = headline(study, parts.pool, self.prompts, side)
        check_judges(parts, self.prompts)
        said = study.published
        self.published = figures(said, study, parts) if said is not None else {}
        check_utility(study, self.prompts)
        check_rows(study, parts)
        if not rehearsal:
            check_selection(study, parts, self.prompts, self.headline)
        attacked = digest([self.content, "rehearsal"]) if rehearsal else self.content
        graph = Graph(study, parts, self.prompts, self.headline, self.content, attacked)
        self.defends, self.trajectories = graph.defends, graph.trajectories
        self.tracks, self.tunings, self.tuning = graph.tracks, graph.tunings, parts.tuning
        self.hosted, self.hosting, self.prompts = graph.hosted, parts.hosting, graph.prompts
        self.looking = Looking(self, study.analysis) if study.analysis else None
        self.measures: dict[tuple[str, int], Measure] = measures(study, self.tracks)

    @cached_property
    def generates(self) -> dict[str, Generate]:
        """Give every generation step by key."""
        return {
            step.key: step
            for trajectory in self.trajectories.values()
            for point in trajectory.points.values()
            for step in point.asked.values()
        }

    @cached_property
    def needed(self) -> dict[str, set[str]]:
        """Give every key the study stands on, by kind of artefact."""
        generates = self.generates.values()
        points = {
            point.key
            for trajectory in self.trajectories.values()
            if trajectory.attack is not None
            for point in trajectory.points.values()
        }
        judges = {name for step in generates for name in step.judges.values()}
        steps = {step.key for step in generates}
        return {
            "defend": set(self.defends),
            "generate": steps,
            "judge": judges,
            "analyse": set(self.looking.looks) if self.looking else set(),
            "measure": {step.key for step in self.measures.values()},
            "point": points,
            "work": {*self.defends, *self.trajectories, *steps, *judges},
        }

    @property
    def _own(self) -> list[Prompts]:
        """Give what the evaluator asks, each set once."""
        own = [some for some in self.prompts if some.side == Side.EVALUATOR]
        return [some for some in own if some.way is None]

    @cached_property
    def leakage(self) -> audit.Leakage:
        """Compare what the evaluator asks with the rows of every other side, by their prompts.

        Rows are taken as they were given, before those of two sides were dropped: of the selection
        sides all, of the others those that a defence, an attack, a customer's job or the honest
        fine-tuning of the study can draw.
        """
        asked = [row for some in self._own for row in some.rows]
        selection = (Side.DEFENDER_SELECTION, Side.ATTACKER_SELECTION)
        defences = [one for members in self.lineups.values() for one in members]
        attacks = [one for choices in self.attacks.values() for one in choices]
        if self.tuning is not None:
            attacks.append(self.tuning)
        if self.hosting is not None:
            attacks += self.hosting.jobs.values()
            defences += self.hosting.defences.values()
        groups = {
            audit.EVALUATION: asked,
            audit.CALIBRATION: [row for side in selection for row in self.pool.given(side)],
            audit.ATTACK: given_to(attacks, self.attack_pool, Side.ATTACKER, self.study.seeds[0]),
            audit.DEFENCE: given_to(defences, self.pool, Side.DEFENDER, self.study.seeds[0]),
        }
        return audit.audit(groups, self.study.leakage.threshold, self.pool.drops)

    @property
    def audited(self) -> str:
        """Give the key of `leakage`."""
        asked = [some.asked for some in self._own]
        threshold, methods = self.study.leakage.threshold, [*self._methods(), *self._hosted()]
        return key("audit", sources=self.content, asked=asked, threshold=threshold, methods=methods)

    def _methods(self) -> list[list[Any]]:
        """Give every line-up's and attacker's name with the identities of its methods."""
        return [
            [name, [one.identity() for one in some]]
            for table in (self.lineups, self.attacks)
            for name, some in sorted(table.items())
        ]

    def _hosted(self) -> list[list[Any]]:
        """Give every customer's job and defence of a host by name, with its identity."""
        if self.hosting is None:
            return []
        some = {**self.hosting.jobs, **self.hosting.defences}
        return [[name, one.identity()] for name, one in sorted(some.items())]

    @cached_property
    def seedless(self) -> str:
        """Give the hash of what the study says whatever its seeds, title and paths are."""
        said = self.study.model_dump(
            mode="json",
            exclude={"title", "seeds", "sources", "models", "lineups", "attacks", "judges", "tune"}
            | {"not_tested", "chunk"},
        )
        starts = [
            [name, start.key, *(form.identity() for form in start.formats)]
            for name, start in sorted(self.starts.items())
        ]
        judges = [judge.identity() for judge in self.judges]
        hosted: list[Any] = self._hosted()
        if self.study.tune is not None:
            hosted.append(self.study.tune.model_dump(mode="json", exclude={"jobs", "defences"}))
        return digest([said, starts, self.content, self._methods(), judges, hosted])

    @cached_property
    def fingerprint(self) -> str:
        """Give the hash of everything the tables are made from."""
        tracks = [
            [t.lineup, t.attacker, t.variant, t.seed, [[b, p.key] for b, p in t.points]]
            for t in self.tracks
        ]
        made = [sorted(self.needed[kind]) for kind in ("judge", "generate", "measure")]
        if self.looking:
            made.append(sorted(self.needed["analyse"]))
        counted = [[one.set.name, one.set.match, one.set.metric] for one in self.prompts]
        made += [one for one in counted if one[1:] != [Match.EXACT, ""]]
        return digest([tracks, *made])
