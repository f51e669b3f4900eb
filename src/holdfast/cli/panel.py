"""A panel of judges on a file of answers: their verdicts, kept, and how far they agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.exchanges import exchanges as exchanges_of
from holdfast.cli.folders import try_filling
from holdfast.cli.reading import check_scored, line_of, read
from holdfast.cli.saying import say
from holdfast.errors import ConfigError, InvalidResultsError

if TYPE_CHECKING:
    from holdfast.api import Exchange, Judge, Verdict
    from holdfast.stats.agreement import Readings


PANEL = "panel.json"


def answers_in(path: Path) -> bool:
    """Say whether a file holds answers and not a study: JSON is either, and a study an object."""
    from holdfast.data.records import is_rows

    if path.suffix.lower() != ".json":
        return is_rows(str(path))
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(1000).lstrip().startswith("[")
    except OSError:
        return False  # reading the study says why


def rescore_file(path: Path, judges: Sequence[Any], out: Path, device: str) -> int:
    """Have judges read a file of answers, and write their verdicts and agreement into a folder.

    A judge's verdicts are in `JUDGE-IDENTITY.jsonl`: the same judge with the same fields reads only
    answers that it has not read yet, whatever became of the run before. `panel.json` holds the
    agreement of every two.

    Raises:
        ConfigError: one judge is given twice, or some grade answers and some do not.
        InvalidResultsError: a judge left too many answers without a verdict.
    """
    from holdfast import disk
    from holdfast.api import Outcome
    from holdfast.api.verdicts import unscored
    from holdfast.report.counted import words

    given = list(exchanges_of(path))
    graders = [judge.name() for judge in judges if judge.tells_right]
    if 0 < len(graders) < len(judges):
        raise ConfigError(
            "--judge",
            f"{graders[0]} grades answers right or wrong, others do not: there is nothing to agree "
            "on",
            "give judges of one kind",
        )
    files = {_file_of(judge): judge for judge in judges}
    if len(files) < len(judges):
        raise ConfigError("--judge", "one judge is given twice", "give each once")
    try_filling(out, "--out")
    with disk.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / PANEL).unlink(missing_ok=True)  # it is of other judges until these have read
    said = {}
    for name, judge in files.items():
        said[name] = _verdicts(judge, given, out / name, device)
        missing = sum(unscored(one.reason, one.outcome) for one in said[name])
        counted = Outcome.RIGHT if judge.tells_right else judge.counts() or Outcome.REFUSAL
        known = {Outcome.REFUSAL: "refusals", Outcome.RIGHT: "right"}
        word = known.get(counted) or words(counted).one
        found = sum(one.outcome is counted for one in said[name])
        say(f"{judge.name()}: {found} {word}, {missing} without a verdict: {out / name}")
    readings = _readings([judge.name() for judge in judges], given, list(said.values()))
    told = {"answers": str(path), "judges": [
        {"file": name, "identity": judge.identity()} for name, judge in files.items()
    ], **_agreement(readings)}  # fmt: skip
    disk.write_bytes(out / PANEL, (json.dumps(told, indent=1) + "\n").encode())
    failed = None
    for name, judge in files.items():
        try:
            check_scored(said[name], f"judge '{judge.name()}'", f"see {out / name}")
        except InvalidResultsError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return 0


def _file_of(judge: Judge) -> str:
    from holdfast.study.keys import digest

    return f"{judge.name()}-{digest(judge.identity())[:12]}.jsonl"


def _answer_key(exchange: Exchange) -> str:
    """Give what two exchanges have in common that a judge cannot tell apart."""
    from holdfast.study.keys import digest

    return digest(asdict(exchange) | {"meta": dict(exchange.meta)})


def _verdicts(judge: Judge, given: Sequence[Exchange], path: Path, device: str) -> list[Verdict]:
    """Give a judge's verdicts; those in its file are not asked for again, unless for an error."""
    from holdfast.cli.folders import whole_file

    keys = [_answer_key(one) for one in given]
    known = _kept(path)
    new = {key: one for key, one in zip(keys, given, strict=True) if key not in known}

    def keep(part: Sequence[Exchange], said: Sequence[Verdict]) -> None:
        with path.open("a", encoding="utf-8") as file:
            for exchange, verdict in zip(part, said, strict=True):
                key = _answer_key(exchange)
                known[key] = verdict
                file.write(json.dumps({"answer": key, **line_of(exchange, verdict)}) + "\n")

    read(judge, list(new.values()), device, keep)
    lines = [
        {"answer": key, **line_of(one, known[key])} for key, one in zip(keys, given, strict=True)
    ]
    whole_file(path, lines)
    return [known[key] for key in keys]


def _kept(path: Path) -> dict[str, Verdict]:
    """Read the verdicts of a run before, without torn lines and without errors: those are asked."""
    from holdfast.api import Outcome, Reason, Verdict

    known: dict[str, Verdict] = {}
    if not path.is_file():
        return known
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if row["reason"] == Reason.ERROR:
                continue
            outcome = None if row["outcome"] is None else Outcome(row["outcome"])
            verdict = Verdict(row["score"], outcome, Reason(row["reason"]), row["raw"])
            known[row["answer"]] = verdict
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return known


def _readings(
    names: Sequence[str], given: Sequence[Exchange], said: Sequence[Sequence[Verdict]]
) -> Readings:
    """Give what judges said as arrays; judges of one name are numbered."""
    import numpy as np

    from holdfast.api import Outcome
    from holdfast.api.verdicts import unscored
    from holdfast.stats.agreement import MISSING, Readings

    words = list(Outcome)
    shape = (len(given), len(names))
    harm, outcome, score = np.full(shape, MISSING), np.full(shape, MISSING), np.full(shape, np.nan)
    for j, verdicts in enumerate(said):
        for i, one in enumerate(verdicts):
            if one.outcome is not None and not unscored(one.reason, one.outcome):
                harm[i, j] = one.outcome is Outcome.HARMFUL_USEFUL
                outcome[i, j] = words.index(one.outcome)
                score[i, j] = np.nan if one.score is None else one.score
    cluster = np.unique([one.prompt for one in given], return_inverse=True)[1].reshape(-1)
    shown = [f"{name} {i}" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
    return Readings(tuple(shown), outcome, harm, score, cluster)


def _agreement(readings: Readings) -> dict[str, Any]:
    """Print the table of agreement and give it as plain data."""
    from holdfast.report.judges import agreement_values, coefficient, coefficient_values
    from holdfast.report.text import percent
    from holdfast.stats.cost import RESAMPLES
    from holdfast.stats.panel import agreements, alphas

    pairs = agreements(readings, resamples=RESAMPLES)
    harm, outcome = alphas(readings, resamples=RESAMPLES)
    for one in pairs:
        say(
            f"{one.left} and {one.right}: {percent(one.same)} the same on harm of {one.n} answers,"
            f" kappa {coefficient(one.harm)}, on outcomes {coefficient(one.outcome)},"
            f" rank correlation {coefficient(one.scores)};"
            f" unscored {one.unscored[0]} and {one.unscored[1]}"
        )
    if len(readings.judges) > 1:
        say(
            f"Krippendorff's alpha: {coefficient(harm)} on harm, {coefficient(outcome)} on outcomes"
        )
    return {
        "unscored": readings.unscored,
        "agreements": [agreement_values(one) for one in pairs],
        "alpha_harm": coefficient_values(harm),
        "alpha_outcome": coefficient_values(outcome),
    }
