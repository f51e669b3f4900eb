"""Runs trials as the line-ups of one study, and keeps one line a finished trial in a log.

The log is written whole each time, in the order of the file: what is in it is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holdfast.api.verdicts import unscored
from holdfast.disk import whole_file
from holdfast.engine import local, tables
from holdfast.engine.draws import COUNTED
from holdfast.engine.show import Done, Show, Sizes
from holdfast.engine.store import Store, write_lines
from holdfast.errors import DataError, HoldfastError, StoreError
from holdfast.stats.cells import invalid
from holdfast.stats.rows import Outcomes
from holdfast.study.keys import canonical
from holdfast.study.plan import Plan
from holdfast.study.rehearsal import Trial, labels, rehearse, trials_of
from holdfast.study.trials import Trials

HEAD = {"trial", "seed", "under", "defences"}
"""What every line of a log has."""

Line = dict[str, Any]
"""A trial at one seed, as the log has it: `trial`, `seed`, `under`, `defences`, then `steps`,
`flops`, `harm` and `utility` as released, `curves` (attack -> [examples, harm] pairs) and
`diagnostics`; or `failed` with the reason."""


class Log:
    """The finished trials of one file.

    Raises:
        DataError: it cannot be read, or was made under other attacks, prompts, judge or start.
    """

    def __init__(self, path: Path, said: Trials) -> None:
        self.path, self.said = path, said
        self.trials = trials_of(said)
        self.plan = rehearse(said, self.trials)
        self.under = conditions(said, self.plan)
        place = {_name(trial.method, trial.defences): i for i, trial in enumerate(self.trials)}
        self.lines: dict[tuple[int, int], Line] = {}
        self.others: list[Line] = []
        for line in _read(path):
            differs = [key for key, value in self.under.items() if line["under"].get(key) != value]
            if differs:
                raise DataError(
                    str(path), f"'{line['trial']}' was tried under other {differs[0]}",
                    "name another --log, or put the file back as it was",
                )  # fmt: skip
            found = place.get(_name(line["trial"], line["defences"]))
            if found is None or line["seed"] not in said.seeds:
                self.others.append(line)
            else:
                self.lines[found, line["seed"]] = line

    @property
    def left(self) -> list[Trial]:
        """Give the trials that miss a seed."""
        return [
            trial
            for i, trial in enumerate(self.trials)
            if any((i, seed) not in self.lines for seed in self.said.seeds)
        ]

    def add(self, place: int, seed: int, line: Line) -> None:
        """Put a finished trial in and write the log whole."""
        self.lines[place, seed] = line
        with whole_file(self.path) as part:
            write_lines(part, [*(self.lines[key] for key in sorted(self.lines)), *self.others])


def _name(trial: str, defences: Sequence[Any]) -> str:
    return canonical([trial, list(defences)])


def _read(path: Path) -> list[Line]:
    if not path.exists():
        return []
    lines: list[Line] = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if not isinstance(line, dict) or not isinstance(line.get("under"), dict):
                raise ValueError("no object")
            if not line.keys() >= HEAD:
                raise ValueError("no trial")
            lines.append(line)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "check the file") from None
    except (ValueError, RecursionError):
        where = f"{path}:{len(lines) + 1}"
        raise DataError(where, "is no line of a log of trials", "name another --log") from None
    return lines


def conditions(said: Trials, plan: Plan) -> dict[str, Any]:
    """Give what every trial has in common: two logs that differ here cannot be compared."""
    return {
        "start": said.models[said.start].path,
        "attacks": [label for *_, label in labels(plan)],
        "prompts": {prompts.set.name: len(prompts.rows) for prompts in plan.prompts},
        "judge": plan.judges[0].name(),
    }


class Trying:
    """Shows a run and logs every trial that it finishes."""

    def __init__(
        self, log: Log, plan: Plan, store: Store, show: Show, tell: Callable[[str, int], None]
    ) -> None:
        self.log, self.plan, self.store, self.show, self.tell = log, plan, store, show, tell
        self.labels: dict[str, set[tuple[int, int]]] = {}
        shared: set[str] = set()
        self.needs: dict[tuple[int, int], list[tuple[str, str]]] = {}
        place = {trial.lineup: i for i, trial in enumerate(log.trials)}
        for track in plan.tracks:
            key = (place[track.lineup], track.seed)
            if key in log.lines:
                continue
            needs = self.needs.setdefault(key, [])
            for step in track.released.chain:
                needs.append(("defend", step.key))
                self.labels.setdefault(step.label, set()).add(key)
            for point in (point for _, point in track.points):
                for asked in point.asked.values():
                    needs.append(("generate", asked.key))
                    needs += [("judge", name) for name in asked.judges.values()]
        owners = {t.released.key: set[tuple[int, int]]() for t in plan.tracks}
        for track in plan.tracks:
            owners[track.released.key].add((place[track.lineup], track.seed))
        for trajectory in plan.trajectories.values():
            names = [trajectory.label]
            names += [f"judge {trajectory.label}: {judge.name()}" for judge in plan.judges]
            for name in names:
                self.labels.setdefault(name, set()).update(owners[trajectory.released.key])
            shared |= {*names} if trajectory.attack is None else set()
        self.own = {name: keys for name, keys in self.labels.items() if name not in shared}
        """Labels that no other trial's step has: a release is called by its methods alone."""

    def start(self, total: int, sizes: Sizes | None = None) -> None:
        """Say how many steps there are to do, and how large those are that take time."""
        self.show.start(total, sizes)

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Say how far a step has come."""
        self.show.step(worker, label, part, done, total)

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Say that a step has ended, and log the trials that ended with it."""
        self.show.finish(worker, label, seconds, ok)
        if ok:
            self.collect(sorted(self.labels.get(label, ())))

    def collect(self, keys: Sequence[tuple[int, int]]) -> None:
        """Log those of some trials all of whose steps are in the store."""
        for key in keys:
            needs = self.needs.get(key)
            if needs is None or not all(self.store.has(*one) for one in needs):
                continue
            del self.needs[key]
            self.log.add(*key, self._line(*key))
            self.tell(self.log.trials[key[0]].lineup, len(self.needs))

    def fail(self, failures: Sequence[HoldfastError]) -> list[HoldfastError]:
        """Log trials that cannot be made; give the failures that may pass another time.

        A step that said itself what is wrong would say it again. A killed worker, a full disk or an
        error nobody expected may not.
        """
        passing = []
        for error in failures:
            label = next((name for name in self.own if error.where.startswith(f"{name}: ")), "")
            if not label or isinstance(error, StoreError):
                passing.append(error)
                continue
            for key in sorted(self.own[label] & self.needs.keys()):
                del self.needs[key]
                self.log.add(*key, {**self._head(*key), "failed": str(error)})
        return passing

    def _head(self, place: int, seed: int) -> Line:
        trial = self.log.trials[place]
        return {
            "trial": trial.method,
            "seed": seed,
            "under": self.log.under,
            "defences": list(trial.defences),
        }

    def _line(self, place: int, seed: int) -> Line:
        """Make a trial's line from finished steps."""
        lineup = self.log.trials[place].lineup
        tracks = [t for t in self.plan.tracks if (t.lineup, t.seed) == (lineup, seed)]
        results = [
            self.store.manifest("defend", step.key)["result"] for step in tracks[0].released.chain
        ]
        rows = [
            row for row in tables.outcomes(self.plan, self.store, [lineup]) if row["seed"] == seed
        ]
        cells = invalid(Outcomes(rows))
        if cells:
            return {**self._head(place, seed), "failed": cells[0]}
        first = {"attack": tracks[0].attacker, "variant": tracks[0].variant}
        release = [row for row in rows if not row["budget"] and first.items() <= row.items()]
        return {
            **self._head(place, seed),
            "steps": sum(result["steps"] for result in results),
            "flops": float(sum(result["flops"] for result in results)),
            "harm": self._harm(release),
            "utility": _share([row["correct"] for row in release if row["correct"] is not None]),
            "curves": {
                label: [
                    [budget, self._harm(_at(rows, attacker, variant, budget))]
                    for track in tracks
                    if (track.attacker, track.variant) == (attacker, variant)
                    for budget, _ in track.points
                    if budget
                ]
                for attacker, variant, label in labels(self.plan)
            },
            "diagnostics": results[-1]["diagnostics"] if results else {},
        }

    def _harm(self, rows: Sequence[Line]) -> float:
        harm = self.plan.headline.set.name
        return _share(
            [
                row["outcome"] in COUNTED
                for row in rows
                if row["set"] == harm and not unscored(row["reason"], row["outcome"])
            ]
        )


def _at(rows: Sequence[Line], attack: str, variant: str, budget: float) -> list[Line]:
    wanted = {"attack": attack, "variant": variant, "budget": budget}
    return [row for row in rows if wanted.items() <= row.items()]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def run(
    log: Log,
    plan: Plan,
    store: Store,
    *,
    show: Show,
    tell: Callable[[str, int], None],
    workers: int,
    threads: int,
    device: str,
) -> Done:
    """Do what is left of `plan` (the log's trials that are left); the caller holds the store.

    `tell` hears of every trial that is logged, and how many are left. The failures that are given
    back may pass another time; the others are in the log.
    """
    trying = Trying(log, plan, store, show, tell)
    trying.collect(sorted(trying.needs))
    done = local.run(plan, store, workers=workers, threads=threads, device=device, show=trying)
    trying.collect(sorted(trying.needs))
    done.failures = trying.fail(done.failures)
    return done
