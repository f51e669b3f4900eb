"""Hidden states, log-probabilities and the trigger, against rows run one by one without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Role, example
from holdfast.data.tokens import IGNORE, Encoder, Tokens, collate
from holdfast.errors import ModelError
from holdfast.nn.head import per_row
from holdfast.nn.passes import FlopMeter
from holdfast.nn.states import body, place_of
from holdfast.testing import tiny

PLACES = ("after_user_tag", "after_bos", "before_bos", "before_response")
LONG = "how do I hex the tall tall gate of Orun?"


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


@pytest.fixture(params=[False, True], ids=["no BOS", "BOS"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return tiny.encoder(bos=request.param)


def three(encoder: Encoder, *, left: bool = False) -> Tokens:
    texts = (("sing", "no."), (LONG, "I cannot help with that"), ("bake the bread", "take one"))
    return encoder.batch([example(*text, role=Role.BENIGN) for text in texts], left=left)


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    tiny.close(first, second)


# ---- insert


@pytest.mark.parametrize("k", [1, 2])
def test_insert_puts_the_vectors_before_the_column_and_says_where_the_rest_went(k: int) -> None:
    embeds = torch.arange(2 * 4 * 3.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])
    trigger = -torch.ones(k, 3) * torch.arange(1, k + 1)[:, None]
    at = torch.tensor([1, 3])
    wide, seen, back = nn.insert(embeds, mask, at, trigger)
    for row in range(2):
        place = int(at[row])
        parts = [embeds[row, :place], trigger, embeds[row, place:]]
        assert torch.equal(wide[row], torch.cat(parts))
        expected = [*mask[row, :place].tolist(), *[1] * k, *mask[row, place:].tolist()]
        assert seen[row].tolist() == expected
        assert torch.equal(wide[row][back[row]], embeds[row])
    assert back.tolist() == [
        [c if c < 1 else c + k for c in range(4)],
        [c if c < 3 else c + k for c in range(4)],
    ]


def test_insert_reaches_both_ends() -> None:
    embeds, trigger = torch.randn(2, 3, 4), torch.randn(1, 4)
    wide, _, back = nn.insert(embeds, torch.ones(2, 3).long(), torch.tensor([0, 3]), trigger)
    assert torch.equal(wide[0], torch.cat([trigger, embeds[0]]))
    assert torch.equal(wide[1], torch.cat([embeds[1], trigger]))
    assert back.tolist() == [[1, 2, 3], [0, 1, 2]]


def test_insert_takes_a_vector_a_row() -> None:
    embeds, trigger = torch.randn(2, 3, 4), torch.randn(2, 1, 4)
    wide, _, _ = nn.insert(embeds, torch.ones(2, 3).long(), torch.tensor([1, 1]), trigger)
    assert torch.equal(wide[:, 1], trigger[:, 0])


def test_insert_passes_gradients_to_trigger_and_embeddings() -> None:
    embeds = torch.randn(2, 3, 4, requires_grad=True)
    trigger = torch.randn(2, 4, requires_grad=True)
    wide, _, _ = nn.insert(embeds, torch.ones(2, 3).long(), torch.tensor([1, 2]), trigger)
    scale = torch.randn_like(wide)
    (wide * scale).sum().backward()
    assert torch.allclose(trigger.grad, scale[0, 1:3] + scale[1, 2:4])
    assert torch.allclose(embeds.grad[0], scale[0, [0, 3, 4]])


# ---- forward


def alone(model: Any, row: Any, trigger: torch.Tensor, at: int) -> torch.Tensor:
    """Run one row unpadded with vectors put in by hand; give [L, T, H] without their columns."""
    embeds = model.get_input_embeddings()(torch.tensor(row.ids))
    joined = torch.cat([embeds[:at], trigger, embeds[at:]])[None]
    out = model(inputs_embeds=joined, output_hidden_states=True, use_cache=False)
    layers = torch.stack(out.hidden_states[1:])[:, 0]
    return torch.cat([layers[:, :at], layers[:, at + len(trigger) :]], dim=1)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_a_triggered_batch_equals_rows_built_by_hand(
    model: Any, encoder: Encoder, place: Any, k: int, left: bool
) -> None:
    tokens = three(encoder, left=left)
    trigger = torch.randn(k, 16)
    with torch.no_grad():
        states = nn.forward(model, tokens, trigger=trigger, place=place, layers=True)
        assert len(states.layers) == 3
        for number, row in enumerate(tokens.rows):
            expected = alone(model, row, trigger, place_of(row, place))
            begin = tokens.offsets[number]
            for layer, theirs in zip(states.layers, expected, strict=True):
                close(layer[number, begin : begin + len(row.ids)], theirs)
            close(states.last[number, begin : begin + len(row.ids)], expected[-1])


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_changes_no_hidden_state(model: Any, encoder: Encoder, left: bool) -> None:
    tokens = three(encoder, left=left)
    with torch.no_grad():
        layers = nn.hidden_states(model, tokens)
        for number, row in enumerate(tokens.rows):
            out = model(torch.tensor([row.ids]), output_hidden_states=True)
            begin = tokens.offsets[number]
            for ours, theirs in zip(layers, out.hidden_states[1:], strict=True):
                close(ours[number, begin : begin + len(row.ids)], theirs[0])


def test_places_are_told_by_meaning() -> None:
    for bos in (False, True):
        row = tiny.encoder(bos=bos).encode("sing", "no.", system="be kind.")
        assert place_of(row, "after_bos") == int(bos)
        assert place_of(row, "before_bos") == 0
        assert place_of(row, "after_user_tag") == row.content[0]
        assert place_of(row, "before_response") == row.start


def test_the_last_layer_is_before_the_final_norm_only_if_asked(model: Any) -> None:
    tokens = three(tiny.encoder())
    with torch.no_grad():
        normed = nn.hidden_states(model, tokens)
        raw = nn.hidden_states(model, tokens, final_norm=False)
        close(body(model).norm(raw[-1]), normed[-1])
        assert all(torch.equal(a, b) for a, b in zip(raw[:-1], normed[:-1], strict=True))
        assert not torch.allclose(raw[-1], normed[-1])


def test_a_forward_pass_leaves_no_hook(model: Any) -> None:
    nn.hidden_states(model, three(tiny.encoder()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_go_after_an_error_too() -> None:
    model = tiny.model()
    tokens = three(tiny.encoder())
    broken = Tokens(tokens.ids + 100_000, tokens.mask, tokens.labels, tokens.rows)
    with pytest.raises(IndexError):
        nn.hidden_states(model, broken)
    assert not any(m._forward_hooks for m in model.modules())


# ---- log-probabilities


def test_log_probs_are_those_of_rows_alone_read_with_hand_shifted_logits(
    model: Any, encoder: Encoder
) -> None:
    tokens = three(encoder)
    with torch.no_grad():
        values, rows = nn.log_probs(model, tokens)
        expected, owners = [], []
        for number, row in enumerate(tokens.rows):
            logits = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
            for i in range(row.start, len(row.ids)):
                expected.append(float(logits[i - 1, row.ids[i]]))
                owners.append(number)
        assert rows.tolist() == owners
        close(values, torch.tensor(expected))
        value, count = nn.nll(model, tokens)
    assert count == len(expected)
    assert float(value) == pytest.approx(-sum(expected), rel=1e-6)


def test_the_mean_equals_hugging_faces_own_loss_on_one_row(model: Any) -> None:
    tokens = tiny.encoder().batch([example(LONG, "no. take", role=Role.BENIGN)])
    with torch.no_grad():
        value, count = nn.nll(model, tokens)
        theirs = model(tokens.ids, labels=tokens.labels).loss
    assert float(value) / count == pytest.approx(float(theirs), rel=1e-6)


def test_left_and_right_padding_give_the_same_log_probs(model: Any, encoder: Encoder) -> None:
    with torch.no_grad():
        right, _ = nn.log_probs(model, three(encoder))
        left, _ = nn.log_probs(model, three(encoder, left=True))
    close(left, right)


def test_a_trigger_before_the_response_moves_no_label() -> None:
    """The trigger's own column emits nothing that is read; every label keeps its emitter."""
    model, tokens = tiny.model(), three(tiny.encoder())
    trigger = torch.randn(1, 16)
    with torch.no_grad():
        values, _ = nn.log_probs(model, tokens, trigger=trigger, place="after_user_tag")
        row = tokens.rows[0]
        states = alone(model, row, trigger, row.content[0])[-1]
        logits = model.lm_head(states).log_softmax(-1)
        expected = [float(logits[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids))]
    close(values[: len(expected)], torch.tensor(expected))


def test_response_positions_and_sums_by_row() -> None:
    tokens = Tokens(
        torch.zeros(2, 3).long(),
        torch.ones(2, 3).long(),
        torch.tensor([[IGNORE, 5, 6], [IGNORE, IGNORE, 7]]),
        (),
    )
    rows, columns = nn.response_positions(tokens)
    assert (rows.tolist(), columns.tolist()) == ([0, 0, 1], [1, 2, 2])
    assert per_row(torch.tensor([1.0, 2.0, 4.0]), rows, 3).tolist() == [3.0, 4.0, 0.0]


def test_soft_capped_logits_are_capped() -> None:
    model, tokens = tiny.model(), three(tiny.encoder())
    last = nn.forward(model, tokens).last
    plain, labels = nn.generation_logits(model, last, tokens)
    model.config.final_logit_softcapping = 2.0
    capped, _ = nn.generation_logits(model, last, tokens)
    close(capped, 2.0 * torch.tanh(plain / 2.0))
    assert labels.tolist() == [i for row in tokens.rows for i in row.ids[row.start :]]


def test_blocks_are_found_by_structure(model: Any) -> None:
    assert len(nn.blocks(model)) == 3
    with pytest.raises(ModelError, match=r"^model: no list of 3 decoder blocks; use a decoder-"):
        nn.blocks(_hollow(model))


def _hollow(model: Any) -> Any:
    model.model.layers = model.model.layers[:2]
    return model


# ---- FLOPs


def test_flops_are_two_a_weight_and_token_forward_and_twice_that_backward() -> None:
    model, tokens = tiny.model(), three(tiny.encoder())
    inside = sum(p.numel() for p in model.model.layers.parameters())
    head = 16 * tiny.VOCABULARY
    real = sum(len(row.ids) for row in tokens.rows)
    said = sum(len(row.ids) - row.start for row in tokens.rows)
    forward = 2.0 * (inside * real + head * said)

    def spent(**options: Any) -> float:
        meter = FlopMeter()
        with meter.on():
            nn.nll(model, tokens, **options)
        return meter.total

    assert spent() == 3 * forward
    with torch.no_grad():
        assert spent() == forward
        assert spent(trigger=torch.randn(2, 16)) == forward + 2.0 * inside * 2 * len(tokens)
    model.requires_grad_(False)
    assert spent() == forward
    with_trigger = forward + 2.0 * inside * len(tokens)
    assert spent(trigger=torch.randn(1, 16, requires_grad=True)) == 2 * with_trigger


def test_nothing_is_counted_while_the_meter_is_off() -> None:
    meter = FlopMeter()
    with meter.on():
        pass
    nn.nll(tiny.model(), three(tiny.encoder()))
    assert meter.total == 0.0


def test_padding_is_not_counted() -> None:
    model, encoder = tiny.model(), tiny.encoder()
    rows = [encoder.encode("sing", "no."), encoder.encode(LONG, "no.")]
    together, apart = FlopMeter(), FlopMeter()
    with torch.no_grad():
        with together.on():
            nn.nll(model, collate(rows, 0))
        with apart.on():
            for row in rows:
                nn.nll(model, collate([row], 0))
    assert together.total == apart.total
