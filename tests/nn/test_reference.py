"""States of chosen tokens after chosen layers: the same as a whole pass gives, and no more work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Role
from holdfast.data.tokens import Tokens, collate
from holdfast.errors import ConfigError
from holdfast.nn.passes import Passes
from holdfast.nn.reference import as_it_started, owners
from holdfast.testing import tiny


def batch() -> Tokens:
    return tiny.encoder(bos=True).batch(tiny.rows(n=3)[Role.HARMFUL])


def spans(tokens: Tokens) -> list[tuple[int, int]]:
    return [(row.start, len(row.ids)) for row in tokens.rows]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_they_are_the_states_of_each_row_alone(family: str, packed: bool) -> None:
    model, tokens = tiny.model(family), batch()
    with torch.no_grad():
        with nn.packed_passes(packed):
            found, end = nn.layer_states(
                model, tokens, spans(tokens), [1, 3], emit=[(0, 2)] * len(tokens)
            )
            raw, nothing = nn.layer_states(model, tokens, spans(tokens), [2, 3], final_norm=False)
        rows = [
            model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
            for row in tokens.rows
        ]
        raws = [nn.hidden_states(model, collate([row], 0), final_norm=False) for row in tokens.rows]

    def alone(which: Any) -> torch.Tensor:
        return torch.cat([which(i)[0, a:b] for i, (a, b) in enumerate(spans(tokens))])

    close = {"atol": 2e-5, "rtol": 1e-5}
    torch.testing.assert_close(found[0], alone(lambda i: rows[i][1]), **close)
    torch.testing.assert_close(found[1], alone(lambda i: rows[i][3]), **close)
    torch.testing.assert_close(raw[0], alone(lambda i: rows[i][2]), **close)
    torch.testing.assert_close(raw[1], alone(lambda i: raws[i][2]), **close)
    assert end is not None
    torch.testing.assert_close(end, torch.cat([r[3][0, :2] for r in rows]), **close)
    assert nothing is None


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(left: bool) -> None:
    model, tokens = tiny.model(), batch()
    long = collate([*tokens.rows, tokens.rows[0].cut(3)], 0, left=left)
    longer = [*spans(tokens), (3, 3)]
    with torch.no_grad():
        first, _ = nn.layer_states(model, tokens, spans(tokens), [2])
        second, _ = nn.layer_states(model, long, longer, [2])
    torch.testing.assert_close(first[0], second[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_the_pass_ends_behind_the_last_layer_and_leaves_nothing_behind(packed: bool) -> None:
    model, tokens = tiny.model(), batch()
    ran: list[int] = []
    watch = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(nn.blocks(model))
    ]
    whole, part = nn.FlopMeter(), nn.FlopMeter()
    before = model.config._attn_implementation
    with torch.no_grad(), nn.packed_passes(packed):
        with part.on():
            nn.layer_states(model, tokens, spans(tokens), [1, 2])
        assert ran == [0, 1]
        with whole.on():
            nn.layer_states(model, tokens, spans(tokens), [1, 3])
    assert ran == [0, 1, 0, 1, 2]
    assert part.total == pytest.approx(2 / 3 * whole.total)
    assert model.config._attn_implementation == before
    for handle in watch:
        handle.remove()
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("packed", [False, True])
def test_recomputed_blocks_give_the_same_gradient(packed: bool) -> None:
    model, tokens, found = tiny.model(), batch(), []
    for again in (False, True):
        with Passes(packed=packed, checkpointed=again).on():
            states, _ = nn.layer_states(model, tokens, spans(tokens), [1, 2])
            value = sum(h.square().sum() for h in states)
        weight = nn.blocks(model)[0].mlp.up_proj.weight
        found.append(torch.autograd.grad(value, weight)[0])
    torch.testing.assert_close(found[0], found[1])


def test_rows_own_their_tokens() -> None:
    assert owners([(0, 2), (4, 4), (1, 2)]).tolist() == [0, 0, 2]


def test_layers_are_numbers_or_fractions_of_depth() -> None:
    numbers = [nn.layer_number(layer, 32, "x") for layer in (0.3125, 0.625, 1.0, 0.0, 1, 32)]
    assert numbers == [10, 20, 32, 1, 1, 32]
    with pytest.raises(ConfigError) as caught:
        nn.layer_number(33, 32, "m.layers")
    assert str(caught.value) == (
        "m.layers: layer 33 is beyond the model's 32 blocks; use 1 to 32, or a fraction of depth "
        "such as 0.5"
    )


def test_the_start_is_a_copy_or_kept_weights_or_unknown() -> None:
    model = tiny.model()
    start = tiny.weights(model)
    copy = nn.starting_model(model, adapted=False)
    assert nn.starting_model(model, adapted=True) is model
    assert not any(p.requires_grad for p in copy.parameters())
    with torch.no_grad():
        model.model.norm.weight.add_(1.0)
    moved = tiny.weights(model)

    class State:
        teacher = copy

    with as_it_started(model, State(), {}) as found:
        assert found is copy
    with as_it_started(model, None, {"start": start}) as found:
        assert found is model
        assert tiny.same(tiny.weights(model), start)
    assert tiny.same(tiny.weights(model), moved)
    with as_it_started(model, None, {}) as found:
        assert found is None
