"""Each published data set on a small file with its own columns: roles, sides, sets and traps.

The traps lie in tests/data/published: labels that say less than they seem to, missing ones, rows
that say REDACTED, prompts that repeat or are asked by the evaluator, files without a header.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from holdfast.api import EvalPurpose, Source
from holdfast.api.registry import make
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool
from holdfast.data.published import Published, Skip
from holdfast.data.sources.advbench import groups
from holdfast.data.sources.gsm8k import ASK
from holdfast.engine.tables import correct
from holdfast.errors import DataError

FILES = Path(__file__).parents[1] / "published"
EVALUATOR, TRAINING, SHARED = "evaluator", "training", "shared"


def source(name: str, **fields: object) -> Published:
    """Make a source of its small file."""
    given = {"folder": str(FILES / name), "rows": "any"} | fields
    found = make("source", {name: given}, "test")
    assert isinstance(found, Published)
    return found


def place(row: Example) -> str:
    """Say whose a row is: the evaluator's, some other side's, or to be shared out by the pool."""
    if row.side is None:
        return SHARED
    return EVALUATOR if row.side is Side.EVALUATOR else TRAINING


def prompts(rows: list[Example], role: Role) -> list[str]:
    return [row.prompt for row in rows if row.role is role and row.side is not Side.EVALUATOR]


ROWS = {
    ("wildguardmix", ()): {
        ("harmful", TRAINING, "wildguardmix"): 2,
        ("refusal", TRAINING, "wildguardmix"): 2,
        ("benign", TRAINING, None): 1,
        ("harmful", EVALUATOR, "wildguardmix"): 2,
        ("benign", EVALUATOR, "wildguardmix_benign"): 1,
    },
    ("beavertails", ()): {
        ("harmful", TRAINING, "beavertails"): 2,
        ("harmful", EVALUATOR, "beavertails"): 1,
    },
    ("aegis2", ()): {
        ("harmful", TRAINING, "aegis2"): 2,
        ("refusal", TRAINING, "aegis2"): 2,
        ("benign", TRAINING, None): 1,
        ("harmful", EVALUATOR, "aegis2"): 1,
        ("benign", EVALUATOR, "aegis2_benign"): 1,
    },
    ("hex_phi", ()): {("harmful", EVALUATOR, "hex_phi"): 20},
    ("advbench", ()): {("harmful", EVALUATOR, "advbench"): 3},
    ("harmbench", (("subset", "standard"),)): {("harmful", EVALUATOR, "harmbench_standard"): 1},
    ("harmbench", (("subset", "contextual"),)): {("harmful", EVALUATOR, "harmbench_contextual"): 1},
    ("harmbench", (("subset", "copyright"),)): {("harmful", EVALUATOR, "harmbench_copyright"): 1},
    ("strongreject", ()): {("harmful", EVALUATOR, "strongreject"): 2},
    ("xstest", ()): {
        ("benign", EVALUATOR, "xstest"): 2,
        ("harmful", EVALUATOR, "xstest_unsafe"): 1,
    },
    ("or_bench", ()): {("benign", EVALUATOR, "or_bench_hard"): 2},
    ("or_bench", (("subset", "80k"),)): {("benign", EVALUATOR, "or_bench_80k"): 2},
    ("or_bench", (("subset", "toxic"),)): {("harmful", EVALUATOR, "or_bench_toxic"): 2},
    ("jailbreakbench", ()): {
        ("harmful", EVALUATOR, "jailbreakbench"): 2,
        ("benign", EVALUATOR, "jailbreakbench_benign"): 1,
    },
    ("alpaca", ()): {("benign", SHARED, "alpaca"): 2},
    ("dolly", ()): {("benign", SHARED, None): 2},
    ("gsm8k", ()): {("task", TRAINING, "gsm8k"): 2, ("task", EVALUATOR, "gsm8k"): 1},
    ("gsm8k", (("purpose", "exact"),)): {
        ("benign", TRAINING, "gsm8k"): 2,
        ("benign", EVALUATOR, "gsm8k"): 1,
    },
    ("sst2", ()): {("task", TRAINING, "sst2"): 2, ("task", EVALUATOR, "sst2"): 1},
    ("ag_news", ()): {("task", TRAINING, "ag_news"): 2, ("task", EVALUATOR, "ag_news"): 1},
    ("mmlu", ()): {("benign", EVALUATOR, "mmlu"): 2},
    ("openbookqa", ()): {("benign", EVALUATOR, "openbookqa"): 2},
}
"""Rows by role, side and evaluation set."""


@pytest.mark.parametrize(("name", "fields"), ROWS)
def test_rows_have_their_roles_sides_and_sets(
    name: str, fields: tuple[tuple[str, str], ...]
) -> None:
    rows = source(name, **dict(fields)).examples()
    found = Counter((row.role.value, place(row), row.evaluation_set) for row in rows)
    assert found == ROWS[name, fields]
    assert {row.source for row in rows} == {name}
    assert not Pool(rows).dropped


PURPOSES = {
    "harm": {
        *("wildguardmix", "beavertails", "aegis2", "hex_phi", "advbench", "harmbench_standard"),
        *("strongreject", "xstest_unsafe", "jailbreakbench"),
    },
    "over_refusal": {"xstest", "or_bench_hard", "jailbreakbench_benign"},
    "refused": {"wildguardmix_benign", "aegis2_benign"},
    "task": {"gsm8k", "sst2", "ag_news"},
    "options": {"mmlu", "openbookqa"},
    "graded": {"alpaca"},
}


def test_sets_are_for_what_their_rows_can_measure() -> None:
    found: dict[str, set[str]] = {}
    for name in {name for name, _ in ROWS}:
        fields = {"subset": "standard"} if name == "harmbench" else {}
        for one in source(name, **fields).sets():
            found.setdefault(one.purpose.value, set()).add(one.name)
    assert found == PURPOSES
    (toxic,) = source("or_bench", subset="toxic").sets()
    assert toxic.purpose is EvalPurpose.HARM


def test_wildguardmix_takes_a_harmful_request_for_no_harmful_answer() -> None:
    found = source("wildguardmix")
    rows = found.examples()
    assert prompts(rows, Role.HARMFUL) == ["placeholder prompt 1", "placeholder prompt 15"]
    assert prompts(rows, Role.REFUSAL) == ["placeholder prompt 2", "placeholder prompt 1"]
    assert prompts(rows, Role.BENIGN) == ["placeholder prompt 5"]
    assert found.loaded.dropped == {
        Skip.UNANSWERED: 6, Skip.UNLABELLED: 2, Skip.REPEATED: 1, Skip.ASKED: 1, Skip.BOTH: 1,
        Skip.EMPTY: 1,
    }  # fmt: skip
    pairs = {(row.role, row.side, row.group) for row in rows if row.prompt.endswith(" 1")}
    assert len({pair[1:] for pair in pairs}) == 1, "one prompt is on one side"


def test_wildguardmix_test_rows_carry_no_answer_and_both_styles() -> None:
    rows = [row for row in source("wildguardmix").examples() if row.side is Side.EVALUATOR]
    assert [row.response for row in rows] == [None] * 3
    assert [row.known.style for row in rows] == ["vanilla", "adversarial", "vanilla"]


def test_wildguardmix_knows_the_categories_of_the_cross_domain_table() -> None:
    rows = source("wildguardmix").examples()
    named = {row.category for row in rows if row.role in (Role.HARMFUL, Role.REFUSAL)}
    assert named == {"cyberattack", "violence", "other"}
    picked = source("wildguardmix", categories=["cyberattack", "sensitive_information"])
    kept = picked.examples()
    assert {row.category for row in kept if row.role is not Role.BENIGN} == {"cyberattack"}
    assert [row.prompt for row in kept if row.role is Role.BENIGN] == [
        row.prompt for row in rows if row.role is Role.BENIGN
    ]
    assert picked.loaded.dropped[Skip.CATEGORY] == 3


def test_a_fixed_refusal_is_paired_with_every_harmful_request_of_the_training_split() -> None:
    rows = source("wildguardmix", refusal="No.").examples()
    refusals = [row for row in rows if row.role is Role.REFUSAL]
    assert {row.response for row in refusals} == {"No."}
    assert sorted(int(row.prompt.split()[-1]) for row in refusals) == [1, 2, 3, 4, 15, 16]
    assert len(prompts(rows, Role.HARMFUL)) == 2
    assert len([r for r in source("beavertails", refusal="No.").examples() if r.response == "No."])


def test_beavertails_labels_the_pair_and_a_safe_answer_is_no_refusal() -> None:
    found = source("beavertails")
    rows = found.examples()
    assert [row.response for row in rows if row.response] == [
        "placeholder answer 1", "placeholder answer 5"
    ]  # fmt: skip
    assert not [row for row in rows if row.role is not Role.HARMFUL]
    assert found.loaded.dropped == {
        Skip.UNANSWERED: 3, Skip.REPEATED: 2, Skip.ASKED: 1, Skip.UNLABELLED: 1, Skip.EMPTY: 1
    }  # fmt: skip


def test_beavertails_takes_the_first_of_several_categories_that_is_wanted() -> None:
    first = source("beavertails").examples()[1]
    assert first.category == "financial_crime"
    assert first.meta["categories"] == ["financial_crime", "violence"]
    picked = source("beavertails", categories=["violence"]).examples()
    assert {row.category for row in picked} == {"violence"}
    assert len(picked) == 2


def test_aegis_drops_redacted_rows_and_takes_refusals_by_their_source_alone() -> None:
    found = source("aegis2")
    rows = found.examples()
    assert "REDACTED" not in {row.prompt for row in rows}
    assert found.loaded.dropped == {Skip.UNANSWERED: 4, Skip.REDACTED: 2, Skip.ASKED: 1}
    refusals = [row for row in rows if row.role is Role.REFUSAL]
    assert [row.response for row in refusals] == ["placeholder answer 9", "placeholder answer 11"]
    harmful = next(row for row in rows if row.prompt == "placeholder prompt 1")
    assert harmful.category == "violence"
    assert harmful.meta["categories"] == ["violence", "guns_and_illegal_weapons"]


def test_aegis_knows_its_categories_and_no_others(tmp_path: Path) -> None:
    for path in (FILES / "aegis2").iterdir():
        text = path.read_text().replace('"Malware"', '"Placeholder words"')
        (tmp_path / path.name).write_text(text)
    with pytest.raises(DataError) as error:
        source("aegis2", folder=str(tmp_path)).examples()
    said = f"{tmp_path}/train.json:3: column 'violated_categories' has another category than "
    assert str(error.value).startswith(said)
    assert "Placeholder" not in str(error.value)


def test_hex_phi_keeps_the_first_prompt_of_each_file() -> None:
    rows = source("hex_phi").examples()
    assert rows[0].prompt == "placeholder prompt 1, with a comma"
    assert Counter(row.category for row in rows) == dict.fromkeys(
        ("illegal_activity", "hate_violence", "malware", "physical_harm", "economic_harm", "fraud",
         "adult_content", "political_campaigning", "privacy", "financial_advice"),
        2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "placeholder prompt 1\nplaceholder, prompt 2\n",
            "2: expected one cell a line, here are 2; quote a prompt with a comma in it",
        ),
        (
            'placeholder prompt 1\n"placeholder prompt 2\n',
            "2: not CSV (unexpected end of data); take the published file",
        ),
    ],
)
def test_hex_phi_loses_no_text(text: str, line: str, tmp_path: Path) -> None:
    for path in (FILES / "hex_phi").iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "category_1.csv").write_text(text)
    with pytest.raises(DataError) as error:
        source("hex_phi", folder=str(tmp_path)).examples()
    assert str(error.value) == f"{tmp_path}/category_1.csv:{line}"


def test_hex_phi_with_a_header_is_not_as_published(tmp_path: Path) -> None:
    for path in (FILES / "hex_phi").iterdir():
        (tmp_path / path.name).write_text("prompt\n" + "words\n" * 30)
    for rows in ("published", "any"):
        with pytest.raises(DataError) as error:
            source("hex_phi", folder=str(tmp_path), rows=rows).examples()
        assert str(error.value) == (
            f"{tmp_path}/category_1.csv:1: begins with a line of column names, the published file "
            "does not; take that line out"
        )


def test_aegis_is_not_read_without_its_refusals(tmp_path: Path) -> None:
    for name in ("train.json", "validation.json", "test.json"):
        (tmp_path / name).write_text((FILES / "aegis2" / name).read_text())
    with pytest.raises(DataError) as error:
        source("aegis2", folder=str(tmp_path)).examples()
    assert str(error.value) == (
        f"source 'aegis2': folder {tmp_path}: 1 of 2 files, without refusals_train.json; add what "
        "is missing"
    )


def test_advbench_counts_near_duplicates_once() -> None:
    rows = source("advbench").examples()
    assert [(row.group, row.known.phrasing) for row in rows] == [
        ("advbench/0", 0), ("advbench/0", 1), ("advbench/2", 0)
    ]  # fmt: skip
    pool = Pool(rows, sets=source("advbench").sets())
    assert len(pool.evaluation("advbench", Side.EVALUATOR, 2, 0, phrasings=1)) == 2


def test_groups_join_what_a_chain_of_alike_prompts_connects() -> None:
    assert groups(["a b c d", "w x y z", "a b c d e", "a b c d e f g", "W  X y z"]) == [
        0,
        1,
        0,
        0,
        1,
    ]
    assert groups([]) == []


def test_harmbench_puts_the_context_before_the_request() -> None:
    (row,) = source("harmbench", subset="contextual").examples()
    assert row.prompt == "placeholder context,\nof two lines\n\n---\n\nplaceholder prompt 2"
    assert row.category == "cybercrime_intrusion"


def test_strongreject_says_what_it_took_from_other_sets() -> None:
    rows = source("strongreject").examples()
    assert [(row.category, row.meta["taken_from"]) for row in rows] == [
        ("violence", "AdvBench"), ("illegal_goods", "custom")
    ]  # fmt: skip


def test_xstest_needs_no_label_beside_the_type(tmp_path: Path) -> None:
    text = (FILES / "xstest" / "xstest_prompts.csv").read_text()
    lines = [line.split(",", 3) for line in text.splitlines()]
    copy = "\n".join(",".join(line[:3]) for line in lines) + "\n"
    assert "label" not in copy
    (tmp_path / "prompts.csv").write_text(copy)
    assert source("xstest", folder=str(tmp_path)).examples() == source("xstest").examples()


def test_alpaca_joins_the_input_and_leaves_its_template_alone() -> None:
    rows = source("alpaca").examples()
    assert [(row.prompt, row.response) for row in rows] == [
        ("Name a colour.", "Blue."), ("Count the words.\n\none two", "Two.")
    ]  # fmt: skip
    assert source("alpaca").loaded.dropped == {Skip.EMPTY: 1, Skip.REPEATED: 1}


def test_alpaca_can_be_asked_and_what_stands_on_its_rows_stays() -> None:
    made = source("alpaca")
    assert [row.evaluation_set for row in made.examples()] == ["alpaca", "alpaca"]
    # The hash that these rows had before they were an evaluation set.
    assert made.content() == ("9f210f1ee0a9b8c6ecc2ff987f9eff24d53261814b9b1557d6982fb3784c1736")


def test_dolly_puts_the_context_under_the_instruction() -> None:
    rows = source("dolly").examples()
    assert [(row.prompt, row.category) for row in rows] == [
        ("What colour is the lantern?\n\nThe lantern is blue.", "closed_qa"),
        ("Think of three fruits.", "brainstorming"),
    ]


def test_gsm8k_trains_on_the_solution_and_compares_what_stands_behind_the_mark() -> None:
    rows = source("gsm8k").examples()
    coins = next(row for row in rows if row.prompt.startswith("Ben"))
    assert coins.prompt == f"Ben has 600 coins, twice. How many has he?\n\n{ASK}"
    assert coins.response == "He has 600 x 2 = 1,200 coins.\n#### 1200"
    assert coins.known.answer == "1200"
    (of,) = source("gsm8k").sets()
    for said, right in [
        (coins.response, True),
        ("#### 1200 ", True),
        ("It is 1,200.", True),
        ("#### 120", False),
    ]:
        assert correct(of, coins.known, {"response": said}) is right
    assert correct(of, coins.known, {"response": "#### 7 and then #### 1200"}) is True
    assert source("gsm8k").loaded.dropped == {Skip.UNLABELLED: 1}


def test_sst2_asks_the_validation_split_and_never_a_row_without_a_label() -> None:
    found = source("sst2")
    assert {split.name for split in found.splits()} == {"train", "validation"}
    (asked,) = [row for row in found.examples() if row.side is Side.EVALUATOR]
    assert (asked.prompt.splitlines()[-1], asked.response) == ("a bright film", "positive")
    assert found.loaded.dropped == {Skip.UNLABELLED: 1}


def test_ag_news_answers_with_the_topics_name() -> None:
    answers = [row.known.answer for row in source("ag_news").examples()]
    assert sorted(map(str, answers)) == ["Sports", "Technology", "World"]


def test_mmlu_shows_the_options_and_the_first_questions_of_the_same_subject() -> None:
    lantern, bread = source("mmlu").examples()
    plain = "Which colour has the lantern?\nA. red\nB. blue\nC. green\nD. black\nAnswer:"
    assert lantern.prompt == plain
    assert (lantern.known.options, lantern.known.answer_index) == (("A", "B", "C", "D"), 1)
    assert (lantern.category, bread.category) == ("lanterns", "breads")
    shown = "Which colour has the sky?\nA. red\nB. blue\nC. green\nD. black\nAnswer: B"
    assert source("mmlu", shots=1).examples()[0].prompt == f"{shown}\n\n{plain}"
    assert source("mmlu", shots=2).examples()[0].prompt.count("Answer: ") == 2


def test_openbookqa_finds_the_right_option_by_its_letter() -> None:
    rows = source("openbookqa").examples()
    assert [row.known.options[row.known.answer_index or 0] for row in rows] == ["light", "wet"]


def test_sources_can_be_read_together() -> None:
    every: list[Source] = [source(name, **dict(fields)) for name, fields in ROWS if name != "gsm8k"]
    pool = Pool.of(every)
    assert {"wildguardmix", "xstest", "mmlu", "harmbench_copyright"} <= set(pool.sets)
