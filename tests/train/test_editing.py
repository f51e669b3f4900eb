"""Edits before training, and what an edit leaves of a model: nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.api import Chain, LoRA
from holdfast.attacks.abliterate import Abliterate
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.attacks.strip import Strip
from holdfast.errors import ModelError
from holdfast.testing import tiny
from holdfast.train import attack

EDIT = Abliterate(forms=("stream",), layers=(2,), evaluate_at=(0.75,))
PLAIN = HarmfulSFT().loop.with_(lr=0.01, checkpoint_every=1)
SFT = HarmfulSFT(loop=PLAIN, evaluate_at=(4, 8))
ADAPTER = SFT.with_(loop=PLAIN.with_(lora=LoRA(rank=2)))


def attacked(method: Any, model: Any, **options: Any) -> dict[float, Any]:
    """Give at each budget what the model makes of a prompt, and what was spent."""
    found: dict[float, Any] = {}
    coder = tiny.encoder()
    ids = coder.prompts(tiny.rows()[tiny.Role.HARMFUL][:1]).ids

    def look(point: float, info: Any) -> None:
        with torch.no_grad():
            found[point] = (model(input_ids=ids).logits.clone(), info)

    attack(
        method, model, coder, tiny.pool(), seed=3, points=list(method.points()), on_point=look,
        **options,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("sft", [SFT, ADAPTER], ids=["full", "lora"])
def test_a_chain_is_editing_a_copy_and_training_it(sft: HarmfulSFT) -> None:
    by_hand = tiny.model("llama")
    edited: dict[str, torch.Tensor] = {}
    attack(
        EDIT, by_hand, tiny.encoder(), tiny.pool(), seed=3, points=[0.75],
        on_point=lambda *_: edited.update(tiny.weights(by_hand)),
    )  # fmt: skip
    with torch.no_grad():
        for name, p in by_hand.named_parameters():
            p.copy_(edited[name])
    expected = attacked(sft, by_hand)

    model = tiny.model("llama")
    start = tiny.weights(model)
    found = attacked(Chain(first=EDIT, then=sft), model)
    assert sorted(found) == [4, 8]
    for point, (logits, info) in found.items():
        assert torch.equal(logits, expected[point][0]), point
        assert info.steps == expected[point][1].steps
        assert info.flops > expected[point][1].flops  # finding the direction is paid for too
    assert tiny.same(tiny.weights(model), start)
    plain = attacked(sft, tiny.model("llama"))
    assert not torch.equal(plain[8][0], found[8][0])


def test_a_chain_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    chain = Chain(first=EDIT, then=SFT)
    whole = attacked(chain, tiny.model("llama"))

    def stop(_part: str, done: int, _of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    for _ in range(2):
        model = tiny.model("llama")
        start = tiny.weights(model)
        with pytest.raises(KeyboardInterrupt):
            attacked(chain, model, work=tmp_path, progress=stop)
        assert tiny.same(tiny.weights(model), start)
    assert list(tmp_path.glob("harmful_sft/step-*"))
    done: list[int] = []
    model, found = tiny.model("llama"), {}
    attack(
        chain, model, tiny.encoder(), tiny.pool(), seed=3, points=[8.0], work=tmp_path,
        on_point=lambda point, info: found.update({point: info.flops}),
        progress=lambda _part, step, _of: done.append(step),
    )  # fmt: skip
    assert done[0] > 1
    assert found[8] == whole[8][1].flops


def test_a_chain_that_needs_an_original_says_so() -> None:
    chain = Chain(first=Strip(evaluate_at=(0.5,)), then=SFT)
    assert chain.needs == ("original",)
    with pytest.raises(ModelError) as caught:
        attacked(chain, tiny.model("llama"))
    assert str(caught.value) == "strip: needs the 'original' model; name it in the study"


def test_a_chain_under_a_block_trains_and_answers_with_it_on() -> None:
    block = EDIT.with_(forms=("block",))
    chain = Chain(first=block, then=SFT)
    assert not chain.weights_alone
    model = tiny.model("llama")
    found = attacked(chain, model)
    assert not torch.equal(found[8][0], attacked(SFT, tiny.model("llama"))[8][0])
    assert not any(module._forward_hooks for module in model.modules())


def test_each_strength_starts_from_the_release() -> None:
    """Two strengths in one run are those of two runs: no edit lies on top of another."""
    both = attacked(EDIT.with_(evaluate_at=(0.5, 1.0)), tiny.model("llama"))
    for c in (0.5, 1.0):
        alone = attacked(EDIT.with_(evaluate_at=(c,)), tiny.model("llama"))
        assert torch.equal(alone[c][0], both[c][0])
        assert alone[c][1].flops == both[c][1].flops > 0


def test_the_attacker_pays_for_its_passes_alone() -> None:
    """Directions take a forward pass of each prompt; the check of the edit is not counted."""
    model, coder = tiny.model("llama"), tiny.encoder()
    (_, info) = attacked(EDIT, model)[0.75]
    rows = [row for some in EDIT.rows(tiny.pool(), 3).values() for row in some]
    tokens = sum(len(coder.encode(row.prompt).ids) for row in rows)
    size = sum(p.numel() for p in model.model.layers.parameters())
    assert info.flops == 2 * size * tokens
    assert info.steps == 0


def test_what_a_chain_is_told_by() -> None:
    chain = Chain(first=EDIT, then=SFT)
    assert chain.label() == "abliterate stream at 2 c=0.75, then lr=0.01"
    assert (chain.name(), chain.unit, chain.control.value) == ("chain", "examples", "weights")
    assert chain.identity() != Chain(first=EDIT.with_(evaluate_at=(1.0,)), then=SFT).identity()
    assert (
        chain.identity() != Chain(first=EDIT, then=SFT.with_(loop=PLAIN.with_(lr=0.02))).identity()
    )
    assert chain.identity() == Chain(first=EDIT, then=SFT.with_(evaluate_at=(4,))).identity()
    assert chain.copies() == 1  # the released weights, to which the edit is undone
