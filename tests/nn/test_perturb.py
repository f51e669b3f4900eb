"""Perturbed layer outputs against rows run alone through plain transformers, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from holdfast import nn
from holdfast.api import LoRA
from holdfast.data.example import Role
from holdfast.data.tokens import Tokens
from holdfast.errors import ModelError, TrainingError
from holdfast.nn.adapter import lora
from holdfast.nn.passes import FlopMeter, Passes, packed_passes
from holdfast.nn.perturb import Site
from holdfast.testing import tiny

SITES: tuple[Site, ...] = ("attention", "block")


def batch(n: int = 4, *, left: bool = False, bos: bool = False) -> Tokens:
    return tiny.encoder(bos=bos).batch(tiny.rows(n=n)[Role.REFUSAL], left=left)


def rows_loss(model: Any, parts: list[Tokens], add: Any, site: Site) -> tuple[Tensor, int]:
    """Sum CE over rows run alone, `add(part, row, layer)` added to that layer's output.

    The twin's own way: each row whole and unpadded through Hugging Face's forward pass.
    """
    losses = []
    for number, part in enumerate(parts):
        for index, row in enumerate(part.rows):
            handles = []
            for layer, block in enumerate(model.model.layers):
                module = block.self_attn if site == "attention" else block

                def hook(_m: Any, _i: Any, out: Any, at: tuple[int, ...] = (number, index, layer)):
                    if isinstance(out, tuple):
                        return (out[0] + add(*at), *out[1:])
                    return out + add(*at)

                handles.append(module.register_forward_hook(hook))
            logits = model(torch.tensor([row.ids]), use_cache=False).logits[0].double()
            for handle in handles:
                handle.remove()
            chance = logits.log_softmax(-1)
            losses += [-chance[i - 1, row.ids[i]] for i in range(row.start, len(row.ids))]
    return torch.stack(losses).sum(), len(losses)


def leaves(model: Any, part: Tokens) -> dict[tuple[int, int], Tensor]:
    """Give zeros for each row and layer: CE's gradient by them is that by the layer's output."""
    width, kind = model.config.hidden_size, model.dtype
    return {
        (row, layer): torch.zeros(1, len(own.ids), width, dtype=kind, requires_grad=True)
        for row, own in enumerate(part.rows)
        for layer in range(len(model.model.layers))
    }


def twin_gradients(model: Any, part: Tokens, site: Site) -> dict[tuple[int, int], Tensor]:
    at = leaves(model, part)
    value, count = rows_loss(model, [part], lambda _p, row, layer: at[row, layer], site)
    found = torch.autograd.grad(value / count, list(at.values()))
    return dict(zip(at, found, strict=True))


def twin(
    model: Any,
    parts: list[Tokens],
    rho: float,
    *,
    site: Site = "attention",
    layers: tuple[int, ...] | None = None,
    params: dict[str, Tensor] | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Give the perturbed CE of a whole step and its gradient; each part has its own norm."""
    eps: dict[tuple[int, int, int], Tensor] = {}
    for number, part in enumerate(parts):
        found = twin_gradients(model, part, site)
        kept = {k: g for k, g in found.items() if layers is None or k[1] in layers}
        size = sum(float(g.double().square().sum()) for g in kept.values()) ** 0.5
        for (row, layer), g in kept.items():
            eps[number, row, layer] = rho * g / (size + 1e-7)
    none = torch.zeros(())
    value, count = rows_loss(model, parts, lambda *at: eps.get(at, none), site)
    named = params or dict(model.named_parameters())
    grads = torch.autograd.grad(value / count, list(named.values()))
    return float(value.detach()) / count, dict(zip(named, grads, strict=True))


def by_row(part: Tokens, layer: Tensor, packed: bool) -> list[Tensor]:
    """Cut a layer's [1, N, H] or [B, T, H] into each row's own [1, T, H]."""
    if packed:
        return list(layer.split([len(row.ids) for row in part.rows], dim=1))
    return [
        layer[i : i + 1, offset : offset + len(row.ids)]
        for i, (row, offset) in enumerate(zip(part.rows, part.offsets, strict=True))
    ]


# ---- where


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_each_block_has_one_attention_module(family: str) -> None:
    model = tiny.model(family)
    assert nn.attentions(model) == [block.self_attn for block in model.model.layers]
    assert nn.sites(model, "block") == list(model.model.layers)


def test_a_block_without_attention_is_told() -> None:
    model = tiny.model("llama")
    del model.model.layers[1].self_attn
    with pytest.raises(ModelError) as caught:
        nn.attentions(model)
    assert str(caught.value) == "block 1: 0 attention modules in it; use another architecture"


# ---- the first pass


@pytest.mark.parametrize("how", ["packed", "right", "left"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_gradients_at_the_outputs_are_each_rows_own(family: str, site: Site, how: str) -> None:
    model = tiny.model(family, spread=0.3)
    # transformers' own capped attention gives NaN in float64 at padding on the left
    exact = (family, how) != ("gemma2", "left")
    model = model.double() if exact else model
    part = batch(3, left=how == "left")
    packed = how == "packed" and family != "gemma2"  # its capped scores cannot be packed
    with packed_passes(how == "packed"):
        found, value, count = nn.output_gradients(model, part, site=site)
    expected = twin_gradients(model, part, site)
    plain, n = rows_loss(model, [part], lambda *_: 0.0, site)
    assert count == n
    assert float(value) == pytest.approx(plain.item(), rel=1e-6)
    size = max(float(g.abs().max()) for g in expected.values())
    for layer, whole in found.items():
        for row, own in enumerate(by_row(part, whole, packed)):
            assert (own - expected[row, layer]).abs().max() <= (2e-6 if exact else 2e-5) * size, (
                row,
                layer,
            )
        total = sum(float(own.abs().sum()) for own in by_row(part, whole, packed))
        assert float(whole.abs().sum()) == pytest.approx(total)  # padding holds nothing


def test_the_first_pass_leaves_weights_flags_and_hooks_alone() -> None:
    model = tiny.model("llama")
    model.model.norm.weight.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    nn.output_gradients(model, batch())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_chosen_layers_have_the_same_gradients() -> None:
    model = tiny.model(spread=0.3)
    every, _, _ = nn.output_gradients(model, batch())
    some, _, _ = nn.output_gradients(model, batch(), [2, 1])
    assert list(some) == [1, 2]
    for number, g in some.items():
        assert torch.equal(g, every[number])


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_pass_forms_no_weight_gradient(packed: bool) -> None:
    """Counted by torch itself: forward and inputs alone is two thirds of forward and backward."""
    model = tiny.model("llama", hidden_size=64, intermediate_size=128, head_dim=16)
    part, params = batch(), list(model.parameters())

    def counted(run: Any) -> int:
        with packed_passes(packed), FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    whole = counted(lambda: torch.autograd.grad(nn.nll(model, part)[0], params))
    first = counted(lambda: nn.output_gradients(model, part))
    last = counted(lambda: nn.output_gradients(model, part, [2]))
    assert first < 0.67 * whole
    assert last < 0.85 * first  # back to the first chosen layer and no further


def test_the_meter_counts_the_first_pass() -> None:
    model, part = tiny.model("llama"), batch()
    tokens = sum(len(row.ids) for row in part.rows)
    labels = int((part.labels != -100).sum())
    body = sum(p.numel() for p in model.model.layers.parameters())
    head = model.lm_head.weight.numel()
    first_attention = sum(p.numel() for p in model.model.layers[0].self_attn.parameters())
    with FlopMeter().on() as meter:
        nn.output_gradients(model, part)
    back = 2 * (body - first_attention) * tokens
    assert meter.total == 2 * body * tokens + back + 4 * head * labels


# ---- the second pass


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("packed", [False, True])
def test_nothing_added_changes_no_bit(packed: bool, site: Site) -> None:
    model, part = tiny.model("mistral", spread=0.3), batch()
    params = nn.trainable(model)
    with packed_passes(packed):
        plain, _ = nn.nll(model, part)
        expected = torch.autograd.grad(plain, list(params.values()))
        zeros = {k: g.zero_() for k, g in nn.output_gradients(model, part, site=site)[0].items()}
        with nn.shifting(model, site) as now:
            now.by = zeros
            value, _ = nn.nll(model, part)
            found = torch.autograd.grad(value, list(params.values()))
    assert torch.equal(value, plain)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert now.realised("here") == {}
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_step_is_the_twins_for_every_decoder(family: str) -> None:
    model = tiny.model(family, spread=0.3).double()
    params = nn.trainable(model)
    for site in SITES:
        with packed_passes(True):
            found, terms = nn.perturbed_grad(
                model, params, [batch(2)], worst(model, 0.7, site), where="here", site=site
            )
        value, expected = twin(model, [batch(2)], 0.7, site=site)
        assert float(terms["refusal"].sum) / terms["refusal"].count == pytest.approx(
            value, rel=2e-6
        )
        compare(found, expected)


def worst(model: Any, rho: float, site: Site = "attention") -> Any:
    def perturb(part: Tokens) -> Any:
        return nn.worst_case(nn.output_gradients(model, part, site=site)[0], rho), {}

    return perturb


def compare(found: Any, expected: dict[str, Tensor], tolerance: float = 2e-6) -> None:
    size = max(1.0, sum(float(e.double().square().sum()) for e in expected.values()) ** 0.5)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max().item() <= tolerance * size, name


@pytest.mark.parametrize("site", SITES)
def test_blocks_run_again_in_the_backward_pass_see_the_same_perturbation(site: Site) -> None:
    model = tiny.model(spread=0.3)
    params, parts = nn.trainable(model), [batch(2), batch(4)]
    ends = []
    for again in (False, True):
        with Passes(packed=True, checkpointed=again).on():
            found, terms = nn.perturbed_grad(
                model, params, parts, worst(model, 2.0, site), where="here", site=site
            )
        ends.append((found, float(terms["refusal"].sum)))
    assert ends[0][1] == ends[1][1]
    compare(ends[1][0], ends[0][0], 1e-7)


def test_an_adapter_learns_at_the_perturbed_outputs() -> None:
    model = tiny.model("llama", spread=0.3)
    with lora(model, LoRA(rank=2, alpha=4.0), 0) as params:
        with torch.no_grad():
            for name, p in params.items():
                p.add_(0.05 if name.endswith("lora_b") else 0.0)
        found, _ = nn.perturbed_grad(model, params, [batch(2)], worst(model, 0.7), where="here")
        _, expected = twin(model, [batch(2)], 0.7, params=params)
        compare(found, expected, 1e-5)


def test_autocast_adds_in_the_dtype_of_the_weights() -> None:
    """bf16 would round a short perturbation away; the residual stream is fp32."""
    model, part = tiny.model("llama"), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, terms = nn.perturbed_grad(
            model, nn.trainable(model), [part], worst(model, 1e-3), where="here"
        )
    assert float(terms["cosine"].sum) > 0.999
    assert float(terms["norm_ratio"].sum) == pytest.approx(1.0, abs=5e-3)


def test_a_perturbation_lost_to_bf16_stops_the_run() -> None:
    model, part = tiny.model("llama").to(torch.bfloat16), batch()
    with pytest.raises(TrainingError) as caught:
        nn.perturbed_grad(model, nn.trainable(model), [part], worst(model, 1e-4), where="here")
    said = str(caught.value)
    assert said.startswith("here: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger rho")
    assert not any(m._forward_hooks for m in model.modules())


# ---- noise


@pytest.mark.parametrize("left", [False, True])
def test_a_rows_noise_is_its_own_however_rows_are_laid_out(left: bool) -> None:
    model, whole = tiny.model(), batch(4, left=left)
    with packed_passes(True):
        packed = nn.gaussian(model, whole, 3, 7)
    padded = nn.gaussian(model, whole, 3, 7)
    assert len(padded) == len(model.model.layers)
    for layer, noise in padded.items():
        assert noise.shape == (*whole.ids.shape, model.config.hidden_size)
        assert not noise[whole.mask == 0].any()
        for a, b in zip(
            by_row(whole, noise, False), by_row(whole, packed[layer], True), strict=True
        ):
            assert torch.equal(a, b)
    alone = nn.gaussian(model, batch(1), 3, 7)
    width = len(whole.rows[0].ids)
    assert torch.equal(alone[1][0, :width], by_row(whole, padded[1], False)[0][0])
    assert not torch.equal(nn.gaussian(model, batch(1), 3, 8)[1], alone[1])


def test_noise_is_standard_normal_and_differs_between_layers() -> None:
    noise = torch.stack([z[0] for z in nn.gaussian(tiny.model(), batch(1), 0, 0).values()])
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(noise[0], noise[1])


# ---- measuring


def test_batches_are_of_one_size_and_a_remainder_is_left_out() -> None:
    rows = tiny.rows(n=5)[Role.REFUSAL]
    assert [len(p) for p in nn.equal_batches(tiny.encoder(), rows, 2)] == [2, 2]
    assert [len(p) for p in nn.equal_batches(tiny.encoder(), rows, 8)] == [5]


def test_the_loss_under_perturbation_is_the_twins() -> None:
    model = tiny.model(spread=0.3)
    parts = [batch(2), batch(4)]
    plain, shifted = nn.perturbed_loss(model, parts, worst(model, 0.5))
    assert plain == pytest.approx(twin(model, parts, 0.0)[0], rel=1e-5)
    assert shifted == pytest.approx(twin(model, parts, 0.5)[0], rel=1e-5)
