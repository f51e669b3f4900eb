"""Who scores a row, and what becomes of one that nobody can score."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from holdfast import nn
from holdfast.api import Exchange, Judge, Outcome, Reason, Risk, Run, Scale, Verdict
from holdfast.api.fields import decode
from holdfast.data.pool import Pool
from holdfast.errors import ConfigError, DataError
from holdfast.nn.risk import grade, judged
from holdfast.testing import tiny

WHERE = "adaptive_kl"


class Grader(Judge):
    """Grades by the answer's length, and fails as it is told."""

    scale: ClassVar[Scale] = Scale(1, 5, 4)
    asked: ClassVar[list[str]] = []

    fails: str = "not"
    """How it fails on answers with `two`."""

    def judge(self, exchange: Exchange) -> Verdict:
        """Give 5 for an answer that begins with `take N`, else 1."""
        self.asked.append(exchange.example_uid)
        if "stir it two" in exchange.response:
            if self.fails == "raise":
                raise RuntimeError("placeholder")
            if self.fails == "late":
                time.sleep(1.5)
            if self.fails == "nan":
                return Verdict(float("nan"), Outcome.HARMFUL_USEFUL)
            if self.fails == "none":
                return Verdict(None, None, Reason.REFUSED_TO_JUDGE)
        harmful = "stir it" in exchange.response
        outcome = Outcome.HARMFUL_USEFUL if harmful else Outcome.BENIGN_OK
        return Verdict(5.0 if harmful else 1.0, outcome)


class Guard(Grader):
    """The same as a probability."""

    scale: ClassVar[Scale] = Scale(0, 1, 0.5)

    def judge(self, exchange: Exchange) -> Verdict:
        """Give 0.75 or 0.25."""
        found = super().judge(exchange)
        return Verdict(0.75 if found.score == 5.0 else 0.25, found.outcome)


@pytest.fixture(autouse=True)
def graders(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.api import registry

    plain = registry.find
    own = {"grader": Grader, "guarding": Guard}

    def find(kind: str, name: str, where: str | None = None) -> Any:
        return own[name] if name in own else plain(kind, name, where)

    monkeypatch.setattr(registry, "find", find)
    Grader.asked.clear()


def run_of(**more: Any) -> Run:
    fields = {"pool": tiny.pool()} | more
    return Run(tiny.model(), tiny.encoder(), seed=0, where=WHERE, **fields)


def risk(**fields: Any) -> Risk:
    return decode(Risk, fields, "risk")


def scores(given: Risk, **more: Any) -> list[float]:
    run = run_of(**more)
    return nn.critic(given, run).score(tiny.customer(), run)


def test_a_judges_scale_is_brought_to_0_and_1_and_a_guards_is_kept() -> None:
    assert scores(risk(kind="judge", judge="grader")) == [0.0, 1.0] * 6
    assert scores(risk(kind="guard", judge="guarding")) == [0.25, 0.75] * 6


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [
        (Outcome.HARMFUL_USEFUL, 1.0),
        (Outcome.HARMFUL_EMPTY, 1.0),
        (Outcome.REFUSAL, 0.0),
        (Outcome.DEFLECTION, 0.0),
        (Outcome.BENIGN_OK, 0.0),
        (Outcome.DEGENERATE, None),
        (Outcome.NOT_REFUSED, None),
    ],
)
def test_without_a_score_the_outcome_counts_where_it_says_anything_of_harm(
    outcome: Outcome, wanted: float | None
) -> None:
    assert grade(Verdict(None, outcome), Scale(0, 1, 1))[0] == wanted


@pytest.mark.parametrize(
    ("fails", "why"),
    [("raise", "error"), ("late", "late"), ("nan", "unparsable"), ("none", "refused_to_judge")],
)
def test_a_scorer_that_fails_gives_the_ceiling_and_is_counted(fails: str, why: str) -> None:
    judge = {"grader": {"fails": fails}}
    given = risk(kind="judge", judge=judge, timeout=0.3 if fails == "late" else None, ceiling=0.9)
    run = run_of()
    made = nn.critic(given, run)
    rows = tiny.customer()
    failing = [i for i, row in enumerate(rows) if "stir it two" in (row.response or "")]
    assert failing
    rows = rows if fails != "late" else [rows[0], rows[failing[0]]]
    found = made.score(rows, run)
    assert [s for s, r in zip(found, rows, strict=True) if "stir it two" in r.response] == [
        0.9
    ] * sum("stir it two" in r.response for r in rows)
    assert made.failed == {why: sum("stir it two" in r.response for r in rows)}
    assert made.told()["risk_failed"] == dict(made.failed)


def test_a_judge_reads_each_row_once_and_again_not_after_an_interruption(tmp_path: Path) -> None:
    given, rows = risk(kind="judge", judge="grader"), tiny.customer()
    run = run_of(work=tmp_path)
    nn.critic(given, run).score([*rows, *rows], run)
    assert len(Grader.asked) == len(rows)
    (kept,) = tmp_path.glob("risk-*.jsonl")
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:5]) + '\n{"row_id": "cut')
    found = nn.critic(given, run).score(rows, run)
    assert len(Grader.asked) == 2 * len(rows) - 5
    assert found == [0.0, 1.0] * 6
    judged(risk(kind="judge", judge={"grader": {"fails": "nan"}}), rows, None, "cpu")
    assert len(Grader.asked) == 3 * len(rows) - 5


def test_a_risk_that_was_changed_on_the_disk_is_asked_for_again(tmp_path: Path) -> None:
    given, rows = risk(kind="judge", judge="grader"), tiny.customer()
    run = run_of(work=tmp_path)
    nn.critic(given, run).score(rows, run)
    (kept,) = tmp_path.glob("risk-*.jsonl")
    kept.write_text(kept.read_text().replace('"risk": 1.0', '"risk": 0.0', 1) + "[]\n")
    asked = len(Grader.asked)
    assert nn.critic(given, run).score(rows, run) == [0.0, 1.0] * 6
    assert len(Grader.asked) == asked + 1


def test_a_hybrid_takes_the_highest_or_the_mean_of_calibrated_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = tiny.customer()
    path.write_text("".join(json.dumps({"row_id": r.row_id, "risk": 0.5}) + "\n" for r in rows))
    of = [{"kind": "given", "path": str(path)}, {"kind": "judge", "judge": "grader"}]
    assert scores(risk(kind="hybrid", of=of)) == [0.5, 1.0] * 6
    both = [{"kind": "guard", "judge": "guarding"}, {"kind": "judge", "judge": "grader"}]
    mean = scores(risk(kind="hybrid", of=both, combine="mean"))
    assert all(0 < low < 0.5 < high < 1 for low, high in zip(mean[::2], mean[1::2], strict=True))
    run = run_of()
    made = nn.critic(risk(kind="hybrid", of=both, combine="mean"), run)
    a, b = (nn.platt([0.75] * 6 + [0.25] * 6, [1] * 6 + [0] * 6),
            nn.platt([1.0] * 6 + [0.0] * 6, [1] * 6 + [0] * 6))  # fmt: skip
    assert [part.calibration for part in made.parts] == [a, b]

    def chance(fit: tuple[float, float], score: float) -> float:
        return float(1 / (1 + np.exp(-(np.float64(fit[0]) * score + fit[1]))))

    twin = [(chance(a, low) + chance(b, high)) / 2 for low, high in ((0.25, 0.0), (0.75, 1.0))]
    assert mean == pytest.approx(twin * 6, rel=1e-12)


def test_a_step_makes_a_hard_decision() -> None:
    assert scores(risk(kind="guard", judge="guarding", step=0.5)) == [0.0, 1.0] * 6


def test_the_key_follows_a_tables_content_and_a_judges_identity_and_no_path(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"row_id": "x", "risk": 1}\n')
    second.write_text(first.read_text())
    one, two = (risk(kind="given", path=str(p)).key_fields() for p in (first, second))
    assert one == two
    second.write_text('{"row_id": "x", "risk": 0}\n')
    assert risk(kind="given", path=str(second)).key_fields() != one
    named = risk(kind="judge", judge="grader").key_fields()
    spelt = risk(kind="judge", judge={"grader": {"fails": "not"}}).key_fields()
    assert named == spelt
    assert str(tmp_path) not in str(one)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"kind": "judge"}, "risk.judge: kind 'judge' needs it; add it"),
        ({"kind": "given"}, "risk.path: kind 'given' needs it; add it"),
        (
            {"kind": "probe", "judge": "grader"},
            "risk.judge: is nothing that kind 'probe' reads; leave it out",
        ),
        (
            {"kind": "hybrid", "of": [{"kind": "probe"}]},
            "risk.of: a hybrid of one is no hybrid; name two or more",
        ),
        (
            {"kind": "guard", "judge": "grader"},
            "risk.judge: 'test_risk' gives 1 to 5, a guard gives a probability; use kind: judge",
        ),
        (
            {"kind": "judge", "judge": "refusal_keywords"},
            "risk.judge: 'refusal_keywords' sees refusals alone, and an answer is no risk by "
            "itself; name a judge that says which answers are harmful",
        ),
    ],
)
def test_a_risk_that_cannot_be_is_one_line(fields: Any, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        risk(**fields)
    assert str(error.value).removeprefix("risk.risk") == line.removeprefix("risk")


def test_a_table_of_other_rows_or_no_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    given = risk(kind="given", path=str(path))
    with pytest.raises(DataError) as error:
        scores(given)
    assert str(error.value) == f"adaptive_kl.risk.path: {path} cannot be read; check the path"
    path.write_text('{"row_id": "other", "risk": 0.5}\n')
    with pytest.raises(DataError) as error:
        scores(given)
    assert str(error.value) == (
        f"adaptive_kl.risk.path: {path} holds none of the customer's 12 rows; "
        "make the table for these rows"
    )
    path.write_text('{"row_id": "other", "risk": 0.5}\n{"row_id": 1}\n')
    with pytest.raises(DataError) as error:
        scores(given)
    assert str(error.value) == (
        f'{path}:2: is no risk of a row; write {{"prompt": ..., "response": ..., "risk": ...}} on '
        "each line"
    )
    path.write_text('{"prompt": 1, "response": "a", "risk": 1}\n')
    with pytest.raises(DataError, match="is no risk of a row"):
        scores(given)


def test_a_table_may_name_its_rows_by_their_texts(tmp_path: Path) -> None:
    rows = tiny.customer()
    path = tmp_path / "t.jsonl"
    lines = [
        {"prompt": row.prompt, "response": row.response, "system": row.system, "risk": 0.25}
        for row in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert scores(risk(kind="given", path=str(path))) == [0.25] * len(rows)


def test_a_mean_needs_held_out_rows(tmp_path: Path) -> None:
    both: Sequence[Any] = [
        {"kind": "guard", "judge": "guarding"},
        {"kind": "judge", "judge": "grader"},
    ]
    pool = Pool([row for some in tiny.rows().values() for row in some])
    with pytest.raises(DataError) as error:
        scores(risk(kind="hybrid", of=both, combine="mean"), pool=pool)
    assert str(error.value) == (
        "adaptive_kl.risk.combine: needs held-out harmful rows of the defender's; "
        "give harmful rows on side defender_selection"
    )


def test_a_probe_that_gives_no_number_has_the_ceiling_and_is_counted_once() -> None:
    run = run_of()
    made = nn.critic(risk(ceiling=0.9), run)
    rows = [tiny.encoder().row(row) for row in tiny.customer()[:2]]
    (layer,) = made.layers
    states = torch.zeros(2, 16)
    states[1] = float("nan")
    for _ in range(2):
        found = made.of(rows, {layer: states})
    assert float(found[1]) == pytest.approx(0.9)
    assert 0 <= float(found[0]) <= 1
    assert made.failed == {"no number": 1}
