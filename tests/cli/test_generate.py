"""`holdfast generate`: answers are kept as they come, resumed, exchanged; each mistake one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.endpoint.serving import nobody, serving

from holdfast import evaluate, nn
from holdfast.cli import run
from holdfast.cli.exchanges import exchanges
from holdfast.data.example import Role
from holdfast.evaluate import Completion, Sampler
from holdfast.testing import tiny

ASKED = ["generate", "--model", "model", "--format", "plain", "--prompts", "rows.jsonl"]
SHORT = ["--set", "max_new_tokens=4", "--set", "batch=2"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with a model and a file of six prompts."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    nn.save(tiny.model("llama", spread=0.4, seed=3), tiny.byte_tokenizer(bos=True), Path("model"))
    write("rows.jsonl", [{"prompt": row.prompt} for row in tiny.rows()[Role.HARMFUL]])
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException) -> None:
    """Make answering end with an error after some answers."""
    real = evaluate.answers

    def broken(*given: Any, **named: Any) -> Iterator[tuple[int, Completion]]:
        for number, one in enumerate(real(*given, **named)):
            if number == count:
                raise error
            yield one

    monkeypatch.setattr(evaluate, "answers", broken)


def test_a_stopped_command_goes_on(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*ASKED, *SHORT, "--out", "whole.jsonl"]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt())
        assert run([*ASKED, *SHORT, "--out", "said.jsonl"]) == 130
    told = capsys.readouterr().err.splitlines()[-2:]
    assert told == [
        "3 of 6 answers are kept in .said.jsonl.part",
        "holdfast: run: stopped; the same command continues",
    ]
    part = Path(".said.jsonl.part")
    part.write_bytes(part.read_bytes()[:-9])  # a kill cuts the last line
    assert run([*ASKED, *SHORT, "--out", "said.jsonl"]) == 0
    assert "2 of 6 answers are there already" in capsys.readouterr().out
    assert Path("said.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not part.exists()


def test_only_what_is_missing_is_asked(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        assert run([*ASKED, *SHORT, "--out", "said.jsonl"]) == 130
    seen: list[int] = []
    real = evaluate.answers

    def counted(*given: Any, **named: Any) -> Iterator[tuple[int, Completion]]:
        for one in real(*given, **named):
            seen.append(one[0])
            yield one

    monkeypatch.setattr(evaluate, "answers", counted)
    assert run([*ASKED, *SHORT, "--out", "said.jsonl"]) == 0
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [(["--set", "max_new_tokens=3"], "sampler"), (["--system", "x"], "format")],
)
def test_another_commands_answers_are_refused(
    bench: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    what: str,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        run([*ASKED, *SHORT, "--out", "said.jsonl"])
    capsys.readouterr()
    assert run([*ASKED, *SHORT, *change, "--out", "said.jsonl"]) == 2
    assert capsys.readouterr().err == (
        f"holdfast: --out: .said.jsonl.part holds answers of another command (another {what}); "
        "run that one again, name another --out, or delete that file\n"
    )


def test_a_file_that_cannot_be_written_is_told_first(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--model", "gone", "--format", "none"]
    assert run([*words, "--out", "rows.jsonl/said.jsonl"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: rows.jsonl/said.jsonl: cannot be written (not a directory); "
        "check the folder and its rights\n"
    )
    assert run([*words, "--out", "model"]) == 2
    assert capsys.readouterr().err == "holdfast: --out: model is a folder; name a file\n"


def test_the_sampler_is_listed(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ASKED, *SHORT, "--out", "said.jsonl"]) == 0
    assert (
        "sampler: max_new_tokens 4, temperature 0.0, top_p 1.0, draws 1, stop [], batch 2, "
        'batching "padded"\n'
    ) in capsys.readouterr().out
    about = json.loads(Path("said.jsonl.json").read_text())
    assert about["sampler"] == Sampler(max_new_tokens=4, batch=2).model_dump(mode="json")
    assert about["format"] == {"format": "plain"}
    assert about["cut"] == sum(row["finish_reason"] == "length" for row in read("said.jsonl"))
    run(["generate", "--help"])
    told = capsys.readouterr().out
    assert [name for name in Sampler.model_fields if name not in told] == []


def test_draws_are_rows(bench: Path) -> None:
    drawn = [*SHORT, "--set", "temperature=1.2", "--set", "draws=3", "--seed", "4"]
    assert run([*ASKED, *drawn, "--out", "said.jsonl"]) == 0
    rows = read("said.jsonl")
    assert [row["draw"] for row in rows] == [0, 1, 2] * 6
    assert [row["uid"] for row in rows[::3]] == [row["uid"] for row in rows[2::3]]
    assert len({row["response"] for row in rows}) > 6


def test_a_degenerate_answer_is_marked(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("answers.jsonl", [{"uid": uid, "response": "so so so so so"} for uid in uids()])
    assert run([*ASKED, "--answers", "answers.jsonl", "--out", "said.jsonl"]) == 0
    assert "6 are degenerate: empty, or stuck in a loop\n" in capsys.readouterr().out
    assert all(row["degenerate"] for row in read("said.jsonl"))


# ---- an engine of one's own


def uids() -> list[str]:
    assert run([*ASKED, *SHORT, "--prompts-out", "out.jsonl"]) == 0
    return [row["uid"] for row in read("out.jsonl")]


def test_prompts_go_out_and_answers_come_back(bench: Path) -> None:
    names = uids()
    first = read("out.jsonl")[0]
    prompt = json.loads(Path("rows.jsonl").read_text().splitlines()[0])["prompt"]
    assert first["messages"] == [{"role": "user", "content": prompt}]
    assert first["text"] == f"User: {prompt}\nAssistant:"
    said = [{"uid": uid, "response": f"placeholder {i}"} for i, uid in enumerate(names)]
    said[2]["finish_reason"] = "MAX_TOKENS"  # each engine has a word of its own
    said[3]["finish_reason"] = "end_turn"
    write("answers.jsonl", said[::-1])
    assert run([*ASKED, "--answers", "answers.jsonl", "--out", "said.jsonl"]) == 0
    rows = read("said.jsonl")
    assert [row["response"] for row in rows] == [f"placeholder {i}" for i in range(6)]
    assert [row["finish_reason"] for row in rows].index("length") == 2
    assert [one.response for one in exchanges(Path("said.jsonl"))] == [r["response"] for r in rows]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda rows: [*rows, {"uid": "0" * 16, "response": "x"}],
            "answers.jsonl:7: uid 0000000000000000 is none of the prompts asked; "
            "answer what --prompts-out wrote",
        ),
        (
            lambda rows: rows[:4],
            "answers.jsonl: 2 of 6 answers are missing, the first to uid {4}; "
            "answer all that --prompts-out wrote",
        ),
        (
            lambda rows: [*rows, rows[0]],
            "answers.jsonl:7: uid {0} is answered twice; keep one answer",
        ),
        (
            lambda rows: [{"uid": rows[0]["uid"]}, *rows[1:]],
            "answers.jsonl:1: no text under 'response'; give every line a 'response'",
        ),
        (
            lambda rows: [{**rows[0], "finish_reason": "banana"}, *rows[1:]],
            "answers.jsonl:1: 'finish_reason' is no word for how an answer ends; write stop, "
            "length or content_filter",
        ),
        (
            lambda rows: [{**rows[0], "tokens": -5}, *rows[1:]],
            "answers.jsonl:1: 'tokens' is no count; write a whole number from 0",
        ),
        (
            lambda rows: [{**rows[0], "tokens": "5"}, *rows[1:]],
            "answers.jsonl:1: 'tokens' is no count; write a whole number from 0",
        ),
        (
            lambda rows: [{**rows[0], "draw": "0"}, *rows[1:]],
            "answers.jsonl:1: 'draw' is no count; write a whole number from 0",
        ),
        (
            lambda rows: [{**rows[0], "draw": 0.5}, *rows[1:]],
            "answers.jsonl:1: 'draw' is no count; write a whole number from 0",
        ),
    ],
)
def test_answers_to_other_prompts(
    bench: Path, capsys: pytest.CaptureFixture[str], change: Any, told: str
) -> None:
    names = uids()
    write("answers.jsonl", change([{"uid": uid, "response": "x"} for uid in names]))
    capsys.readouterr()
    assert run([*ASKED, "--answers", "answers.jsonl", "--out", "said.jsonl"]) == 2
    assert capsys.readouterr().err == f"holdfast: {told.format(*names)}\n"
    write("answers.jsonl", [{"uid": uid, "response": "x"} for uid in names])  # mended
    assert run([*ASKED, "--answers", "answers.jsonl", "--out", "said.jsonl"]) == 0


def test_answers_come_as_a_table_too(bench: Path) -> None:
    """CSV holds text alone, numbers included."""
    lines = [f"{uid},placeholder,0,7,eos" for uid in uids()]
    Path("answers.csv").write_text("\n".join(["uid,response,draw,tokens,finish_reason", *lines]))
    assert run([*ASKED, "--answers", "answers.csv", "--out", "said.jsonl"]) == 0
    assert {(row["tokens"], row["finish_reason"]) for row in read("said.jsonl")} == {(7, "stop")}


def test_the_default_limit_gives_way_to_the_models_context(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*ASKED, "--prompts-out", "asked.jsonl"]) == 0
    told = capsys.readouterr().err
    found = re.fullmatch(
        r"max_new_tokens is (\d+): the model's context has no room for more behind the longest "
        r"prompt\n",
        told,
    )
    assert found is not None, told
    assert 200 < int(found[1]) < 256


# ---- bad input


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--set", "draws=3"],
            "generate.draws: 3 greedy answers are copies of one; "
            "set a temperature above 0, or one draw",
        ),
        (
            ["--set", "stop=['']"],
            "generate.stop.0: got ''; it should be text of at least 1 characters",
        ),
        (["--set", "top_p=0"], "generate.top_p: got 0; it should be greater than 0"),
        (["--set", "stops=[a]"], "generate.stops: unknown field; did you mean 'stop'?"),
        (
            ["--set", "max_new_tokens=300"],
            r"--prompts: row rows\.jsonl:1: \d+ tokens and 300 for the answer, the model's context "
            "is 256; shorten or drop the row, or ask for shorter answers",
        ),
        (
            ["--set", "endpoint.timeout=3"],
            "--set endpoint: there is no server; name it: --endpoint URL",
        ),
        (
            ["--endpoint", "http://127.0.0.1:1/v1"],
            "--format: a server has its own template; leave it out",
        ),
    ],
)
def test_bad_input_is_one_line(
    bench: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    before = sorted(path.name for path in bench.iterdir())
    assert run([*ASKED, *words, "--out", "said.jsonl"]) == 2
    found = capsys.readouterr().err
    assert found == f"holdfast: {told}\n" or re.fullmatch(f"holdfast: {told}\n", found)
    assert sorted(path.name for path in bench.iterdir()) == before


def test_a_format_is_required(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--model", "model", "--out", "said.jsonl"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: --format: is required; write plain, chat or a .jinja file\n"
    )
    assert run(["generate", "--model", "model", "--format", "plain"]) == 2
    assert capsys.readouterr().err == "holdfast: --out: is required; name the file of answers\n"


# ---- a server


def server(url: str, *more: str) -> list[str]:
    words = ["generate", "--model", "judge-1", "--endpoint", url, "--prompts", "rows.jsonl"]
    fields = ["endpoint.cache=cache.sqlite", "endpoint.wait=0.01", "max_new_tokens=8", *more]
    return [*words, *(word for one in fields for word in ("--set", one)), "--out", "said.jsonl"]


def test_a_server_answers_and_what_it_honours_is_kept(bench: Path) -> None:
    with serving() as told:
        assert run(server(told.url)) == 0
    rows = read("said.jsonl")
    assert len(rows) == 6
    assert all(row["response"] for row in rows)
    about = json.loads(Path("said.jsonl.json").read_text())
    assert about["engine"] == told.url
    assert about["model"] == "judge-1"
    assert set(about["honours"]) >= {"temperature", "seed", "n", "logprobs"}


def test_draws_that_are_copies_of_the_greedy_answer_are_refused(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rude server says the same whatever the seed, with 200 OK."""
    with serving() as told:
        assert run(server(told.url, "temperature=1.0", "draws=3")) == 2
    assert capsys.readouterr().err == (
        f"holdfast: trying what {told.url} does with what it is told: 9 requests\n"
        f"holdfast: endpoint: {told.url} gives one answer at temperature 1 whatever the seed: "
        "every draw would be a copy of the greedy answer; set temperature to 0, or say in "
        "endpoint.extra how that server is told to sample\n"
    )
    assert not Path("said.jsonl").exists()


def test_a_server_that_is_not_there(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server(nobody().url)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("holdfast: endpoint")
