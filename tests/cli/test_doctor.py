"""The doctor says what is there and what is missing, downloads nothing and shows no secret."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import run
from holdfast.endpoint import Endpoint, reach
from holdfast.errors import ConfigError

SECRET = "hf_a_secret_of_mine"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(http.server.BaseHTTPRequestHandler):
    """Says that it has models, unless it is told a wrong key."""

    def do_GET(self) -> None:
        wrong = self.headers.get("Authorization") == "Bearer wrong"  # spelling: theirs
        self.send_response(401 if wrong else 404 if self.path == "/bare/models" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def write(path: Path, **changes: Any) -> Path:
    data: dict[str, Any] = {
        "name": "ours",
        "seeds": [0],
        "models": {"base": {"path": "world:base", "format": "plain"}},
        "sources": ["world"],
        "lineups": {"a": {"start": "base"}},
        "attacks": {"sft": ["harmful_sft"]},
        "evaluation": [{"set": "restricted"}],
        "judges": ["world_guard"],
    }
    path.write_text(json.dumps(data | changes))
    return path


def test_a_study_of_the_world_needs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", str(write(tmp_path / "s.json"))]) == 0
    said = capsys.readouterr().out
    assert "\nstudy ours\n" in said
    assert "  source world: " in said
    assert "  judge world_guard: ready\n" in said
    assert said.endswith("all it needs is here or can be fetched\n")


def test_every_source_and_judge_is_told_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "  source wildguardmix: gated: needs HF_TOKEN and consent; https://" in said
    assert "  judge rubric: needs a server with an OpenAI-compatible API\n" in said
    assert "  judge llama_guard: needs weights on this machine (docs/judges.md)\n" in said
    assert "  disk at the cache: " in said
    assert "  memory: " in said


def test_a_token_or_key_is_there_or_not_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert run(["doctor"]) == 0
    said = capsys.readouterr()
    assert "  token of the hub: there\n" in said.out
    assert "  key OPENAI_API_KEY: there\n" in said.out
    assert SECRET not in said.out + said.err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run(["doctor"]) == 0
    assert "  key OPENAI_API_KEY: none\n" in capsys.readouterr().out


OFFLINE = "there is no network (HF_HUB_OFFLINE is set)"
MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "a model of the hub": (
        {"models": {"base": {"path": f"org/model@{COMMIT}", "format": "plain"}}},
        f"study.models.base.path: org/model is not on this machine, and {OFFLINE}; unset it, or "
        "copy its folder here and name that",
    ),
    "a folder that moved": (
        {"models": {"base": {"path": "/no/such/folder", "format": "plain"}}},
        "study.models.base.path: no such model folder: /no/such/folder; give a folder, world:base "
        "or org/name@COMMIT",
    ),
    "a published set": (
        {"sources": ["world", "beavertails"]},
        f"study.sources[1].beavertails: not fetched before, and {OFFLINE}; give `folder`, where "
        "the downloaded files lie",
    ),
    "a file that moved": (
        {"sources": [{"local": {"path": "/no/rows.jsonl", "role": "harmful"}}]},
        "/no/rows.jsonl: no such file; check the path",
    ),
    "the weights of a judge": (
        {"judges": [{"llama_guard": {"model": "/no/guard"}}]},
        "study.judges[0].llama_guard: no such model folder: /no/guard; give a folder, world:base "
        "or org/name@COMMIT",
    ),
    "a key": (
        {
            "judges": [
                {
                    "rubric": {
                        "endpoint": {
                            "model": "m",
                            "base_url": "https://judge.invalid/v1",
                            "key_env": "NO_SUCH_KEY",
                        }
                    }
                }
            ]
        },
        "study.judges[0].rubric: no key in the environment variable 'NO_SUCH_KEY'; set it there, "
        "name another, or write `key_env: null` if the server needs none",
    ),
    "a server": (
        {"judges": [{"rubric": {"endpoint": {"model": "m", "base_url": "http://127.0.0.1:1/v1"}}}]},
        "study.judges[0].rubric: http://127.0.0.1:1/v1 does not answer ([Errno 111] Connection "
        "refused); start the server, or mend base_url",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_a_study_lacks_is_said_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, line = MISSING[name]
    assert run(["doctor", str(write(tmp_path / "s.json", **changes))]) == 2
    said = capsys.readouterr()
    assert said.err == f"holdfast: {line}\n"
    assert ": missing: " in said.out


def test_all_that_is_missing_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = MISSING["a published set"][0] | MISSING["a server"][0]
    assert run(["doctor", str(write(tmp_path / "s.json", **changes))]) == 2
    assert capsys.readouterr().out.count(": missing: ") == 2


def endpoint(url: str, **more: Any) -> Endpoint:
    return Endpoint(model="m", base_url=url, **more)


def test_a_server_that_answers_is_reached(server: str) -> None:
    assert reach(endpoint(f"{server}/v1")) is None
    assert reach(endpoint(f"{server}/bare")) is None  # not every server lists its models


def test_a_refused_key_is_said_and_not_shown(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "wrong")
    assert reach(endpoint(f"{server}/v1", key_env="OWN_KEY")) == (
        f"{server}/v1 does not take the key (401)",
        "check the environment variable 'OWN_KEY'",
    )


def test_a_key_that_is_needed_and_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no key in the environment variable 'NO_SUCH_KEY'"):
        reach(endpoint("https://judge.invalid/v1", key_env="NO_SUCH_KEY"))
