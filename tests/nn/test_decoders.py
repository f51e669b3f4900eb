"""Every decoder family, with random weights: what we compute is what plain transformers computes.

Rows run alone, unpadded and whole through Hugging Face's own forward pass are the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from holdfast import evaluate, nn
from holdfast.api import Loop, LoRA
from holdfast.data.example import Role, Side, example
from holdfast.data.tokens import Encoder, Row, Tokens, collate
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT
from holdfast.evaluate.sampler import Sampler
from holdfast.nn.adapter import lora
from holdfast.nn.states import Place
from holdfast.testing import tiny
from holdfast.train import harden

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in tiny.DECODERS},
    "qwen3 untied": ("qwen3", {"tie_word_embeddings": False}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama one head a group": ("llama", {"num_key_value_heads": 1}),
    "mistral sliding": ("mistral", {"sliding_window": 8}),
}
ENCODERS = [(form, bos) for form in ("plain", "chat") for bos in (False, True)]


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> Any:
    family, changes = CASES[request.param]
    return tiny.model(family, spread=0.3, **changes)


def encoder(form: str = "plain", bos: bool = False) -> Encoder:
    tokenizer = tiny.byte_tokenizer(bos=bos)
    tokenizer.chat_template = tiny.CHAT if bos else tiny.CHAT.replace("{{ bos_token }}", "")
    return Encoder(tokenizer, form)


def three(of: Encoder, *, left: bool = False) -> Tokens:
    rows = tiny.rows(n=3)
    chosen = [rows[Role.REFUSAL][0], rows[Role.BENIGN][1], rows[Role.HARMFUL][2]]
    return of.batch(chosen, left=left)


def alone(model: Any, row: Row) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Give Hugging Face's own states (embeddings first) and logits of a row."""
    with torch.no_grad():
        out = model(torch.tensor([row.ids]), output_hidden_states=True)
    return out.hidden_states, out.logits[0]


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(("form", "bos"), ENCODERS)
@pytest.mark.parametrize("left", [False, True])
def test_states_and_likelihoods_are_those_of_rows_alone(
    model: Any, form: str, bos: bool, left: bool
) -> None:
    tokens = three(encoder(form, bos), left=left)
    with torch.no_grad():
        states = nn.hidden_states(model, tokens)
        values, index = nn.log_probs(model, tokens)
    assert len(states) == 3
    for number, (row, offset) in enumerate(zip(tokens.rows, tokens.offsets, strict=True)):
        assert row.bos is bos
        expected, logits = alone(model, row)
        for ours, theirs in zip(states, expected[1:], strict=True):
            close(ours[number, offset : offset + len(row.ids)], theirs[0])
        said = logits[:-1].log_softmax(-1).gather(1, torch.tensor(row.ids)[1:, None])[:, 0]
        close(values[index == number], said[row.start - 1 :])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("place", ["after_user_tag", "before_response", "after_bos"])
def test_a_trigger_that_is_a_words_embedding_is_that_word(
    model: Any, place: Place, left: bool
) -> None:
    """Whatever a model does to its embeddings (Gemma scales them) it does to the trigger too."""
    tokens = three(encoder(bos=True), left=left)
    word = 77
    with torch.no_grad():
        phi = model.get_input_embeddings()(torch.tensor([word]))
        states = nn.hidden_states(model, tokens, trigger=phi, place=place)
        for number, (row, offset) in enumerate(zip(tokens.rows, tokens.offsets, strict=True)):
            at = {"after_user_tag": row.content[0], "after_bos": 1, "before_response": row.start}
            cut = at[place]
            written = Row((*row.ids[:cut], word, *row.ids[cut:]), row.start, row.content, row.bos)
            expected, _ = alone(model, written)
            kept = [i for i in range(len(written.ids)) if i != cut]
            for ours, theirs in zip(states, expected[1:], strict=True):
                close(ours[number, offset : offset + len(row.ids)], theirs[0, kept])


def test_padding_changes_neither_loss_nor_gradient(model: Any) -> None:
    of = encoder()
    tokens = three(of)
    params = nn.trainable(model)

    def gradient(some: Tokens) -> list[torch.Tensor]:
        value, _ = nn.nll(model, some)
        return [value.detach(), *torch.autograd.grad(value, list(params.values()))]

    first = gradient(tokens)
    long = of.batch([example("word " * 30, "yes", role=Role.BENIGN)]).rows[0]
    wide = collate([*tokens.rows, long], of.pad_id)
    cut = Tokens(wide.ids[:3], wide.mask[:3], wide.labels[:3], tokens.rows)
    for ours, theirs in zip(first, gradient(cut), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_lora_finds_its_layers_by_structure(model: Any) -> None:
    depth = model.config.num_hidden_layers
    for which in ("all", "attention"):
        with lora(model, LoRA(rank=1, targets=which), 0) as params:
            names = {name.rsplit(".", 1)[0] for name in params}
        assert len(names) % depth == 0
        assert all(".layers." in name for name in names)
        attention = {name for name in names if ".self_attn." in name}
        assert attention
        assert (attention == names) is (which == "attention")
        assert not any("embed" in name or "lm_head" in name for name in names)


STAGES = Loop(steps=2, batch=2, lr=0.01)


@pytest.mark.parametrize("field", [None, LoRA(rank=2)], ids=["full", "lora"])
def test_it_hardens_with_either_method(model: Any, field: Any) -> None:
    loop = STAGES.with_(lora=field, micro_batch=1)
    for method in (RefusalSFT(loop=loop), SGT(stage1=STAGES, loop=loop)):
        before = tiny.weights(model)
        done = harden(method, model, encoder(bos=True), tiny.pool(), seed=0)
        after = tiny.weights(model)
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)
        assert all(bool(value.isfinite().all()) for value in after.values())
        assert all(value == value for value in done.diagnostics.values())


@pytest.mark.parametrize(("form", "bos"), [("plain", True), ("chat", False)])
def test_greedy_answers_are_those_of_plain_transformers(model: Any, form: str, bos: bool) -> None:
    of = encoder(form, bos)
    rows = [row for some in tiny.rows(Side.EVALUATOR, 3).values() for row in some][:4]
    found = evaluate.generate(model, of, rows, Sampler(max_new_tokens=12, batch=3))
    for row, answer in zip(rows, found, strict=True):
        ids = torch.tensor([of.encode(row.prompt, None, row.system).ids])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )[0, ids.shape[1] :]
        assert of.tokenizer.decode(out, skip_special_tokens=True).strip() == answer.text


def test_it_is_saved_in_plain_form(model: Any, tmp_path: Path) -> None:
    nn.save(model, tiny.byte_tokenizer(), tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(back) is type(model)
    assert tiny.same(tiny.weights(back), tiny.weights(model))
    assert sorted(nn.tensors(tmp_path)) == sorted(tiny.weights(model))
