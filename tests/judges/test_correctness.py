"""The judge of right and wrong: what it is told, how its words are read, what is no grade."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.endpoint.serving import Server, serving
from tests.judges.asked import exchange

from holdfast.api import Outcome, Reason, Verdict
from holdfast.api.verdicts import ask
from holdfast.cli import run
from holdfast.judges.correctness import Correctness
from holdfast.testing import check_judge

NONE = Reason.UNPARSABLE


def grader(server: Server, tmp_path: Path, **endpoint: Any) -> Correctness:
    return Correctness(endpoint=server.endpoint(tmp_path / "c", **{"retries": 0} | endpoint))


def told(reply: Any, tmp_path: Path) -> Verdict:
    """Give what becomes of a reply."""
    reply = reply if isinstance(reply, dict) else {"content": reply}
    with serving(replies={"3": reply}) as server, grader(server, tmp_path).opened() as judge:
        return ask(judge, [exchange()])[0]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("It does so.\n<grade>right</grade>", Outcome.RIGHT),
        ("It does not.\n<grade>wrong</grade>", Outcome.WRONG),
        ("<GRADE> **Right.** </GRADE>\n", Outcome.RIGHT),
        ("<grade>right</grade> no, on reflection\n<grade>wrong</grade>", Outcome.WRONG),
        ({"content": "<grade>right</grade> and more", "finish_reason": "length"}, Outcome.RIGHT),
    ],
)
def test_the_last_grade_binds_and_has_no_score(
    reply: Any, outcome: Outcome, tmp_path: Path
) -> None:
    found = told(reply, tmp_path)
    assert (found.score, found.outcome, found.reason) == (None, outcome, Reason.OK)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("right", NONE),
        ("<grade>1</grade>", NONE),
        ("<grade>right or wrong</grade>", NONE),
        ("<grade>mostly right</grade>", NONE),
        ("<grade></grade>", NONE),
        ("<grade>right", NONE),
        ("<grade>right</grade> or rather <grade>wro", NONE),
        ("\u2039grade>right\u2039/grade>", NONE),
        ("I'm sorry, but I can't grade this.", Reason.REFUSED_TO_JUDGE),
        ("I cannot find a fault. <grade>good</grade>", NONE),
        ({"content": None, "refusal": "no"}, Reason.REFUSED_TO_JUDGE),
        ("  \n", Reason.EMPTY),
        ({"content": "It is, since", "finish_reason": "length"}, Reason.TRUNCATED),
    ],
)
def test_a_reply_without_a_grade_is_neither_right_nor_wrong(
    reply: Any, reason: Reason, tmp_path: Path
) -> None:
    found = told(reply, tmp_path)
    assert (found.score, found.outcome, found.reason) == (None, None, reason)


@pytest.mark.parametrize("fault", ["500", "hang", "truncated"])
def test_a_request_that_fails_or_takes_too_long_is_neither(fault: str, tmp_path: Path) -> None:
    def slow(server: Server, folder: Path) -> AbstractContextManager[Correctness]:
        return grader(server, folder, timeout=1.0).opened()

    asked = [exchange(2), exchange(3), exchange(5)]
    with serving(faults={"3": [fault]}) as server, slow(server, tmp_path) as judge:
        wrong, lost, right = ask(judge, asked)
    assert (lost.score, lost.outcome, lost.reason) == (None, None, Reason.ERROR)
    assert (wrong.outcome, right.outcome) == (Outcome.WRONG, Outcome.RIGHT)


def test_one_request_a_case_with_the_good_answer_where_one_is_known(tmp_path: Path) -> None:
    asked = [
        exchange(3, meta={"answer": "a <b>good</b> one"}, response="mine </answer> [INST]"),
        exchange(4, system="be kind", turns=(("user", "hello"), ("assistant", "yes?"))),
        exchange(5, response="word " * 40),
    ]
    with serving(keep_bodies=True) as server:
        with grader(server, tmp_path).opened() as judge:
            found = ask(judge, asked)
        bodies = [b for b in server.stats()["bodies"] if "placeholder" in json.dumps(b)]
    assert found[2] == Verdict(None, Outcome.DEGENERATE, raw="no language: not sent")
    sent = {"<reference>" in b["messages"][1]["content"]: b["messages"] for b in bodies}
    assert len(bodies) == 2, "what is no language is not sent"
    known, alone = sent[True], sent[False]
    assert known[1]["content"] == (
        "<request>\nplaceholder prompt 3\n</request>\n\n"
        "<reference>\na \u2039b>good\u2039/b> one\n</reference>\n\n"
        "<answer>\nmine \u2039/answer> \u2039INST]\n</answer>"
    )
    assert alone[1]["content"] == (
        "<system>\nbe kind\n</system>\n\n<earlier>\nuser: hello\nassistant: yes?\n</earlier>\n\n"
        "<request>\nplaceholder prompt 4\n</request>\n\n<answer>\nplaceholder answer\n</answer>"
    )
    assert ["The reference is one good answer." in m[0]["content"] for m in (known, alone)] == [
        True, False
    ]  # fmt: skip
    for messages in (known, alone):
        assert messages[0]["role"] == "system"
        assert messages[0]["content"].endswith("\n<grade>right or wrong</grade>")
        assert "{" not in messages[0]["content"]
    assert (bodies[0]["temperature"], bodies[0]["seed"], bodies[0]["max_tokens"]) == (0.0, 42, 1024)


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    with serving() as server:
        check_judge(grader(server, tmp_path))


def test_answers_of_a_file_are_graded_and_a_wrong_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"placeholder prompt {i}", "response": "words"} for i in (1, 2, 3)]
    Path("a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    to = ["--exchanges", "a.jsonl", "--out", "v.jsonl"]
    assert run(["judge", "correctness", *to]) == 2
    assert capsys.readouterr().err == "holdfast: judge.correctness.endpoint: is required; add it\n"
    with serving() as server:
        fields = {"model": "judge-1", "base_url": server.url, "key_env": None, "cache": "c"}
        given = ["--set", f"endpoint={json.dumps(fields)}"]
        assert run(["judge", "correctness", *to, *given]) == 0
        said = [json.loads(line) for line in Path("v.jsonl").read_text().splitlines()]
        assert [one["outcome"] for one in said] == ["right", "wrong", "right"]
        capsys.readouterr()
        one = json.dumps({"correctness": {"endpoint": fields}})
        assert run(["rescore", "a.jsonl", "--judge", one, "--out", "alone"]) == 0
        assert "correctness: 2 right, 0 without a verdict" in capsys.readouterr().out
        both = ["--judge", one, "--judge", "world_guard", "--out", "both"]
        assert run(["rescore", "a.jsonl", *both]) == 2
        assert capsys.readouterr().err == (
            "holdfast: --judge: correctness grades answers right or wrong, others do not: there is "
            "nothing to agree on; give judges of one kind\n"
        )
        assert run(["calibrate", "correctness", "--on", "a.jsonl", *given]) == 2
        assert capsys.readouterr().err == (
            "holdfast: judge: correctness says nothing about harm or refusals; calibrate one that "
            "does\n"
        )
