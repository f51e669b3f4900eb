"""A folder of lm-eval tasks in the shapes of MMLU, OpenBookQA and GSM8K, in words of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.data.example import Example

LETTERS = ("A", "B", "C", "D")
THINGS = ("bread", "lantern", "gate", "song", "olive", "oak", "maker", "guard")
WORDS = ("red", "split", "weigh", "soak", "carve", "grind", "steps", "teal")
"""Short ones, so that five examples fit into the smallest context."""

PICK = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA_test.jsonl, dev: DATA_dev.jsonl}}
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
output_type: multiple_choice
doc_to_text: "{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\n\
D. {{choices[3]}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
BOOKISH = """
task: bookish
dataset_path: json
dataset_kwargs: {data_files: {train: bookish_train.jsonl, test: bookish_test.jsonl}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: question_stem
doc_to_target: "{{choices.label.index(answerKey.lstrip())}}"
doc_to_choice: "{{choices.text}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {train: sums_train.jsonl, test: sums_test.jsonl}}
training_split: train
fewshot_split: train
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    regexes_to_ignore: [",", "(?s).*#### ", "\\\\.$"]
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 12}
filter_list:
  - name: strict-match
    filter:
      - {function: regex, regex_pattern: "#### (\\\\-?[0-9\\\\.\\\\,]+)"}
      - {function: take_first}
  - name: flexible-extract
    filter:
      - {function: regex, group_select: -1, regex_pattern: "(-?[0-9]+)"}
      - {function: take_first}
metadata: {version: 1.0}
"""


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chosen(i: int) -> tuple[list[str], int]:
    """Give four words, one of them thing i's, and its place."""
    shown = [WORDS[(i + step) % len(WORDS)] for step in (0, 2, 3, 5)]
    right = i % 4
    shown[0], shown[right] = shown[right], shown[0]
    return shown, right


def picks(n: int, first: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(first, first + n):
        options, right = chosen(i)
        found.append({"question": f"{THINGS[i % 8]} {i}", "choices": options, "answer": right})
    return found


def books(n: int, first: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(first, first + n):
        options, right = chosen(i)
        longer = [one if at % 2 else f"{one} bread" for at, one in enumerate(options)]
        labelled = {"text": longer, "label": list(LETTERS)}
        text = f"What is {THINGS[i % 8]} {i}?"
        found.append({"question_stem": text, "choices": labelled, "answerKey": LETTERS[right]})
    return found


def sums(n: int, first: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(first, first + n):
        a, b = 2 + i % 7, 1 + i % 5
        found.append({"question": f"{a} + {b} = ?", "answer": f"{a + b} #### {a + b}"})
    return found


def tasks(folder: Path, n: int = 6) -> Path:
    """Write the tasks `bookish` and `sums`, and the group `picks` of two."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(("picks_indoors", "picks_outdoors")):
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{PICK.replace('DATA', name)}")
        lines(folder / f"{name}_test.jsonl", picks(n, 100 * i))
        lines(folder / f"{name}_dev.jsonl", picks(5, 100 * i + 50))
    (folder / "picks.yaml").write_text(
        "group: picks\ntask: [picks_indoors, picks_outdoors]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    for name, text, made in (("bookish", BOOKISH, books), ("sums", SUMS, sums)):
        (folder / f"{name}.yaml").write_text(text)
        lines(folder / f"{name}_test.jsonl", made(n))
        lines(folder / f"{name}_train.jsonl", made(12, 50))
    return folder


QUIZ = """
task: quizzed
dataset_path: json
dataset_kwargs: {data_files: {test: quizzed.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "User: {{prompt}}\\nAssistant:"
doc_to_target: answer_index
doc_to_choice: options
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""


def quizzed(folder: Path, rows: Sequence[Example]) -> Path:
    """Write questions with options as the task `quizzed`, in our plain format."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quizzed.yaml").write_text(QUIZ)
    lines(
        folder / "quizzed.jsonl",
        [
            {"prompt": row.prompt, "options": list(row.known.options),
             "answer_index": row.known.answer_index}
            for row in rows
        ],
    )  # fmt: skip
    return folder
