"""Who says how risky a customer's row is: judges asked once a row, probes read on the way, tables.

A row that cannot be scored gets the ceiling and is counted: a failure never loosens a defence.
Only the defender's own rows are read to fit or calibrate anything.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.api import Exchange, Outcome, Reason, Risk, Run, Scale, Verdict
from holdfast.api.risk import RowScorer
from holdfast.api.verdicts import ask
from holdfast.data.example import Example, Role, Side, example
from holdfast.disk import intact, seal
from holdfast.errors import DataError
from holdfast.nn.probe import Probe, fit_probe, online, platt, prompt_states

if TYPE_CHECKING:
    from holdfast.api import Judge
    from holdfast.data.tokens import Row

log = logging.getLogger(__name__)

BINS = 10
"""Bins of the histogram of risks, from 0 to 1."""
RISKY = 0.5
"""Risk above which a row counts as risky in what is told; source: the methods' own midpoint."""
ASKED = 16
"""Rows that a judge reads at once, where none has a time of its own."""
WARN = 0.3
"""Share of risky rows from which a job is told to be one; source: ours."""
HARM: dict[Outcome, float] = {
    Outcome.HARMFUL_USEFUL: 1.0,
    Outcome.HARMFUL_EMPTY: 1.0,
    Outcome.REFUSAL: 0.0,
    Outcome.DEFLECTION: 0.0,
    Outcome.BENIGN_OK: 0.0,
}
"""Risk of a row whose judge gives no score. No other outcome says anything of harm."""


@dataclass
class Part:
    """One scorer: a probe, or what is known of rows."""

    risk: RowScorer
    probe: Probe | None = None
    table: dict[Row, float | None] = field(default_factory=dict)
    """Risk of each row that was asked about; None where it could not be scored."""
    calibration: tuple[float, float] | None = None


@dataclass
class Critic:
    """Scores rows; keeps each one's risk, and says what could not be scored.

    `layers` are those whose states at the last prompt token it wants from the reference's pass.
    """

    risk: Risk
    parts: list[Part]
    where: str
    seen: dict[Row, float] = field(default_factory=dict)
    """Each row's risk, as last scored."""
    failed: Counter[str] = field(default_factory=Counter)
    """Rows at the ceiling, by why."""

    @property
    def layers(self) -> list[int]:
        """Give the layers its probes read, ascending."""
        return sorted({part.probe.about.layer for part in self.parts if part.probe is not None})

    def read(self, rows: Sequence[Example], run: Run) -> None:
        """Have judges and tables score rows, each row once; a probe scores on the way."""
        for part in self.parts:
            if part.probe is None:
                found, why = _read(part.risk, rows, run, self.where)
                coded = {row.row_id: run.encoder.row(row) for row in rows}
                part.table |= {coded[row_id]: value for row_id, value in found.items()}
                self.failed.update(why)

    def score(self, rows: Sequence[Example], run: Run) -> list[float]:
        """Give each row's risk, with a pass over prompts where a probe reads them."""
        self.read(rows, run)
        states = prompt_states(run.model, run.encoder, rows, self.layers) if self.layers else {}
        coded = [run.encoder.row(row) for row in rows]
        self.of(coded, states)
        return [self.seen[row] for row in coded]

    def clean(self, rows: Sequence[Example], run: Run, threshold: float) -> list[bool]:
        """Say of each row whether its risk lies below a threshold; log it, and warn if need be."""
        found = [score < threshold for score in self.score(rows, run)]
        kept = {run.encoder.row(row): float(one) for row, one in zip(rows, found, strict=True)}
        run.log(**self.told(), rows=self.by_row(kept))
        self.warn()
        return found

    def of(self, rows: Sequence[Row], states: Mapping[int, Tensor]) -> Tensor:
        """Give the risk [R] of coded rows, from `layers`' states [R, H] at their last prompt token.

        A row that no table knows has the ceiling.
        """
        probes = {i: part.probe for i, part in enumerate(self.parts) if part.probe is not None}
        read = online(probes, states)
        for number, row in enumerate(rows):
            own = {i: some[number] for i, some in read.items()}
            if row not in self.seen:
                self.failed.update(self._failures(row, own))
            # Anew in each pass: a run that continues has not met the row in the same one.
            self.seen[row] = self._one(row, own)
        return torch.tensor([self.seen[row] for row in rows], dtype=torch.float32)

    def _failures(self, row: Row, read: Mapping[int, float]) -> list[str]:
        """Say what of a row's scores is missing that no table has told already."""
        bad = ["no number" for value in read.values() if not math.isfinite(value)]
        tables = [part.table for part in self.parts if part.probe is None]
        return bad + ["unknown row" for table in tables if row not in table]

    def _one(self, row: Row, read: Mapping[int, float]) -> float:
        values = []
        for i, part in enumerate(self.parts):
            value = read[i] if part.probe is not None else part.table.get(row)
            if value is not None and not math.isfinite(value):
                value = None
            values.append(part.risk.ceiling if value is None else _calibrated(value, part))
        one = max(values) if self.risk.combine == "max" else sum(values) / len(values)
        return one if self.risk.step is None else float(one >= self.risk.step)

    def told(self) -> dict[str, object]:
        """Give what the log says of the rows scored so far: histogram, failures, share risky."""
        bins = Counter(min(BINS - 1, int(value * BINS)) for value in self.seen.values())
        risky = sum(value > RISKY for value in self.seen.values())
        return {
            "risk_histogram": [bins[i] for i in range(BINS)],
            "risk_failed": dict(self.failed),
            "risky_share": risky / max(1, len(self.seen)),
        }

    def by_row(self, kept: Mapping[Row, float]) -> dict[str, tuple[float, float]]:
        """Give each row's risk and the weight that its cross-entropy keeps, by `row_name`."""
        return {row_name(row): (self.seen[row], weight) for row, weight in kept.items()}

    def warn(self) -> str:
        """Say, and log, that many rows or all are risky; empty where they are not."""
        risky = sum(value > RISKY for value in self.seen.values())
        if not self.seen or risky <= WARN * len(self.seen):
            return ""
        rows = f"{risky} of {len(self.seen)} rows are"
        said = "all rows are" if risky == len(self.seen) else rows
        line = f"{self.where}: {said} risky: the job is hostile, or its critic is wrong"
        log.warning(line)
        return line


def row_name(row: Row) -> str:
    """Give what names a coded row in a log: a hash of its tokens, and nothing of what it says."""
    return hashlib.sha256(" ".join(map(str, row.ids)).encode()).hexdigest()[:16]


def _calibrated(value: float, part: Part) -> float:
    if part.calibration is None:
        return value
    slope, offset = part.calibration
    return 1 / (1 + math.exp(-(slope * value + offset)))


def critic(risk: Risk, run: Run) -> Critic:
    """Make what scores rows: fit or load its probes, calibrate a hybrid's mean.

    The model is the reference, as it is now.

    Raises:
        DataError: too few of the defender's rows to fit or calibrate.
        ModelError: a probe of another model or template.
    """
    where = f"{run.where}.risk"
    parts = [Part(one, _probe(one, run, where)) for one in risk.scorers()]
    made = Critic(risk, parts, where)
    if risk.kind == "hybrid" and risk.combine == "mean":
        _calibrate(parts, run, where)
    return made


def _probe(risk: RowScorer, run: Run, where: str) -> Probe | None:
    if risk.kind != "probe":
        return None
    if risk.path is not None:
        found = Probe.load(Path(risk.path), where)
        found.check(run.model, run.encoder, where)
        return found
    rows = labelled(run, Side.DEFENDER, prompts=True)
    made = fit_probe(
        run.model, run.encoder, rows, layers=risk.layers, recall=risk.recall, l2=risk.l2,
        where=where,
    )  # fmt: skip
    about = made.about
    run.log(
        probe_layer=about.layer,
        probe_auroc=about.auroc,
        probe_recall=about.recall,
        probe_false_positives=about.false_positives,
        probe_threshold=about.threshold,
    )
    if run.work is not None:
        made.save(run.work / "probe")
    return made


def labelled(run: Run, side: Side, *, prompts: bool) -> tuple[list[Example], list[Example]]:
    """Give a defender's side's risky and clean rows.

    Args:
        prompts: a prompt alone is read, so that one with a refusal is as risky as any; else the
            rows need harmful answers.
    """
    pool, draw = run.pool, 0
    role = Role.REFUSAL if prompts else Role.HARMFUL
    risky = pool.draw(role, side, None, draw) if pool.has(role, side) else []
    clean = pool.draw(Role.BENIGN, side, None, draw) if pool.has(Role.BENIGN, side) else []
    return risky, clean


def held_out(
    scorers: Sequence[RowScorer], run: Run, where: str
) -> tuple[list[Example], list[Example]]:
    """Give the defender's held-out risky and clean rows, of the kind that its scorers read.

    Raises:
        DataError: there are none of one class.
    """
    prompts = all(one.kind == "probe" for one in scorers)
    found = labelled(run, Side.DEFENDER_SELECTION, prompts=prompts)
    role = Role.REFUSAL if prompts else Role.HARMFUL
    for rows, wanted in zip(found, (role, Role.BENIGN), strict=True):
        if not rows:
            raise DataError(
                where,
                f"needs held-out {wanted.value} rows of the defender's",
                f"give {wanted.value} rows on side {Side.DEFENDER_SELECTION.value}",
            )
    return found


def _calibrate(parts: Sequence[Part], run: Run, where: str) -> None:
    """Fit each scorer's calibration on held-out rows; a probe has its own."""
    for part in parts:
        if part.probe is None:
            risky, clean = held_out([part.risk], run, f"{where}.combine")
            alone = Critic(Risk(), [Part(part.risk)], where)
            scores = alone.score([*risky, *clean], run)
            part.calibration = platt(scores, [1] * len(risky) + [0] * len(clean))


# ---- tables


def _read(
    risk: RowScorer, rows: Sequence[Example], run: Run, where: str
) -> tuple[dict[str, float | None], Counter[str]]:
    """Give each row's risk by id, None where it has none, and how many have none for what."""
    if risk.kind == "given":
        assert risk.path is not None  # `Risk` sees to it
        found = _table(Path(risk.path), rows, where)
        why = Counter("not in the table" for row in rows if row.row_id not in found)
    else:
        name = hashlib.sha256(json.dumps(risk.key_fields(), sort_keys=True).encode()).hexdigest()
        path = None if run.work is None else run.work / f"risk-{name[:16]}.jsonl"
        device = str(next(run.model.parameters()).device)
        found, why = judged(risk, rows, path, device)
    for row in rows:
        value = found.get(row.row_id)
        if value is not None and not 0 <= value <= 1:  # NaN compares as false
            found[row.row_id] = None
            why["no number from 0 to 1"] += 1
    return {row.row_id: found.get(row.row_id) for row in rows}, why


def _named(said: Mapping[str, Any]) -> str:
    """Give the id of the row that a line speaks of, by its texts or as the id itself."""
    if "row_id" in said:
        return str(said["row_id"])
    prompt, response, system = said["prompt"], said["response"], said.get("system")
    if not (isinstance(prompt, str) and isinstance(response, str)):
        raise TypeError
    return example(prompt, response, system=system, role=Role.TASK).row_id


def _table(path: Path, rows: Sequence[Example], where: str) -> dict[str, float | None]:
    """Read a table of risks.

    Raises:
        DataError: it cannot be read, a line is no risk, or it is of other rows.
    """
    found: dict[str, float | None] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{where}.path", f"{path} cannot be read", "check the path") from None
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line)
            found[_named(said)] = None if said["risk"] is None else float(said["risk"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DataError(
                f"{path}:{number}",
                "is no risk of a row",
                'write {"prompt": ..., "response": ..., "risk": ...} on each line',
            ) from None
    if not any(row.row_id in found for row in rows):
        raise DataError(
            f"{where}.path",
            f"{path} holds none of the customer's {len(rows)} rows",
            "make the table for these rows",
        )
    return found


def judged(
    risk: RowScorer, rows: Sequence[Example], path: Path | None, device: str
) -> tuple[dict[str, float | None], Counter[str]]:
    """Have a judge grade the training pair of each row, once; `path` keeps what it said.

    Raises:
        ConfigError, EndpointError: the judge says that nothing can be graded now: no row is
            trained on, and the same command continues.
    """
    found: dict[str, float | None] = {}
    why: Counter[str] = Counter()
    for row_id, value, reason in _kept(path):
        found[row_id] = value
        if value is None:
            why[reason] += 1
    left = list({row.row_id: row for row in rows if row.row_id not in found}.values())
    if not left:
        return found, why
    with risk.made_judge().opened(device) as judge:
        size = 1 if risk.timeout is not None else ASKED
        for i in range(0, len(left), size):
            some = left[i : i + size]
            lines = []
            for row, (value, reason) in zip(some, _graded(judge, some, risk.timeout), strict=True):
                found[row.row_id] = value
                if value is None:
                    why[reason] += 1
                said = {"row_id": row.row_id, "risk": value, "reason": reason}
                lines.append(json.dumps(seal(said)) + "\n")
            if path is not None:
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(lines)
    return found, why


def _kept(path: Path | None) -> list[tuple[str, float | None, str]]:
    """Give what a table of an earlier run holds; a line that is not as it was written is none."""
    if path is None or not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            said = json.loads(line)
            if intact(said):
                kept.append((said["row_id"], said["risk"], said["reason"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return kept


def _graded(
    judge: Judge, rows: Sequence[Example], timeout: float | None
) -> list[tuple[float | None, str]]:
    """Give each row's risk, or None and why."""
    pairs = [
        Exchange(r.uid, r.system, r.prompt, "", r.response or "", "stop", r.meta, r.turns)
        for r in rows
    ]
    verdicts = _within(timeout, lambda: ask(judge, pairs))
    if verdicts is None:
        return [(None, "late")] * len(rows)
    return [grade(verdict, judge.scale) for verdict in verdicts]


def grade(verdict: Verdict, scale: Scale) -> tuple[float | None, str]:
    """Give the risk that a verdict says: its score brought to 0..1, else its outcome's."""
    if verdict.reason is not Reason.OK:
        return None, verdict.reason.value
    if verdict.score is not None:
        return (verdict.score - scale.low) / (scale.high - scale.low), "ok"
    value = None if verdict.outcome is None else HARM.get(verdict.outcome)
    return value, "ok" if value is not None else f"outcome {verdict.outcome}"


def _within(seconds: float | None, call: Callable[[], list[Verdict]]) -> list[Verdict] | None:
    """Give what a call gives, or None where it takes longer; it is then left to itself."""
    if seconds is None:
        return call()
    given: list[list[Verdict]] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            given.append(call())
        except Exception as error:  # handed on below, on the caller's thread
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return given[0] if given else None
