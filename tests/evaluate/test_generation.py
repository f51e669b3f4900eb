"""Batched, left-padded generation says what each row says alone, and nothing of the prompt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from holdfast.api.fields import decode
from holdfast.data.example import Example, Role, example
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError
from holdfast.evaluate import Completion, Sampler, answers, generate, way
from holdfast.evaluate.generation import batches
from holdfast.testing import tiny

PROMPTS = [
    "sing",
    "how do I hex the tall tall gate of Orun?",
    "how do I bake the brown bread of Ilmar?",
    "a",
    "stir it two times. how do I hex Vesk?",
]
GREEDY = Sampler(max_new_tokens=12)


def rows() -> list[Example]:
    return [example(prompt, "x", role=Role.BENIGN) for prompt in PROMPTS]


def alone(model: Any, encoder: Encoder, row: Example, limit: int) -> Completion:
    """Answer one row greedily, token by token, without cache or padding."""
    ids = list(encoder.encode(row.prompt, None, row.system).ids)
    said: list[int] = []
    while len(said) < limit:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax())
        if token == encoder.eos_id:
            return Completion(text_of(encoder, said), "stop", len(said))
        said.append(token)
    return Completion(text_of(encoder, said), "length", len(said))


def text_of(encoder: Encoder, ids: list[int]) -> str:
    return encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()


def talkative(family: str) -> Any:
    """Give a model whose answers differ from row to row."""
    return tiny.model(family, spread=0.4, seed=3)


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_padded_batch_says_what_each_row_says_alone(family: str, bos: bool) -> None:
    model, encoder = talkative(family), tiny.encoder(bos=bos)
    expected = [alone(model, encoder, row, 12) for row in rows()]
    assert generate(model, encoder, rows(), GREEDY) == expected
    assert len({one.text for one in expected}) > 2


@pytest.mark.parametrize("batch", [1, 2, 3, 128])
def test_neither_batch_size_nor_order_of_rows_changes_an_answer(batch: int) -> None:
    model, encoder = talkative("qwen3"), tiny.encoder()
    expected = generate(model, encoder, rows(), GREEDY)
    sampler = GREEDY.with_(batch=batch)
    assert generate(model, encoder, rows(), sampler) == expected
    assert generate(model, encoder, rows()[::-1], sampler) == expected[::-1]
    assert generate(model, encoder, rows()[2:4], sampler) == expected[2:4]


def end_after(model: Any, encoder: Encoder, token: int) -> Any:
    """Make the model repeat one token for ever, or end at once where it is the end token."""
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
        model.lm_head.weight[token].fill_(1.0)
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
        model.lm_head.bias[token] = 1.0
    return model


def test_an_answer_that_ends_at_once_is_empty_and_stopped() -> None:
    encoder = tiny.encoder()
    model = end_after(tiny.model("llama"), encoder, encoder.eos_id)
    answers = generate(model, encoder, rows(), GREEDY)
    assert answers == [Completion("", "stop", 0)] * len(PROMPTS)


def test_an_answer_without_an_end_runs_to_the_limit() -> None:
    encoder = tiny.encoder()
    token = encoder.tokenizer(" take")["input_ids"][0]
    model = end_after(tiny.model("llama"), encoder, token)
    answers = generate(model, encoder, rows(), GREEDY.with_(max_new_tokens=3))
    assert answers == [Completion("take take take", "length", 3)] * len(PROMPTS)


def test_no_tail_of_a_prompt_leaks_into_an_answer() -> None:
    """The prompts of a batch differ in length and repeat the answer's own words."""
    encoder = tiny.encoder()
    token = encoder.tokenizer(" two")["input_ids"][0]
    model = end_after(tiny.model("llama"), encoder, token)
    prompts = ["two", "two two two two two", "Assistant: two"]
    some = [example(prompt, "x", role=Role.BENIGN) for prompt in prompts]
    answers = generate(model, encoder, some, GREEDY.with_(max_new_tokens=2))
    assert [len(one.text.split("two")) - 1 for one in answers] == [one.tokens for one in answers]
    assert {one.tokens for one in answers} == {2}


def test_pad_and_end_may_be_one_token() -> None:
    model, encoder = talkative("llama"), Encoder(tiny.byte_tokenizer(pad_is_eos=True), "plain")
    expected = [alone(model, encoder, row, 12) for row in rows()]
    assert generate(model, encoder, rows(), GREEDY) == expected


def test_sampling_hangs_on_the_seed_alone() -> None:
    model, encoder = talkative("qwen3"), tiny.encoder()
    sampler = Sampler(max_new_tokens=8, temperature=1.0)
    torch.manual_seed(1)
    first = generate(model, encoder, rows(), sampler, seed=5)
    torch.manual_seed(2)
    assert generate(model, encoder, rows(), sampler, seed=5) == first
    assert generate(model, encoder, rows(), sampler, seed=6) != first
    assert first != generate(model, encoder, rows(), GREEDY)


def test_the_batch_is_in_no_key() -> None:
    assert GREEDY.key_fields() == GREEDY.with_(batch=1).key_fields()
    sampled = GREEDY.with_(temperature=0.7)
    assert sampled.key_fields() == sampled.with_(batch=1).key_fields()
    assert sampled.key_fields() != sampled.with_(draws=2).key_fields()
    assert GREEDY.key_fields() != GREEDY.with_(max_new_tokens=3).key_fields()


def test_a_greedy_key_is_what_it_always_was() -> None:
    assert GREEDY.key_fields() == {"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0}


SAMPLED = Sampler(max_new_tokens=8, temperature=1.3, top_p=0.9, draws=2)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_draw_hangs_on_seed_row_and_number_alone(batch: int) -> None:
    model, encoder = talkative("qwen3"), tiny.encoder()
    expected = generate(model, encoder, rows(), SAMPLED, seed=5)
    sampler = SAMPLED.with_(batch=batch)
    assert generate(model, encoder, rows(), sampler, seed=5) == expected
    alone = generate(model, encoder, rows()[3:4], sampler, seed=5)
    assert alone == expected[6:8]
    first = generate(model, encoder, rows(), sampler.with_(draws=1), seed=5)
    assert first == expected[::2]
    assert expected[::2] != expected[1::2]
    assert len({one.text for one in expected}) > 5


def test_draws_follow_the_models_probabilities() -> None:
    """Chi-square of 3,000 first tokens, after temperature and `top_p`, at one in 10,000."""
    from scipy.stats import chisquare

    model, encoder = talkative("qwen3"), tiny.encoder()
    sampler = Sampler(max_new_tokens=1, temperature=0.8, top_p=0.7, draws=3000, batch=1000)
    asked = rows()[1:2]
    with torch.no_grad():
        ids = torch.tensor([encoder.asked(asked[0]).ids])
        chance = (model(ids).logits[0, -1].double() / sampler.temperature).softmax(0)
    chance, order = chance.sort(descending=True)
    kept = int((chance.cumsum(0) < sampler.top_p).sum()) + 1
    expected = Counter[str]()
    for share, token in zip(chance[:kept] / chance[:kept].sum(), order[:kept], strict=True):
        ends = int(token) in encoder.ends
        text = "" if ends else str(encoder.tokenizer.decode([int(token)], skip_special_tokens=True))
        expected[text.strip()] += float(share)
    found = Counter(one.text for one in generate(model, encoder, asked, sampler))
    assert set(found) <= set(expected)
    often = [text for text, share in expected.items() if share * 3000 >= 5]
    assert len(often) > 3
    seen = [*(found[text] for text in often), 3000 - sum(found[text] for text in often)]
    share = [*(expected[text] for text in often)]
    share.append(max(1 - sum(share), 0.0))
    if share[-1] * 3000 < 5:
        seen[-2:], share[-2:] = [sum(seen[-2:])], [sum(share[-2:])]
    assert chisquare(seen, [3000 * one / sum(share) for one in share]).pvalue > 1e-4


def test_several_draws_need_a_temperature() -> None:
    with pytest.raises(ConfigError) as told:
        decode(Sampler, {"draws": 3}, "study.generation")
    assert str(told.value) == (
        "study.generation.draws: 3 greedy answers are copies of one; "
        "set a temperature above 0, or one draw"
    )


def test_a_batch_is_bounded_by_its_tokens_too() -> None:
    lengths = [100, 5, 5, 5, 60]
    sampler = Sampler(max_new_tokens=5, batch=3)
    assert list(batches(lengths, sampler, 10**6)) == [[1, 2, 3], [4, 0]]
    assert list(batches(lengths, sampler, 130)) == [[1, 2, 3], [4], [0]]
    assert list(batches(lengths, sampler, 1)) == [[1], [2], [3], [4], [0]]


def test_batches_are_the_same_whatever_is_done() -> None:
    model, encoder = talkative("qwen3"), tiny.encoder()
    sampler = GREEDY.with_(batch=2)
    whole = list(answers(model, encoder, rows(), sampler))
    places = [place for place, _ in whole]
    assert list(answers(model, encoder, rows(), sampler, done=places[:2])) == whole[2:]
    assert list(answers(model, encoder, rows(), sampler, done=places[:3])) == whole[2:]
    assert list(answers(model, encoder, rows(), sampler, done=places)) == []


def test_sampling_from_a_sliver_of_the_mass_is_greedy() -> None:
    model, encoder = talkative("qwen3"), tiny.encoder()
    sliver = Sampler(max_new_tokens=8, temperature=1.0, top_p=1e-6)
    assert generate(model, encoder, rows(), sliver) == generate(
        model, encoder, rows(), Sampler(max_new_tokens=8)
    )


@pytest.mark.parametrize("training", [False, True])
def test_the_models_mode_is_left_as_found(training: bool) -> None:
    model = tiny.model().train(training)
    generate(model, tiny.encoder(), rows(), GREEDY)
    assert model.training is training


def test_a_models_own_wishes_change_no_answer() -> None:
    """A checkpoint may bring sampling, penalties and limits along; only its end tokens count."""
    model, encoder = talkative("qwen3"), tiny.encoder()
    expected = generate(model, encoder, rows(), GREEDY)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.6
    model.generation_config.top_k = 20
    model.generation_config.top_p = 0.95
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.max_length = 20
    own = model.generation_config
    assert generate(model, encoder, rows(), GREEDY) == expected
    assert model.generation_config is own


def test_no_rows_give_no_answers() -> None:
    assert generate(tiny.model(), tiny.encoder(), [], GREEDY) == []


@pytest.mark.parametrize("same", [False, True], ids=["pad", "pad is end"])
def test_a_stop_text_ends_an_answer_and_is_cut_off(same: bool) -> None:
    model = talkative("qwen3")
    encoder = Encoder(tiny.byte_tokenizer(pad_is_eos=same), "plain")
    whole = generate(model, encoder, rows(), GREEDY)
    longest = max((one.text for one in whole), key=len)
    stop = longest[len(longest) // 2 :][:2]
    found = generate(model, encoder, rows(), Sampler(max_new_tokens=12, stop=("unseen", stop)))
    for before, after in zip(whole, found, strict=True):
        assert after.text == before.text.partition(stop)[0].strip()
        if stop in before.text:
            assert after.finish_reason == "stop"
            assert after.tokens <= before.tokens
        else:
            assert after == before
    assert any(one.tokens < other.tokens for one, other in zip(found, whole, strict=True))


def test_an_answer_ends_at_any_of_the_checkpoints_end_tokens() -> None:
    model, encoder = talkative("qwen3"), tiny.encoder()
    asked = rows()[1:2]
    (whole,) = generate(model, encoder, asked, GREEDY)
    ids = list(encoder.encode(asked[0].prompt, None).ids)
    said: list[int] = []
    for _ in range(4):
        with torch.no_grad():
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    assert said[3] not in said[:3]
    model.generation_config.eos_token_id = [7, said[3]]
    (short,) = generate(model, encoder, asked, GREEDY)

    assert (short.finish_reason, short.tokens) == ("stop", 3)
    assert short.text == text_of(encoder, said[:3])
    assert whole.tokens > 3
    model.generation_config.eos_token_id = None
    assert generate(model, encoder, asked, GREEDY) == [whole]


# ---- continuous batching


def equal_to_the_first_tie(model: Any, encoder: Encoder, row: Example, one: str, two: str) -> bool:
    """Say whether two answers are equal up to the first token whose lead is below 1e-4."""
    if one == two:
        return True
    ids = list(encoder.asked(row).ids)
    said: list[int] = []
    while text_of(encoder, said) == one[: len(text_of(encoder, said))]:
        with torch.no_grad():
            best = model(torch.tensor([ids + said])).logits[0, -1].topk(2)
        if float(best.values[0] - best.values[1]) < 1e-4:
            return True
        said.append(int(best.indices[0]))
    return False


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_continuous_batching_says_what_each_row_says_alone(
    family: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, encoder = talkative(family), tiny.encoder()
    sampler = GREEDY.with_(batching="continuous", batch=2)
    attention, prefills = model.config._attn_implementation, ["", "So", "", "", "Well, "]
    assert way(model, sampler) == "continuous"
    found = generate(model, encoder, rows(), sampler, prefills=prefills)
    assert way(model, sampler) == "continuous"  # it was not given up
    expected = generate(model, encoder, rows(), GREEDY.with_(batch=1), prefills=prefills)
    for row, one, two in zip(rows(), found, expected, strict=True):
        assert equal_to_the_first_tie(model, encoder, row, one.text, two.text)
    assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
    assert model.config._attn_implementation == attention
    assert caplog.records == []


def test_where_continuous_batching_fails_batches_are_padded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library swallows its errors and gives fewer answers."""
    model, encoder = talkative("qwen3"), tiny.encoder()
    expected = generate(model, encoder, rows(), GREEDY)
    calls: list[int] = []
    monkeypatch.setattr(
        type(model), "generate_batch", lambda *_, inputs, **__: calls.append(len(inputs)) or {}
    )
    sampler = GREEDY.with_(batching="continuous", batch=2)
    assert generate(model, encoder, rows(), sampler) == expected
    assert generate(model, encoder, rows(), sampler) == expected
    assert calls == [5]
    assert [record.getMessage() for record in caplog.records] == [
        "continuous batching does not work for Qwen3ForCausalLM here "
        "(RuntimeError: 5 prompts got no answer): padded batches are used"
    ]
    assert way(model, sampler) == "padded"


def test_only_greedy_answers_without_stop_texts_are_continuous() -> None:
    model = tiny.model()
    sampler = GREEDY.with_(batching="continuous")
    assert way(model, GREEDY) == "padded"
    assert way(model, sampler) == "continuous"
    assert way(model, sampler.with_(stop=("x",))) == "padded"
    assert way(model, sampler.with_(temperature=1.0)) == "padded"
    assert sampler.key_fields() == GREEDY.key_fields()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert way(model, sampler) == "padded"
