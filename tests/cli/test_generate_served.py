"""`holdfast generate --endpoint`: what is sent, what is kept beside the answers, what is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.endpoint.serving import serving

from holdfast.cli import run

ROWS = 4


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a file of prompts."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"placeholder prompt {number}"} for number in range(ROWS)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ask(url: str, *more: str, options: tuple[str, ...] = ()) -> int:
    fields = ["endpoint.cache=cache.sqlite", "endpoint.wait=0.01", "max_new_tokens=8"]
    fields += ["endpoint.concurrency=1", *more]
    words = ["generate", "--model", "judge-1", "--endpoint", url, "--prompts", "rows.jsonl"]
    sets = [word for one in fields for word in ("--set", one)]
    return run([*words, *sets, *options, "--out", "said.jsonl"])


def answers() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]


def about() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("said.jsonl.json").read_text())
    return found


def asked(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the requests that are no trials of the probe."""
    return [body for body in bodies if "placeholder prompt" in json.dumps(body["messages"])]


def test_the_whole_sampler_is_sent() -> None:
    """Servers have defaults of their own: llama.cpp's `top_p` is 0.95."""
    with serving(varied=True, keep_bodies=True) as server:
        assert ask(server.url, "temperature=1.0", "stop=[END]") == 0
        bodies = asked(server.stats()["bodies"])
    assert len(bodies) == ROWS
    assert all((body["temperature"], body["top_p"]) == (1.0, 1.0) for body in bodies)
    assert all((body["max_tokens"], body["stop"]) == (8, ["END"]) for body in bodies)
    assert len({body["seed"] for body in bodies}) == ROWS


def test_how_it_was_asked_is_written_beside_the_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["endpoint.extra={top_k: 0}", "endpoint.concurrency=3"]
    with serving(keep_bodies=True) as server:
        assert ask(server.url, *more, options=("--system", "placeholder system")) == 0
        bodies = asked(server.stats()["bodies"])
    first = {"role": "system", "content": "placeholder system"}
    assert all(body["messages"][0] == first and body["top_k"] == 0 for body in bodies)
    found = about()
    assert (found["engine"], found["model"]) == (server.url, "judge-1")
    assert (found["extra"], found["concurrency"]) == ({"top_k": 0}, 3)
    assert found["system"] == "placeholder system"
    assert set(found["sampler"]) == {"max_new_tokens", "temperature", "top_p", "draws", "stop"}
    assert "batching" not in capsys.readouterr().out


def test_a_server_is_tried_anew_when_it_is_told_otherwise() -> None:
    """What the refusal advises has to help."""
    with serving() as server:
        assert ask(server.url, "temperature=1.0") == 2
        server.tell({"varied": True})
        assert ask(server.url, "temperature=1.0", "endpoint.extra={sample: true}") == 0
    assert about()["honours"]["temperature"] is True


def test_a_trial_that_failed_is_made_again() -> None:
    with serving(faults={"none": ["429", "429", ""]}) as server:
        assert ask(server.url, "endpoint.retries=0") == 0
        assert about()["honours"]["greedy"] is None
        server.tell({})
        assert ask(server.url, "max_new_tokens=9") == 0
        assert server.stats()["sendings"]["none"] == 2
    assert about()["honours"]["greedy"] is True


def test_tokens_that_no_server_counted_are_not_written() -> None:
    with serving(usage=False) as server:
        assert ask(server.url) == 0
    assert all("tokens" not in row for row in answers())


def test_what_a_server_does_not_honour_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(varied=True) as server:
        assert ask(server.url) == 0
    told = capsys.readouterr().err
    assert f"{server.url} does not repeat itself at temperature 0\n" in told
    assert (
        f"{server.url} goes beyond max_tokens; endpoint.limit names another field for it\n" in told
    )


def test_answers_of_another_server_are_not_this_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Both call their model the same; cache and half-done file are of the first."""
    broken = {"2": ["400"]}
    with serving(faults=broken) as one, serving() as other:
        assert ask(one.url) == 1
        capsys.readouterr()
        assert ask(other.url) == 2
        assert "holds answers of another command (another server)" in capsys.readouterr().err
        assert ask(other.url, f"endpoint.served_as={one.url}") == 0  # the same, at a new place
        assert sum(other.stats()["sendings"].values()) == 1
        assert about()["served_as"] == one.url
        Path("said.jsonl").unlink()
        assert ask(other.url) == 0
        assert "already" not in capsys.readouterr().err
        assert ask(other.url) == 0
        told = capsys.readouterr().err
    assert "holdfast: 4 of 4 answers of 'judge-1' were there already, in cache.sqlite\n" in told


def test_a_row_that_the_server_refuses_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(faults={"2": ["400:context_length_exceeded"]}) as server:
        assert ask(server.url) == 1
        told = capsys.readouterr().err
        found = re.search(r"row ([0-9a-f]{16})", told)
        assert found is not None
        assert told == (
            f"holdfast: trying what {server.url} does with what it is told: 9 requests\n"
            f"holdfast: {server.url} goes beyond max_tokens; endpoint.limit names another field "
            "for it\nanswers 1/4\nanswers 2/4\nanswers 3/4\n"
            "holdfast: endpoint: 1 of 4 answers did not come, such as that to row "
            f"{found[1]} (HTTP 400 (context_length_exceeded)); the server does not take it: "
            "shorten or drop it; the others are kept\n"
        )
        assert len(Path(".said.jsonl.part").read_text().splitlines()) == 1 + 3
        server.tell({})
        assert ask(server.url) == 0
        assert server.stats()["sendings"] == {"2": 1}
    assert answers()[2]["uid"] == found[1]


def test_a_server_that_fails_for_a_while_is_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(faults={"1": ["503"]}) as server:
        assert ask(server.url, "endpoint.retries=1") == 1
    assert re.search(
        r"holdfast: endpoint: 1 of 4 answers did not come, such as that to row [0-9a-f]{16} "
        r"\(HTTP 503, 2 times\); run the same command again: the others are kept\n$",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("option", "value"), [("--date", "2026-01-02"), ("--template-var", "thinking=false")]
)
def test_a_template_is_the_servers(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert ask("http://127.0.0.1:1/v1", options=(option, value)) == 2
    assert capsys.readouterr().err == (
        f"holdfast: {option}: a server has its own template; leave it out, or use "
        "--set endpoint.extra\n"
    )


def test_prompts_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--model", "judge-1", "--endpoint", "http://127.0.0.1:1/v1"]
    assert run([*words, "--out", "said.jsonl"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: --prompts: is required; name a file, or a set and its --source\n"
    )
    assert run([*words, "--out", "said.jsonl", "--prompts", "ask.txt"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: --prompts: 'ask.txt' is no file of rows; name a file (.jsonl, .ndjson, .json, "
        ".csv, .tsv, .parquet), or give the --source of a set of that name\n"
    )
