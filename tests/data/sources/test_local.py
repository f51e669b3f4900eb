"""Local files as a source: every kind and shape of file, one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.api.registry import make
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool
from holdfast.data.sources.local import Local
from holdfast.errors import ConfigError, DataError

ROWS = [{"q": "how do I fold a map?", "a": "in three"}, {"q": "how do I tie it?", "a": "twice"}]


def write(folder: Path, ending: str) -> Path:
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif ending == "csv":
        path.write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    source = Local(path=str(write(tmp_path, ending)), role="benign", prompt="q", response="a")
    rows = source.examples()
    assert [(row.prompt, row.response) for row in rows] == [(r["q"], r["a"]) for r in ROWS]
    assert {row.role for row in rows} == {Role.BENIGN}
    assert all(row.side is None for row in rows)


def test_a_declared_side_holds_for_the_whole_file(tmp_path: Path) -> None:
    path = str(write(tmp_path, "jsonl"))
    source = Local(path=path, role="harmful", prompt="q", response=None, side="evaluator")
    assert {row.side for row in source.examples()} == {Side.EVALUATOR}
    assert {row.response for row in source.examples()} == {None}


def test_the_content_hash_follows_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    source = Local(path=str(path), role="benign", prompt="q", response="a")
    before = source.content()
    path.write_text(path.read_text() + json.dumps({"q": "x", "a": "y"}) + "\n")
    assert source.content() != before


@pytest.mark.parametrize(
    ("name", "text", "fields", "line"),
    [
        ("no.jsonl", None, {}, "no.jsonl: no such file; check the path"),
        (
            "a.txt",
            "x",
            {},
            "a.txt: unknown kind of file '.txt'; use .jsonl, .ndjson, .json, .csv, .tsv or "
            ".parquet",
        ),
        ("a.jsonl", "", {}, "a.jsonl: no rows; give a file that has some"),
        ("a.jsonl", "[1]\n", {}, "a.jsonl:1: not a JSON object; write one object a line"),
        (
            "a.jsonl",
            '{"prompt": "x", "answer": "y"}\n',
            {},
            "a.jsonl:1: no column 'response'; map it to one of: prompt, answer",
        ),
        (
            "a.jsonl",
            '{"prompt": "  ", "response": "y"}\n',
            {},
            "a.jsonl:1: column 'prompt' is empty or no text; fill it or drop the row",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str | None,
    fields: dict[str, str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(DataError) as caught:
        Local(path=name, role="benign", **fields).examples()
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"role": "benign", "response": None},
            "a.jsonl: role benign needs a response; name its column in `response`",
        ),
        (
            {"role": "benign", "purpose": "exact"},
            "a.jsonl: purpose 'exact' of no evaluation set; name one in `evaluation_set`",
        ),
        (
            {"role": "benign", "evaluation_set": "x", "purpose": "harm"},
            "a.jsonl: role benign cannot be asked for 'harm'; restricted prompts (refusal, "
            "harmful) measure harm, the others never do",
        ),
        (
            {"role": "harmful", "evaluation_set": "x", "purpose": "refused"},
            "a.jsonl: role harmful cannot be asked for 'refused'; restricted prompts (refusal, "
            "harmful) measure harm, the others never do",
        ),
        (
            {"role": "task", "evaluation_set": "x", "response": None},
            "a.jsonl: purpose 'task' needs a known answer; name its column in `answer` or "
            "`response`",
        ),
        (
            {"role": "benign", "evaluation_set": "x", "response": None, "purpose": "exact"},
            "a.jsonl: purpose 'exact' needs a known answer; name its column in `answer` or "
            "`response`",
        ),
    ],
)
def test_rows_that_could_serve_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "x", "response": "y"}\n')
    with pytest.raises(DataError) as caught:
        Local(path="a.jsonl", **fields).examples()
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "purpose", "answers"),
    [
        ({"role": "harmful", "response": None}, "harm", [None, None]),
        ({"role": "refusal", "response": "a"}, "harm", [None, None]),
        ({"role": "benign", "response": "a"}, "exact", ["in three", "twice"]),
        ({"role": "benign", "response": None, "answer": "a"}, "exact", ["in three", "twice"]),
        ({"role": "benign", "response": None}, "refused", [None, None]),
        ({"role": "task", "response": "a"}, "task", ["in three", "twice"]),
        (
            {"role": "benign", "response": None, "purpose": "over_refusal"},
            "over_refusal",
            [None, None],
        ),
    ],
)
def test_what_a_set_is_for_follows_from_the_role(
    tmp_path: Path, fields: dict[str, Any], purpose: str, answers: list[str | None]
) -> None:
    path = str(write(tmp_path, "jsonl"))
    source = Local(path=path, prompt="q", evaluation_set="my_own", **fields)
    pool = Pool.of([source.with_(side="evaluator")])
    (declared,) = pool.sets.values()
    assert (declared.name, declared.purpose, declared.label) == ("my_own", purpose, "my own")
    rows = {row.prompt: row for row in pool.evaluation("my_own", Side.EVALUATOR, None, 0)}
    assert [rows[one["q"]].known.answer for one in ROWS] == answers


def test_a_file_of_no_set_declares_none(tmp_path: Path) -> None:
    source = Local(path=str(write(tmp_path, "jsonl")), role="benign", prompt="q", response="a")
    assert source.sets() == ()


# ---- the shapes people have

ASK, SAY = "placeholder prompt 1", "placeholder answer 1"
USER, ASSISTANT = {"role": "user", "content": ASK}, {"role": "assistant", "content": SAY}
HUMAN, GPT = {"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}
EARLIER = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "second"}]
SYSTEM = {"role": "system", "content": "be brief"}
PARTS = [{"type": "text", "text": "placeholder "}, {"type": "text", "text": "prompt 1"}]
SAID = [{"type": "text", "text": SAY}]


def one(folder: Path, record: dict[str, Any], ending: str = "jsonl", **fields: Any) -> Example:
    """Give the one row of a file of one record."""
    path = folder / f"one.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([record]), path)
    else:
        path.write_text(json.dumps(record) + "\n")
    (row,) = Local(**{"path": str(path), "role": "benign"} | fields).examples()
    return row


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"prompt": ASK, "response": SAY}, {}),
        ({"prompt": ASK, "response": SAY, "messages": [HUMAN]}, {}),
        ({"messages": [USER, ASSISTANT]}, {}),
        ({"messages": [USER, ASSISTANT], "prompt": "another"}, {}),
        ({"messages": [USER | {"content": PARTS}, ASSISTANT | {"content": SAID}]}, {}),
        ({"messages": [USER, GPT]}, {}),
        ({"chat": [USER, ASSISTANT]}, {"shape": "messages", "prompt": "chat"}),
        ({"data": {"chat": [USER, ASSISTANT]}}, {"shape": "messages", "prompt": "data.chat"}),
        ({"conversations": [HUMAN, GPT]}, {}),
        ({"conversations": [HUMAN, GPT], "id": "x"}, {"shape": "sharegpt"}),
        ({"prompt": ASK, "completion": SAY}, {}),
        ({"prompt": [USER], "completion": [ASSISTANT]}, {}),
        ({"prompt": ASK, "chosen": SAY, "rejected": "another"}, {}),
        ({"prompt": ASK, "chosen": "another", "rejected": SAY}, {"response": "rejected"}),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [GPT]}, {}),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, GPT]}, {}),
        ({"chosen": [USER, GPT], "rejected": [USER, ASSISTANT]}, {"response": "rejected"}),
        ({"prompt": ASK, "chosen": [USER, ASSISTANT], "rejected": [USER, GPT]}, {}),
        ({"instruction": ASK, "input": "", "output": SAY}, {}),
        ({"instruction": ASK, "output": SAY}, {}),
        (
            {"instruction": ASK, "input": "more", "output": SAY},
            {"prompt": "instruction", "response": "output"},
        ),
        (
            {"ask": {"text": ASK}, "say": {"text": SAY}},
            {"prompt": "ask.text", "response": "say.text"},
        ),
        ({"a.b": ASK, "a": {"b": "another"}, "r": SAY}, {"prompt": "a.b", "response": "r"}),
    ],
)
def test_every_shape_gives_the_prompt_and_its_answer(
    tmp_path: Path, record: dict[str, Any], fields: dict[str, Any], ending: str
) -> None:
    if ending == "json":
        record = {"rows": [record]}
    row = one(tmp_path, record, ending, **fields)
    assert (row.system, row.turns, row.prompt, row.response) == (None, (), ASK, SAY)


def test_the_input_of_alpaca_follows_its_instruction(tmp_path: Path) -> None:
    row = one(tmp_path, {"instruction": "Sum.", "input": "1 2", "output": SAY, "text": "x"})
    assert (row.prompt, row.response) == ("Sum.\n\n1 2", SAY)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [SYSTEM, *EARLIER, USER, ASSISTANT]},
        {"system": "be brief", "messages": [*EARLIER, USER, ASSISTANT]},
        {"prompt": [SYSTEM, *EARLIER, USER], "completion": [ASSISTANT]},
        {"prompt": [SYSTEM, *EARLIER, USER], "completion": SAY},
        {
            "conversations": [
                {"from": "system", "value": "be brief"},
                {"from": "human", "value": "first"},
                {"from": "gpt", "value": "second"},
                HUMAN,
                GPT,
            ]
        },
    ],
)
def test_a_conversation_is_taken_whole(tmp_path: Path, record: dict[str, Any]) -> None:
    row = one(tmp_path, record)
    earlier = (("user", "first"), ("assistant", "second"))
    assert (row.system, row.turns) == ("be brief", earlier)
    assert (row.prompt, row.response) == (ASK, SAY)
    alone = one(tmp_path, {"prompt": ASK, "response": SAY})
    assert row.uid != alone.uid
    assert row.row_id != alone.row_id


def test_prompts_alone_are_read_from_a_conversation(tmp_path: Path) -> None:
    for messages in ([*EARLIER, USER], [*EARLIER, USER, ASSISTANT]):
        row = one(tmp_path, {"messages": messages}, role="harmful", response=None)
        assert (row.prompt, row.response, len(row.turns)) == (ASK, None, 2)


def test_what_each_row_may_lack_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": ASK}, {"prompt": "b", "s": "be brief", "t": EARLIER, "m": {"answer": "x"}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = Local(
        path=str(path), role="harmful", response=None, system="s", turns="t", meta="m"
    ).examples()
    assert (first.system, first.turns, first.meta) == (None, (), {})
    assert (second.system, len(second.turns), second.known.answer) == ("be brief", 2, "x")


@pytest.mark.parametrize(
    ("record", "fields", "response"),
    [
        ({"ask": ASK}, {"prompt": "ask"}, "I can't answer."),
        ({"ask": ASK, "kind": "x"}, {"prompt": "ask", "category": "kind"}, "I can't answer."),
        ({"prompt": ASK, "note": "x"}, {"refusal": "No."}, "No."),
        ({"prompt": ASK, "response": "a comply"}, {"refusal": "No."}, "No."),
        ({"prompt": ASK, "response": "a refusal"}, {}, "a refusal"),
        ({"messages": [USER]}, {"refusal": "No."}, "No."),
        ({"messages": [USER, ASSISTANT]}, {"refusal": "No."}, "No."),
        ({"messages": [USER, ASSISTANT]}, {}, SAY),
        ({"prompt": ASK, "chosen": SAY, "rejected": "x"}, {}, SAY),
        ({"prompt": ASK, "response": SAY}, {"response": None}, None),
    ],
)
def test_prompts_alone_can_have_one_refusal(
    tmp_path: Path, record: dict[str, Any], fields: dict[str, Any], response: str | None
) -> None:
    row = one(tmp_path, record, role="refusal", **fields)
    assert (row.prompt, row.response) == (ASK, response)


TOOL = {"role": "tool", "content": "x"}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"messages": [USER]},
        {},
        "a.jsonl:1: the conversation ends with the user; add the answer, drop the row, or set "
        "`response: null` to read prompts alone",
    ),
    (
        {"messages": [USER, ASSISTANT, TOOL]},
        {},
        "a.jsonl:1: message 3 in column 'messages' is of role 'tool'; drop the row (roles: system, "
        "user, assistant, human, gpt)",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": SAY, "tool_calls": [{"x": 1}]}]},
        {},
        "a.jsonl:1: message 2 in column 'messages' has 'tool_calls', which a row cannot hold; drop "
        "the row",
    ),
    (
        {"messages": [USER, USER, ASSISTANT]},
        {},
        "a.jsonl:1: two turns of the user follow each other; make them one, or drop the row",
    ),
    (
        {"messages": [USER, ASSISTANT, ASSISTANT]},
        {},
        "a.jsonl:1: two turns of the assistant follow each other; make them one, or drop the row",
    ),
    (
        {"messages": [USER, ASSISTANT, SYSTEM, USER, ASSISTANT]},
        {},
        "a.jsonl:1: a system prompt stands within the conversation; keep one, before the first "
        "turn",
    ),
    (
        {"messages": [ASSISTANT, USER, ASSISTANT]},
        {},
        "a.jsonl:1: the conversation does not begin with the user; drop the row",
    ),
    (
        {"messages": [SYSTEM]},
        {"role": "harmful", "response": None},
        "a.jsonl:1: the conversation does not begin with the user; drop the row",
    ),
    (
        {"messages": []},
        {},
        "a.jsonl:1: column 'messages' has no messages; fill it or drop the row",
    ),
    (
        {"messages": [USER, "x"]},
        {},
        "a.jsonl:1: message 2 in column 'messages' is no object; write {role: ..., content: ...}",
    ),
    (
        {"messages": [{"content": "x"}]},
        {},
        "a.jsonl:1: message 1 in column 'messages' has no role; write {role: ..., content: ...}",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": " "}]},
        {},
        "a.jsonl:1: message 2 in column 'messages' is empty or no text; fill it or drop the row",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT]},
        {},
        "a.jsonl:1: message 1 in column 'messages' holds something else than text; drop the row",
    ),
    (
        {"messages": "x"},
        {},
        "a.jsonl:1: column 'messages' is no list of messages; write [{role: ..., content: ...}, "
        "...]",
    ),
    (
        {"system": "x", "messages": [SYSTEM, USER, ASSISTANT]},
        {},
        "a.jsonl:1: a system prompt in the conversation and one in column 'system'; keep one",
    ),
    (
        {"messages": [USER, ASSISTANT], "conversations": [HUMAN, GPT]},
        {},
        "a.jsonl:1: its columns fit the shapes messages and sharegpt; say which in `shape`",
    ),
    (
        {"prompt": ASK, "chosen": SAY, "rejected": "x"},
        {"role": "harmful"},
        "a.jsonl:1: a preference pair has two answers; say which is the harmful one: `response: "
        "chosen` or `response: rejected`",
    ),
    (
        {"prompt": ASK, "chosen": [{"role": "user", "content": "x"}, ASSISTANT], "rejected": []},
        {},
        "a.jsonl:1: the conversation in column 'chosen' does not begin with the prompt; keep the "
        "answer alone there",
    ),
    (
        {"prompt": ASK, "completion": ""},
        {},
        "a.jsonl:1: column 'completion' is empty or no text; fill it or drop the row",
    ),
    (
        {"prompt": ASK, "response": SAY, "kind": 3},
        {"category": "kind"},
        "a.jsonl:1: column 'kind' is empty or no text; fill it or drop the row",
    ),
    (
        {"prompt": ASK, "note": "x"},
        {"role": "refusal"},
        "a.jsonl:1: no column 'response'; map it to one of: prompt, note, or give every row one in "
        "`refusal`",
    ),
    (
        {"how are the placeholders of the first row kept?": "x", "q": "y"},
        {},
        "a.jsonl:1: no column 'prompt'; map it to one of: (column 1), q",
    ),
    (
        {"prompt": ASK, "response": SAY},
        {"refusal": "No."},
        "a.jsonl: role benign takes no `refusal`; leave it out, or set the role",
    ),
    (
        {"prompt": ASK},
        {"role": "refusal", "refusal": " "},
        "a.jsonl: `refusal` is empty; write what is answered",
    ),
    (
        {"prompt": ASK, "response": SAY},
        {"system": "s"},
        "a.jsonl: no row has a column 's'; check its name, or leave it out",
    ),
    (
        {"prompt": ASK, "response": SAY, "m": "x"},
        {"meta": "m"},
        "a.jsonl:1: 'm' is no object; write fields there, or leave it out",
    ),
    (
        {"prompt": ASK, "response": SAY, "m": {"answer": 3}},
        {"meta": "m"},
        "a.jsonl:1: 'meta.answer' is no text; write the answer as text",
    ),
]


@pytest.mark.parametrize(("record", "fields", "line"), WRONG, ids=[line for *_, line in WRONG])
def test_what_cannot_be_taken_whole_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record: dict[str, Any],
    fields: dict[str, Any],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError) as caught:
        Local(**{"path": "a.jsonl", "role": "benign", "response": "response"} | fields).examples()
    assert str(caught.value) == line


def test_the_old_name_leads_to_the_new_one() -> None:
    with pytest.raises(ConfigError) as caught:
        make("source", {"file": {"path": "a.jsonl", "role": "benign"}}, "study.sources[0]")
    assert str(caught.value) == "study.sources[0]: no source 'file'; did you mean 'local'?"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"role": "benign", "match": "contained"},
            "{path}: `match` of no evaluation set; name one in `evaluation_set`",
        ),
        (
            {"role": "harmful", "match": "contained", "evaluation_set": "x"},
            "{path}: purpose 'harm' compares no answer, so `match` says nothing; leave it out, or "
            "set the purpose",
        ),
    ],
)
def test_a_match_without_an_answer_is_one_line(
    fields: dict[str, Any], line: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "placeholder prompt 1", "response": "placeholder"}\n')
    with pytest.raises(DataError) as caught:
        Local(path=str(path), **fields).examples()
    assert str(caught.value) == line.format(path=path)
