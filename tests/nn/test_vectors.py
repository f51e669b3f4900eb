"""Gradients over a whole step, vectors of parameters, and weights shifted for a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import Loss, Term
from holdfast.data.example import Role
from holdfast.errors import TrainingError
from holdfast.nn import vectors
from holdfast.nn.vectors import total
from holdfast.testing import tiny


class Toy(torch.nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=dtype))
        self.b = torch.nn.Parameter(torch.tensor([0.25, -0.75], dtype=dtype))


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# ---- ParamVector


def test_a_vectors_arithmetic() -> None:
    first = nn.ParamVector({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[12.0]])})
    second = nn.ParamVector({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[2.0]])})
    assert first.norm() == 13.0
    assert first.dot(second) == 27.0
    first.add_(second, -2.0).scale_(0.5)
    assert first["a"].tolist() == [0.5, 2.0]
    assert first["b"].tolist() == [[4.0]]


def test_a_vector_over_bf16_weights_is_fp32_and_over_fp64_ones_fp64() -> None:
    made = nn.ParamVector.zeros(
        {"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.zeros(2, dtype=torch.float64)}
    )
    assert (made["a"].dtype, made["b"].dtype) == (torch.float32, torch.float64)


def test_only_what_requires_a_gradient_is_trainable() -> None:
    toy = Toy()
    toy.b.requires_grad_(False)
    assert list(nn.trainable(toy)) == ["w"]


def test_tied_weights_are_one_parameter() -> None:
    assert "lm_head.weight" not in nn.trainable(tiny.model("qwen3"))
    assert "lm_head.weight" in nn.trainable(tiny.model("llama"))


# ---- grad


def two_terms(toy: Toy) -> Callable[[Tensor], Loss]:
    """Give a mean over rows and a mean over positive entries: unlike counts in each part."""

    def loss(part: Tensor) -> Loss:
        out = part @ toy.w.T + toy.b
        positive = part > 0
        return {
            "rows": Term(out.square().sum(), float(len(part)), 0.7, "rows"),
            "entries": Term((out * positive).exp().sum(), float(positive.sum()), 0.3, "tokens"),
            "once": Term(toy.w.square().sum(), 1.0, 0.01, "rows", once=True),
        }

    return loss


def by_hand(toy: Toy, data: Tensor) -> tuple[float, dict[str, Tensor]]:
    out = data @ toy.w.T + toy.b
    positive = data > 0
    value = (
        0.7 * out.square().sum() / len(data)
        + 0.3 * (out * positive).exp().sum() / positive.sum()
        + 0.01 * toy.w.square().sum()
    )
    found = torch.autograd.grad(value, [toy.w, toy.b])
    return value.item(), dict(zip(("w", "b"), found, strict=True))


DATA = torch.tensor(
    [[0.1, 0.2], [-0.3, 0.4], [-0.5, -0.6], [0.7, 0.8], [0.05, -0.1], [0.3, 0.3]],
    dtype=torch.float64,
)


@pytest.mark.parametrize("cuts", [[6], [3, 3], [1, 5], [2, 3, 1], [1] * 6])
@pytest.mark.parametrize("counting", ["told", "measured"])
def test_a_split_changes_nothing(cuts: list[int], counting: str) -> None:
    toy = Toy()
    told = None
    if counting == "told":

        def told(part: Tensor) -> dict[str, float]:
            return {"rows": float(len(part)), "entries": float((part > 0).sum()), "once": 1.0}

    found, terms = nn.grad(
        dict(toy.named_parameters()), two_terms(toy), list(DATA.split(cuts)), told
    )
    value, expected = by_hand(toy, DATA)
    assert total(terms) == pytest.approx(value, rel=1e-6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-12)


def test_a_term_without_rows_is_left_out() -> None:
    toy = Toy()

    def loss(part: Tensor) -> Loss:
        nothing = part[:0] @ toy.w.T
        return {
            "none": Term(nothing.sum(), 0.0, 5.0, "tokens"),
            "some": Term((part @ toy.w.T).sum(), float(len(part)), 1.0, "rows"),
        }

    found, terms = nn.grad({"w": toy.w}, loss, [DATA])
    assert terms["none"].count == 0
    assert total(terms) == pytest.approx((DATA @ toy.w.T).sum().item() / 6)
    torch.testing.assert_close(found["w"], DATA.mean(0).expand(2, 2))


def test_a_parameter_no_term_reads_gets_zero() -> None:
    toy = Toy()
    found, _ = nn.grad(
        dict(toy.named_parameters()), lambda p: {"x": Term((p @ toy.w).sum(), 1.0)}, [DATA]
    )
    assert torch.equal(found["b"], torch.zeros(2, dtype=torch.float64))


def test_gradients_leave_no_trace_on_the_parameters() -> None:
    toy = Toy()
    nn.grad(dict(toy.named_parameters()), two_terms(toy), [DATA])
    assert toy.w.grad is None
    assert toy.b.grad is None


@pytest.mark.parametrize("cuts", [[6], [2, 3, 1]])
def test_a_gradient_can_be_scaled_and_added_to_another(cuts: list[int]) -> None:
    toy = Toy()
    params = dict(toy.named_parameters())
    buffer, _ = nn.grad(params, two_terms(toy), [DATA])
    first = {name: tensor.clone() for name, tensor in buffer.items()}
    found, terms = nn.grad(params, two_terms(toy), list(DATA.split(cuts)), into=buffer, scale=-3.0)
    assert found is buffer
    value, expected = by_hand(toy, DATA)
    assert total(terms) == pytest.approx(value, rel=1e-6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], first[name] - 3 * tensor, rtol=1e-12, atol=1e-12)
    assert not toy.w._backward_hooks
    assert toy.w.grad is None


def test_tied_weights_are_added_once_and_as_a_whole() -> None:
    model = tiny.model("qwen3")
    params = nn.trainable(model)
    tokens = tiny.encoder().batch(tiny.rows(n=2)[Role.HARMFUL])

    def loss(part: Any) -> Loss:
        value, count = nn.nll(model, part)
        return {"x": Term(value, count)}

    alone, _ = nn.grad(params, loss, [tokens])
    twice, _ = nn.grad(params, loss, [tokens], into=nn.ParamVector.zeros(params))
    for name, tensor in alone.items():
        torch.testing.assert_close(twice[name], tensor)


def test_a_second_gradient_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `autograd.grad` gives back, where a sum is there already, is one number spread out."""
    toy = Toy()
    params = dict(toy.named_parameters())
    sizes = []
    inner = torch.autograd.grad

    def watched(*given: Any, **options: Any) -> Any:
        found = inner(*given, **options)
        sizes.append([piece.untyped_storage().nbytes() for piece in found])
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    nn.grad(params, two_terms(toy), list(DATA.split([2, 4])))
    assert sizes == [[4 * 8, 2 * 8], [8, 8]]


def test_a_first_gradient_in_fewer_bits_is_never_held_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is taken into fp32 as it appears; a gradient in the sum's own bits is kept as it is."""
    toy = Toy().bfloat16()
    params = dict(toy.named_parameters())
    sizes = []
    inner = torch.autograd.grad

    def watched(*given: Any, **options: Any) -> Any:
        found = inner(*given, **options)
        sizes.append([piece.untyped_storage().nbytes() for piece in found])
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    found, _ = nn.grad(params, two_terms(toy), [DATA.bfloat16()])
    assert sizes == [[2, 2]]
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    twin, _ = nn.grad(dict(toy.named_parameters()), two_terms(toy), [DATA.bfloat16()])
    assert all(torch.equal(found[name], twin[name]) for name in found)


def test_every_parameter_can_have_a_gradient_for_a_while() -> None:
    toy = Toy()
    toy.b.requires_grad_(False)
    with torch.no_grad(), nn.all_trainable(toy) as params:
        assert list(params) == ["w", "b"]
        assert (toy.w * 2).requires_grad
    assert (toy.w.requires_grad, toy.b.requires_grad) == (True, False)


# ---- shifted


def test_weights_are_shifted_inside_and_restored_bit_for_bit() -> None:
    model = tiny.model("llama")
    before = tiny.weights(model)
    direction = nn.ParamVector({k: torch.randn_like(p) for k, p in before.items()})
    with nn.shifted(model, direction, -0.037) as seen:
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name] + direction[name] * -0.037)
        assert seen["cosine"] == pytest.approx(1.0, abs=1e-6)
        assert seen["norm_ratio"] == pytest.approx(1.0, abs=1e-6)
    assert tiny.same(tiny.weights(model), before)


def test_adding_back_would_not_have_restored_them() -> None:
    """The reason for restoring by copy: w + d - d is not w in floating point."""
    before = tiny.weights(tiny.model("llama"))
    d = {k: torch.randn_like(p) * 0.037 for k, p in before.items()}
    assert not all(torch.equal(p + d[k] - d[k], p) for k, p in before.items())


def test_weights_are_restored_after_an_error_inside() -> None:
    model = tiny.model()
    before = tiny.weights(model)
    with (
        pytest.raises(RuntimeError, match="stop"),
        nn.shifted(model, before, 0.5),
    ):
        raise RuntimeError("stop")
    assert tiny.same(tiny.weights(model), before)


def test_only_the_named_weights_move() -> None:
    toy = Toy()
    with nn.shifted(toy, {"b": values(1.0, 1.0)}, 2.0):
        assert toy.b.tolist() == [2.25, 1.25]
        assert toy.w.tolist() == [[1.0, -2.0], [0.5, 3.0]]


def test_a_perturbation_lost_to_bf16_is_an_error_and_leaves_the_weights() -> None:
    toy = Toy(torch.bfloat16)
    before = tiny.weights(toy)
    direction = {name: torch.ones_like(p, dtype=torch.float32) for name, p in before.items()}
    with (
        pytest.raises(TrainingError) as caught,
        nn.shifted(toy, direction, 1e-4, where="booster"),
    ):
        pass
    assert str(caught.value) == (
        "booster: lost to rounding (cosine 0.00, norm ratio 0.00); "
        "use precision: fp32 or a larger step"
    )
    assert tiny.same(tiny.weights(toy), before)


def test_under_autocast_the_dtype_of_the_products_decides() -> None:
    """fp32 weights hold a small step that bf16 products never see."""
    toy = Toy(torch.float32)
    before = tiny.weights(toy)
    direction = {name: torch.ones_like(p) for name, p in before.items()}
    with nn.shifted(toy, direction, 1e-4):
        pass
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TrainingError, match="lost to rounding"),
        nn.shifted(toy, direction, 1e-4),
    ):
        pass
    assert tiny.same(tiny.weights(toy), before)


def test_a_partial_loss_is_measured() -> None:
    """One of two equal weights rounds its step away: cosine and ratio are both 1 / sqrt 2."""
    toy = Toy(torch.bfloat16)
    with torch.no_grad():
        toy.b.copy_(torch.tensor([0.0, 256.0]))
    with (
        pytest.raises(TrainingError, match=r"\(cosine 0\.71, norm ratio 0\.71\)"),
        nn.shifted(toy, {"b": torch.tensor([0.5, 0.5])}, 1.0),
    ):
        pass


def test_a_shift_by_nothing_is_no_error() -> None:
    model: Any = Toy()
    with nn.shifted(model, {"b": values(0.0, 0.0)}, 1.0) as seen:
        assert seen == {"cosine": 0.0, "norm_ratio": 0.0}


def test_gradients_that_share_memory_are_kept_apart() -> None:
    """Autograd hands a sum's two terms one tensor, and a sum's gradient as one number spread."""
    params = {name: torch.ones(2, 2, requires_grad=True) for name in "ab"}

    def loss(_part: int) -> dict[str, Term]:
        value = ((params["a"] + params["b"]) * 3).sum() + params["a"].sum()
        return {"x": Term(value, 1.0, 1.0, "rows")}

    found, _ = nn.grad(params, loss, [0])
    found.scale_(2.0)
    assert found["a"].unique().tolist() == [8.0]
    assert found["b"].unique().tolist() == [6.0]


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_smaller_than_a_tensor_change_nothing(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real tensors are longer than a piece; a tiny model's never are unless pieces shrink."""
    torch.manual_seed(0)
    shapes = {"matrix": (5, 3), "row": (11,), "number": (), "block": (2, 3, 4), "empty": (0, 4)}
    one, other = (
        vectors.ParamVector({name: torch.randn(size) for name, size in shapes.items()})
        for _ in range(2)
    )
    module = torch.nn.Module()
    for name, size in shapes.items():
        module.register_parameter(name, torch.nn.Parameter(torch.randn(size)))
    module.matrix = torch.nn.Parameter(torch.randn(3, 5).T)  # strided: a piece must be a view
    expected = {name: p + 0.5 * one[name] for name, p in module.named_parameters()}
    before = {name: p.detach().clone() for name, p in module.named_parameters()}

    monkeypatch.setattr(vectors, "PIECE", piece)
    by_hand = sum(float((one[name].double() * other[name].double()).sum()) for name in shapes)
    assert one.dot(other) == pytest.approx(by_hand, rel=1e-12)
    with vectors.shifted(module, one, 0.5) as told:
        for name, p in module.named_parameters():
            torch.testing.assert_close(p, expected[name])
        assert told["cosine"] == pytest.approx(1.0, abs=1e-6)
        assert told["norm_ratio"] == pytest.approx(1.0, abs=1e-6)
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name])
