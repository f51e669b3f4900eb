"""The shapes in which people keep rows: each read whole, or refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.data.example import Example, Side
from holdfast.data.pool import Pool
from holdfast.data.sources.local import Local
from holdfast.errors import DataError

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
            {"instruction": ASK, "input": "", "output": SAY},
            {"prompt": "instruction", "response": "output"},
        ),
        ({"instruction": ASK, "input": "", "response": SAY}, {"shape": "alpaca"}),
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
        {"system": "be brief", "turns": EARLIER, "prompt": ASK, "response": SAY},
        {"system": "be brief", "history": EARLIER, "prompt": ASK, "response": SAY, "turns": 2},
        {"system": "be brief", "history": [["first", "second"]], "prompt": ASK, "completion": SAY},
        {
            "system": "be brief",
            "instruction": ASK,
            "input": "",
            "output": SAY,
            "history": [["first", "second"]],
            "tools": "[]",
        },
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


@pytest.mark.parametrize("weights", [{}, {"weight": 1}, {"train": True}, {"loss": None}])
def test_only_the_last_answer_need_be_trained_on(tmp_path: Path, weights: dict[str, Any]) -> None:
    first, second = EARLIER
    row = one(tmp_path, {"messages": [first, second | {"weight": 0}, USER, ASSISTANT | weights]})
    assert (len(row.turns), row.response) == (2, SAY)


def test_a_row_keeps_its_line_and_that_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    said = json.dumps({"prompt": ASK, "response": SAY})
    path.write_text(f"\n{said}\n{said}\n")
    first, second = Local(path=str(path), role="benign").examples()
    assert (first.place, second.place) == (f"{path}:2", f"{path}:3")
    assert first == second


def test_an_object_that_holds_one_conversation_is_one_row(tmp_path: Path) -> None:
    for record in ({"messages": [USER, ASSISTANT]}, {"conversations": [HUMAN, GPT]}):
        row = one(tmp_path, record, "json")
        assert (row.prompt, row.response) == (ASK, SAY)
    said = [{"prompt": text, "response": SAY, "role": "benign"} for text in (ASK, "b")]
    (tmp_path / "b.json").write_text(json.dumps({"rows": said}))
    assert len(Local(path=str(tmp_path / "b.json"), role="benign").examples()) == 2


def test_options_are_asked_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = {"prompt": ASK, "about": {"options": ["a", "b"], "answer_index": 1}}
    path.write_text(json.dumps(record))
    fields = {"path": str(path), "role": "benign", "response": None, "side": "evaluator"}
    quiz = Local(**fields, evaluation_set="quiz", purpose="options", meta="about")
    pool = Pool.of([quiz])
    assert pool.sets["quiz"].scorer == "options"
    (row,) = pool.evaluation("quiz", Side.EVALUATOR, None, 0)
    assert (row.known.options, row.known.answer_index) == (("a", "b"), 1)
    with pytest.raises(DataError) as caught:
        quiz.with_(meta=None).examples()
    assert str(caught.value) == (
        f"{path}: purpose 'options' needs the options of each row; name in `meta` the column of an "
        "object with `options` and `answer_index`"
    )


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
        ({"prompt": ASK, "system": "be brief"}, {}, "I can't answer."),
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
        {"messages": [USER, ASSISTANT | {"weight": 0}]},
        {},
        "a.jsonl:1: message 2 in column 'messages' is not trained on, by its 'weight'; drop the "
        "row, or set `response: null` to read prompts alone",
    ),
    (
        {"conversations": [HUMAN, {"from": "placeholder prompt 2", "value": "x"}]},
        {},
        "a.jsonl:1: message 2 in column 'conversations' is of another role; drop the row (roles: "
        "system, user, assistant, human, gpt)",
    ),
    (
        {"messages": [USER]},
        {"role": "refusal"},
        "a.jsonl:1: the conversation ends with the user; add the answer, drop the row, or give "
        "every row one: `refusal: TEXT`",
    ),
    (
        {"messages": [USER, ASSISTANT], "tools": [{"name": "x"}]},
        {},
        "a.jsonl:1: column 'tools' is filled, and a row holds text alone; drop the row, or leave "
        "the column out",
    ),
    (
        {"prompt": ASK, "response": SAY, "images": ["x.png"]},
        {},
        "a.jsonl:1: column 'images' is filled, and a row holds text alone; drop the row, or leave "
        "the column out",
    ),
    (
        {"messages": [USER, ASSISTANT], "history": [["a", "b"]]},
        {},
        "a.jsonl:1: column 'history' has turns beside a whole conversation; write them into it, or "
        "leave the column out",
    ),
    (
        {"messages": [USER], "turns": EARLIER},
        {"role": "harmful", "response": None},
        "a.jsonl:1: column 'turns' has turns beside a whole conversation; write them into it, or "
        "leave the column out",
    ),
    (
        {"prompt": ASK, "response": SAY, "history": [["a", "b"]], "turns": EARLIER},
        {},
        "a.jsonl:1: columns 'turns' and 'history' both have earlier turns; say which in `turns`",
    ),
    (
        {"prompt": ASK, "response": SAY, "history": [["a"]]},
        {},
        "a.jsonl:1: column 'history' has something else than pairs of question and answer; write "
        "[[question, answer], ...]",
    ),
    (
        {"prompt": ASK, "response": SAY, "history": "User: a"},
        {},
        "a.jsonl:1: column 'history' is no list of messages; write [{role: ..., content: ...}, "
        "...]",
    ),
    (
        {"instruction": ASK, "input": "1 2", "output": SAY},
        {"prompt": "instruction", "response": "output"},
        "a.jsonl:1: column 'input' has words that would not be read; write `shape: alpaca`",
    ),
    (
        {"instruction": ASK, "context": "1 2", "response": SAY},
        {"prompt": "instruction"},
        "a.jsonl:1: column 'context' has words that would not be read; write them into the prompt, "
        "or leave the column out",
    ),
    (
        {"instruction": ASK, "input": "1 2", "say": SAY},
        {"response": "say"},
        "a.jsonl:1: no column 'prompt'; map it to one of: instruction, input, say, or write "
        "`shape: alpaca`",
    ),
    (
        {"chat": [USER, ASSISTANT], "id": "x"},
        {},
        "a.jsonl:1: no column 'prompt'; map it to one of: chat, id, or write `shape: messages` and "
        "`prompt: chat`",
    ),
    (
        {"dialog": [HUMAN, GPT]},
        {},
        "a.jsonl:1: no column 'prompt'; map it to one of: dialog, or write `shape: sharegpt` and "
        "`prompt: dialog`",
    ),
    (
        {"SECRET": "x", "Sure": "y"},
        {},
        "a.jsonl:1: no column 'prompt', and none of a known name; map it to the name that it has, "
        "or put a line of names first if this is a row",
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
        "a.jsonl:1: no column 'response'; map it to one of: prompt, note, or give every row one: "
        "`refusal: TEXT`",
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
