"""The audit finds what was planted, however it is hidden, and nothing that is not there."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.data import audit
from holdfast.data.audit import ATTACK, CALIBRATION, DEFENCE, EVALUATION, Leakage, Pair
from holdfast.data.example import Example, Role, example


def row(prompt: str, **given: Any) -> Example:
    return example(prompt, role=Role.HARMFUL, **given)


def groups(asked: list[Example], **others: list[Example]) -> dict[str, list[Example]]:
    return {EVALUATION: asked, CALIBRATION: [], ATTACK: [], DEFENCE: [], **others}


def pair(found: Leakage, first: str, second: str) -> Pair:
    (one,) = (one for one in found.pairs if (one.first, one.second) == (first, second))
    return one


ASKED = "Which placeholder words stand in prompt three of this file?"
HIDDEN = {
    "as it is": ASKED,
    "punctuation": "Which placeholder words -- stand in prompt three, of this file?!",
    "no punctuation": "Which placeholder words stand in prompt three of this file",
    "case": ASKED.upper(),
    "white space": " Which placeholder\twords stand\n\nin prompt three  of this file? ",
    "width": ASKED.replace("three", "".join(chr(ord(one) + 0xFEE0) for one in "three")),
    "a zero-width space": ASKED.replace("three", "th\u200bree"),
    "a soft hyphen": ASKED.replace("words", "wo\u00adrds"),
    "no white space": ASKED.replace(" ", ""),
    "other white space": ASKED.replace("placeholder", "place holder"),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_duplicate_does_not_hide(how: str) -> None:
    found = audit.audit(groups([row(ASKED)], defence=[row(HIDDEN[how])]))
    assert pair(found, EVALUATION, DEFENCE).exact == 1
    assert pair(found, EVALUATION, DEFENCE).near == 0
    assert (found.leaked, found.share) == (1, 1.0)


def test_a_system_prompt_hides_nothing_and_earlier_turns_count() -> None:
    under = row(ASKED, system="You are a placeholder.")
    assert under.uid != row(ASKED).uid, "so the pool keeps both sides"
    assert audit.audit(groups([row(ASKED)], attack=[under])).leaked == 1
    later = example("Go on.", role=Role.HARMFUL, turns=(("user", ASKED), ("assistant", "No.")))
    other = replace(later, turns=(("user", "Name the second file."), ("assistant", "No.")))
    assert audit.audit(groups([later], attack=[other])).leaked == 0
    assert audit.audit(groups([later], attack=[later])).leaked == 1


def test_a_prompt_in_an_earlier_turn_of_a_row_is_found() -> None:
    said = (("user", ASKED.upper()), ("assistant", "No."))
    later = example("Thanks.", "So.", role=Role.HARMFUL, turns=said)
    found = audit.audit(groups([row(ASKED), row("Thanks!"), row("no")], defence=[later]))
    assert pair(found, EVALUATION, DEFENCE).exact == 2, "each turn of the user, none of a model's"
    assert found.prompts[DEFENCE] == 1
    near = example("Thanks.", "So.", role=Role.HARMFUL, turns=(("user", f"So: {ASKED}"), said[1]))
    assert pair(audit.audit(groups([row(ASKED)], attack=[near])), EVALUATION, ATTACK).near == 1


def test_text_without_white_space_is_compared_without_it() -> None:
    asked, hidden = "第三个文件里的占位词是什么呢朋友", "第三个文件里的占位词,是什么呢 朋友?"
    assert audit.audit(groups([row(asked)], defence=[row(hidden)])).pairs[2].exact == 1
    full = hidden.replace(",", "\uff0c").replace("?", "\uff1f").replace(" ", "\u3000")
    assert audit.audit(groups([row(asked)], defence=[row(full)])).pairs[2].exact == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2 + 2 = 4", "2 < 2 = 4"),
        ("कि", "की"),
        ("???", "!!!"),
        ("don't", "do not"),
        ("What is 12 - 3?", "What is 1 - 23?"),
    ],
)
def test_other_prompts_are_other_prompts(first: str, second: str) -> None:
    found = audit.audit(groups([row(first)], attack=[row(second)]))
    assert (pair(found, EVALUATION, ATTACK).exact, found.leaked) == (0, 0)


def jaccard(first: str, second: str) -> float:
    ours, theirs = ({s[i : i + 5] for i in range(len(s) - 4)} for s in (first, second))
    return len(ours & theirs) / len(ours | theirs)


ABOVE, BELOW = "abcdefghijklmnopqrstuvwxyz01234567", "abcdefghijklmnopqrstuvwxyz012345678"
PLAIN = "abcdefghijklmnopqrstuvwxyz"
"""26 letters have 22 shingles, 34 have 30, 35 have 31: 22 / 30 = .733, 22 / 31 = .710."""


@pytest.mark.parametrize("scanned", [4e9, 0], ids=["every pair", "MinHash"])
@pytest.mark.parametrize(
    ("threshold", "near"), [(0.7, 2), (0.71, 1), (22 / 30, 1), (0.734, 0), (1.0, 0)]
)
def test_near_is_what_reaches_the_threshold(
    scanned: float, threshold: float, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SCANNED", scanned)
    assert jaccard(PLAIN, ABOVE) == 22 / 30
    assert jaccard(PLAIN, BELOW) == 22 / 31
    asked = [row(ABOVE), row(BELOW), row("nothing of the kind")]
    found = audit.audit(groups(asked, defence=[row(PLAIN), row("something else")]), threshold)
    assert pair(found, EVALUATION, DEFENCE).near == near
    assert pair(found, EVALUATION, DEFENCE).exact == 0
    assert (found.leaked, found.proposed) == (near, not scanned)


def sentences(n: int, seed: int) -> list[str]:
    """Make sentences of made-up words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("bdklmnrst", k=2) + rng.choices("aeiou", k=2)) for _ in range(900)]
    return [" ".join(rng.choices(words, k=rng.randint(8, 24))) for _ in range(n)]


def test_minhash_misses_hardly_any_pair_and_invents_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sentences(400, 0)
    trained = sentences(1600, 1)
    rng = random.Random(2)
    for i, text in enumerate(asked[:200]):  # every second has a copy in which words are others
        words = text.split()
        for _ in range(1 + i % 3):
            words[rng.randrange(len(words))] = "other"
        trained[i] = " ".join(words)
    given = groups([row(text) for text in asked], defence=[row(text) for text in trained])
    monkeypatch.setattr(audit, "SCANNED", 1e12)
    every = audit.audit(given)
    monkeypatch.setattr(audit, "SCANNED", 0)
    proposed = audit.audit(given)
    assert (every.proposed, proposed.proposed) == (False, True)
    sure = pair(every, EVALUATION, DEFENCE).near or 0
    assert 100 < sure < 200
    assert 0.98 * sure <= (pair(proposed, EVALUATION, DEFENCE).near or 0) <= sure


def test_equal_prompts_are_counted_between_every_two_groups() -> None:
    found = audit.audit(
        {
            EVALUATION: [row("one"), row("two"), row("Two!")],
            CALIBRATION: [row("two"), row("three")],
            ATTACK: [row("three."), row("four")],
            DEFENCE: [row("one"), row("Four"), row("five")],
        }
    )
    equal = {(one.first, one.second): one.exact for one in found.pairs}
    assert equal == {
        (EVALUATION, CALIBRATION): 1, (EVALUATION, ATTACK): 0, (EVALUATION, DEFENCE): 1,
        (CALIBRATION, ATTACK): 1, (CALIBRATION, DEFENCE): 0, (ATTACK, DEFENCE): 1,
    }  # fmt: skip
    assert found.prompts == {EVALUATION: 2, CALIBRATION: 2, ATTACK: 2, DEFENCE: 3}
    assert (found.leaked, found.share) == (1, 0.5), "what is in calibration alone trains nothing"


def test_a_prompt_that_leaked_twice_is_counted_once() -> None:
    found = audit.audit(groups([row("one"), row("two")], attack=[row("one")], defence=[row("one")]))
    assert found.leaked == 1


def test_rows_are_named_by_id_and_no_word_of_theirs_is_kept() -> None:
    ours, theirs = row(ASKED), row(ASKED + "!")
    found = audit.audit(groups([ours], defence=[theirs]))
    assert pair(found, EVALUATION, DEFENCE).rows == ((ours.uid, theirs.uid),)
    assert "placeholder" not in json.dumps(asdict(found))
    theirs = row(ASKED, source="mine.csv", line=7)
    found = audit.audit(groups([ours], defence=[theirs]))
    assert pair(found, EVALUATION, DEFENCE).rows == ((ours.uid, "mine.csv:7"),)


def test_a_template_is_given_up_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "SCANNED", 0)
    monkeypatch.setattr(audit, "TRIED", 10)
    template = "write a placeholder story for the {} of the third village"
    names = sentences(60, 3)
    asked = [row(template.format(names[0][:16]))]
    others = [row(template.format(name[:16])) for name in names[1:]]
    found = audit.audit(groups(asked, attack=others, defence=others), threshold=0.8)
    assert (found.templates, found.leaked) == (1, 0)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.lists(st.text(max_size=30)))
@settings(max_examples=60, deadline=None)
def test_any_text_is_audited_and_a_copy_is_found(asked: list[str], others: list[str]) -> None:
    given = groups([row(text) for text in asked], defence=[row(text) for text in others + asked])
    assert audit.audit(given).share == 1.0


def test_plain_data_and_back() -> None:
    found = audit.audit(groups([row(ASKED)], defence=[row(ASKED)]))
    assert Leakage.of(json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize(("threshold", "rows"), [(0.7, 4), (0.9, 8), (0.5, 2), (1.0, 32)])
def test_a_band_is_as_wide_as_may_be(threshold: float, rows: int) -> None:
    assert audit.band(threshold) == rows
    assert 1 - (1 - threshold**rows) ** (64 // rows) >= 0.98
