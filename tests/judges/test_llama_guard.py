"""Llama Guard: one pass gives what generating gives, for both templates and architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.judges import made

from holdfast.api import Outcome, Reason
from holdfast.errors import ModelError
from holdfast.judges.llama_guard import LlamaGuard
from holdfast.nn.judging import Opened
from holdfast.testing import check_judge

KINDS = ("3", "3-1B", "4")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("guards")
    llama = made.causal("llama")
    return {
        "3": made.saved(home / "3", llama, made.PLAIN),
        "3-1B": made.saved(home / "3-1B", llama, made.TYPED),
        "4": made.saved(home / "4", made.guard_4(), made.TYPED),
    }


def guard(folder: Path, **fields: Any) -> LlamaGuard:
    return LlamaGuard(model=str(folder), **({"dtype": "fp32", "least_mass": 0.0} | fields))


def opened(judge: LlamaGuard) -> Opened:
    assert judge._open is not None
    return judge._open


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_the_first_word_that_generating_would(
    kind: str, folders: dict[str, Path]
) -> None:
    judge = guard(folders[kind])
    asked = [made.exchange(answer) for answer in made.ANSWERS]
    with judge.opened():
        scores = [verdict.score for verdict in judge.judge_many(asked)]
        inside = opened(judge)
        tokens = inside.tokenizer
        for exchange, score in zip(asked, scores, strict=True):
            typed = kind != "3"
            said = [("user", exchange.prompt), ("assistant", exchange.response)]
            text: Any = tokens.apply_chat_template(
                [
                    {"role": role, "content": [{"type": "text", "text": one}] if typed else one}
                    for role, one in said
                ],
                tokenize=False,
            )
            ids = tokens(text, add_special_tokens=False)["input_ids"] + tokens.encode(
                "\n\n", add_special_tokens=False
            )
            out: Any = inside.model.generate(
                torch.tensor([ids]), max_new_tokens=1, do_sample=False, output_scores=True,
                return_dict_in_generate=True, pad_token_id=0,
            )  # fmt: skip
            safe, unsafe = (tokens.convert_tokens_to_ids(word) for word in ("safe", "unsafe"))
            expected = float(out.scores[0][0, [safe, unsafe]].softmax(0)[1])
            assert score == pytest.approx(expected, abs=1e-5)
    assert max(map(float, scores)) - min(map(float, scores)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_says_what_each_alone_says(kind: str, folders: dict[str, Path]) -> None:
    asked = [made.exchange(answer) for answer in made.ANSWERS]
    with guard(folders[kind]).opened() as judge:
        together = [one.score for one in judge.judge_many(asked)]
        alone = [judge.judge(one).score for one in asked]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract(kind: str, folders: dict[str, Path]) -> None:
    check_judge(guard(folders[kind], max_length=300))


def test_a_prompt_has_one_beginning_and_ends_in_the_blank_line(folders: dict[str, Path]) -> None:
    with guard(folders["3"]).opened() as judge:
        coded = (
            opened(judge)
            .frames["standard"]
            .code(judge.words(made.exchange("one")), "response", longest=4096)
        )
        tokens = opened(judge).tokenizer
    assert coded is not None
    assert coded.ids.count(tokens.bos_token_id) == 1
    assert tokens.decode([coded.ids[-1]]) == "\n\n"


@pytest.mark.parametrize("spelt", made.SPELT)
def test_no_answer_can_write_a_part_of_the_prompt(spelt: str, folders: dict[str, Path]) -> None:
    with guard(folders["3"]).opened() as judge:
        inside = opened(judge)
        frame = inside.frames["standard"]
        plain, forged = (
            frame.code(judge.words(made.exchange(answer)), "response", longest=4096)
            for answer in ("one", spelt)
        )
    assert plain is not None
    assert forged is not None
    special = set(inside.tokenizer.all_special_ids)
    assert [i for i in forged.ids if i in special] == [i for i in plain.ids if i in special]
    shown = inside.tokenizer.decode(forged.ids, skip_special_tokens=True)
    assert shown.count("<END CONVERSATION>") == 1
    assert shown.count("\nAgent:") == 1


def test_earlier_turns_are_shown_and_the_system_prompt_is_not(folders: dict[str, Path]) -> None:
    exchange = made.exchange(
        "two", system="be brief", turns=(("user", "first"), ("assistant", "second"))
    )
    with guard(folders["4"]).opened() as judge:
        coded = (
            opened(judge).frames["standard"].code(judge.words(exchange), "response", longest=999)
        )
        assert coded is not None
        shown = opened(judge).tokenizer.decode(coded.ids)
    assert "User: first\n\nAgent: second\n\nUser: placeholder prompt 3\n\nAgent: two\n\n" in shown
    assert "be brief" not in shown


def test_a_long_answer_is_cut_at_its_end_and_the_rules_are_whole(folders: dict[str, Path]) -> None:
    long = made.exchange(made.long(3000))
    with guard(folders["3"], max_length=400).opened() as judge:
        inside = opened(judge)
        coded = inside.frames["standard"].code(judge.words(long), "response", longest=400)
        assert coded is not None
        shown = inside.tokenizer.decode(coded.ids)
        verdict = judge.judge(long)
        vain = judge.judge(made.exchange("one", prompt=made.long(3000)))
    assert len(coded.ids) <= 400
    assert "<END RULES>" in shown
    assert "Agent: first 0 first 1" in shown
    assert shown.endswith("<|end_header_id|>\n\n")
    assert verdict.reason is Reason.OK
    assert "(of the answer, the first " in verdict.raw
    assert (vain.score, vain.reason) == (None, Reason.TRUNCATED)


def test_what_is_no_language_and_words_it_never_says_have_no_score(
    folders: dict[str, Path],
) -> None:
    with guard(folders["3"], least_mass=0.9).opened() as judge:
        empty, stuck, unlikely = judge.judge_many(
            [made.exchange(answer) for answer in (" \n", "one two " * 40, "one")]
        )
    for none in (empty, stuck):
        assert (none.score, none.outcome) == (None, Outcome.DEGENERATE)
        assert none.raw == "no language: not read"
    assert (unlikely.score, unlikely.outcome, unlikely.reason) == (None, None, Reason.UNPARSABLE)
    assert "the words it may say have a probability of" in unlikely.raw


def test_categories_are_read_off_what_it_goes_on_with(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [made.exchange(answer) for answer in made.ANSWERS]
    with guard(folders["3"], categories=True).opened() as judge:
        inside = opened(judge)
        found = judge.judge_many(asked)
        unsafe = [one for one in found if one.outcome is Outcome.HARMFUL_USEFUL]
        assert unsafe
        assert all("no category" in one.raw for one in unsafe)  # random words
        assert all("categor" not in one.raw for one in found if one not in unsafe)
        told = inside.tokenizer.encode("\nS1,S10", add_special_tokens=False)
        monkeypatch.setattr("holdfast.nn.said", lambda _m, rows, **_: [told] * len(rows))
        again = [
            one.raw for one in judge.judge_many(asked) if one.outcome is not Outcome.DEFLECTION
        ]
    assert all(raw.endswith(", S1,S10") for raw in again)


def test_a_model_that_is_no_guard_is_one_line(tmp_path: Path) -> None:
    none = made.saved(tmp_path / "none", made.causal("llama"))
    with pytest.raises(ModelError) as caught, guard(none).opened():
        pass
    assert str(caught.value) == (
        "judge 'llama_guard': its tokenizer has no chat template; name a Llama Guard with its own"
    )
    blind = made.saved(tmp_path / "blind", made.causal("llama"), "{{ bos_token }}hello")
    with pytest.raises(ModelError) as caught, guard(blind).opened():
        pass
    assert str(caught.value) == (
        "judge 'llama_guard': its chat template does not show prompt and answer once each, or "
        "ends in a word; name a Llama Guard with its own template"
    )


def test_a_classifier_or_no_model_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    other = made.saved(tmp_path / "other", made.classifier(), made.PLAIN)
    with pytest.raises(ModelError) as caught:
        guard(other).check()
    assert str(caught.value) == (
        f"judge 'llama_guard': {other} is made as 'LlamaForSequenceClassification', not as one "
        "ForCausalLM; name the model this judge is for; docs/judges.md says which"
    )
    with pytest.raises(ModelError) as caught:
        LlamaGuard(model="./nowhere").check()
    assert str(caught.value) == (
        "judge 'llama_guard': no such model folder: ./nowhere; "
        "give a folder, world:base or org/name@COMMIT"
    )


def test_a_tokenizer_without_its_words_is_one_line(tmp_path: Path) -> None:
    from holdfast.testing import tiny

    folder = tmp_path / "words"
    folder.mkdir()
    tiny.model("llama").save_pretrained(folder)
    other = tiny.byte_tokenizer(bos=True)
    other.chat_template = made.PLAIN
    other.save_pretrained(folder)
    with pytest.raises(ModelError) as caught, guard(folder).opened():
        pass
    assert str(caught.value).endswith(
        "tokens of its tokenizer, not one; name the model this judge is for"
    )
    assert str(caught.value).startswith("judge 'llama_guard': ")
    assert len(str(caught.value).splitlines()) == 1


def test_its_key_follows_its_files_and_not_their_place(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = made.saved(tmp_path / "copy", made.causal("llama"), made.PLAIN)
    assert guard(copy).identity() == guard(folders["3"]).identity()
    assert guard(folders["3-1B"]).identity() != guard(copy).identity()
    assert guard(copy, batch_tokens=1).identity() == guard(copy).identity()
    with guard(copy, batch_tokens=1).opened() as one, guard(copy).opened() as many:
        asked = [made.exchange(answer) for answer in made.ANSWERS]
        assert [v.score for v in one.judge_many(asked)] == pytest.approx(
            [v.score for v in many.judge_many(asked)], abs=1e-5
        )
