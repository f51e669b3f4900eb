"""The measures of states: numbers worked by hand, float64 twins, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast import evaluate, nn
from holdfast.data.example import Role, Side
from holdfast.errors import DataError, HoldfastError
from holdfast.testing import tiny

RNG = np.random.default_rng(3)


def turned(states: np.ndarray) -> np.ndarray:
    """The same states in another orthonormal basis."""
    turn, _ = np.linalg.qr(RNG.normal(size=(states.shape[1],) * 2))
    return states @ turn


# ---- linear CKA (lives in nn.opening; here through the analysis)


def cka(x: np.ndarray, y: np.ndarray) -> float:
    return evaluate.linear_cka(torch.from_numpy(x), torch.from_numpy(y))


def test_cka_worked_by_hand() -> None:
    """Centred columns (1, -1, 0) and (1, 0, -1): products 1, sizes 2 x 2, so CKA is 1 / 4."""
    x, y = np.array([[1.0], [-1.0], [0.0]]), np.array([[1.0], [0.0], [-1.0]])
    assert cka(x, y) == pytest.approx(0.25)


def test_cka_equals_its_twin_over_features() -> None:
    x, y = RNG.normal(size=(12, 5)), RNG.normal(size=(12, 7))
    a, b = x - x.mean(0), y - y.mean(0)
    top = np.square(a.T @ b).sum()
    twin = top / math.sqrt(np.square(a.T @ a).sum() * np.square(b.T @ b).sum())
    assert cka(x, y) == pytest.approx(twin, rel=1e-12)


def test_cka_does_not_see_rotation_scale_or_place() -> None:
    x, y = RNG.normal(size=(12, 5)), RNG.normal(size=(12, 5))
    assert cka(x, x) == pytest.approx(1.0)
    assert cka(x, 3 * turned(x) + 7) == pytest.approx(1.0)
    assert cka(turned(x), 0.1 * y - 2) == pytest.approx(cka(x, y))
    assert cka(x, y) == pytest.approx(cka(y, x))
    assert cka(x, y) < 0.9


# ---- k-NN overlap


def test_knn_overlap_worked_by_hand() -> None:
    """On a line 0, 1, 3, 7 the nearest are 1, 0, 1, 3; with 7 moved to -1 they are 1, 0, 1, 0."""
    before, after = np.array([[0.0], [1], [3], [7]]), np.array([[0.0], [1], [3], [-1]])
    # Of two at one distance (1 and -1 from 0) the first in order is nearer.
    assert evaluate.knn_overlap(before, after, 1) == pytest.approx(3 / 4)
    # k = 2: {1,3} {0,3} {1,0} {3,1} against {1,-1} {0,3} {1,0} {0,1}: 1 + 2 + 2 + 1 of 8.
    assert evaluate.knn_overlap(before, after, 2) == pytest.approx(6 / 8)
    assert evaluate.knn_overlap(before, after, 3) == 1.0


def test_knn_overlap_is_1_with_itself_and_does_not_see_rotation_or_scale() -> None:
    x, y = RNG.normal(size=(20, 6)), RNG.normal(size=(20, 6))
    for k in (1, 5, 19):
        assert evaluate.knn_overlap(x, x, k) == 1.0
        assert evaluate.knn_overlap(x, 4 * turned(x) - 1, k) == 1.0
    assert evaluate.knn_overlap(x, y, 5) == evaluate.knn_overlap(y, x, 5)
    assert evaluate.knn_overlap(x, y, 5) < 0.7


def test_strangers_overlap_by_chance() -> None:
    each = [
        evaluate.knn_overlap(RNG.normal(size=(40, 8)), RNG.normal(size=(40, 8)), 5)
        for _ in range(30)
    ]
    assert np.mean(each) == pytest.approx(5 / 39, abs=0.02)


def test_knn_overlap_equals_its_twin() -> None:
    x, y = RNG.normal(size=(25, 4)), RNG.normal(size=(25, 9))

    def nearest(states: np.ndarray, i: int) -> set[int]:
        far = {j: math.dist(states[i], states[j]) for j in range(len(states)) if j != i}
        return set(sorted(far, key=far.__getitem__)[:6])

    twin = sum(len(nearest(x, i) & nearest(y, i)) / 6 for i in range(25)) / 25
    assert evaluate.knn_overlap(x, y, 6) == pytest.approx(twin)


# ---- drift


def test_drift_worked_by_hand() -> None:
    """States 0 and 2 lie 1 + 1 from their mean; both move by 3: 18 over 2."""
    before = np.array([[0.0], [2.0]])
    assert evaluate.drift(before, before) == 0.0
    assert evaluate.drift(before, before + 3) == pytest.approx(9.0)
    assert evaluate.drift(np.ones((2, 1)), np.ones((2, 1))) == 0.0
    assert evaluate.drift(np.ones((2, 1)), np.zeros((2, 1))) == math.inf


def test_drift_sees_what_cka_does_not() -> None:
    x = RNG.normal(size=(10, 4))
    assert cka(x, x + 5) == pytest.approx(1.0)
    assert evaluate.drift(x, x + 5) > 10
    assert evaluate.drift(x * 3, (x + 5) * 3) == pytest.approx(evaluate.drift(x, x + 5))


# ---- the plane


def test_the_plane_worked_by_hand() -> None:
    """(+-3, 0, 0) and (0, +-1, 0): variances 18 and 2, so 90 % and 10 %, and the points stay."""
    found = evaluate.plane({"a": [[3.0, 0, 0], [-3, 0, 0]], "b": [[0.0, 1, 0], [0, -1, 0]]})
    assert found.shares == pytest.approx((0.9, 0.1))
    np.testing.assert_allclose(np.abs(found.at["a"]), [[3, 0], [3, 0]], atol=1e-12)
    np.testing.assert_allclose(np.abs(found.at["b"]), [[0, 1], [0, 1]], atol=1e-12)
    assert found.at["a"].sum() == pytest.approx(0.0)


def test_the_plane_keeps_distances_of_flat_states_however_they_are_turned() -> None:
    flat = np.zeros((15, 6))
    flat[:, :2] = RNG.normal(size=(15, 2)) * [3, 1]
    found = evaluate.plane({"one": turned(flat)[:7] + 2, "two": flat[7:]})
    assert set(found.at) == {"one", "two"}
    again = evaluate.plane({"all": turned(flat) + 2})
    far = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    seen = np.linalg.norm(again.at["all"][:, None] - again.at["all"][None], axis=-1)
    np.testing.assert_allclose(seen, far, atol=1e-9)
    assert sum(again.shares) == pytest.approx(1.0)


def test_the_plane_is_drawn_the_same_way_round() -> None:
    x = RNG.normal(size=(9, 4))
    first, second = evaluate.plane({"x": x}), evaluate.plane({"x": -x})
    np.testing.assert_allclose(first.at["x"], second.at["x"], atol=1e-9)
    for axis in (0, 1):
        ends = first.at["x"][:, axis]
        assert ends[np.abs(ends).argmax()] > 0


def test_states_that_do_not_vary_have_a_plane_without_shares() -> None:
    found = evaluate.plane({"x": np.ones((4, 3))})
    assert found.shares == (0.0, 0.0)
    assert not found.at["x"].any()


# ---- the states themselves


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2", "phi"])
@pytest.mark.parametrize("bos", [False, True])
def test_opening_states_are_those_that_emit_the_first_answer_token(family: str, bos: bool) -> None:
    model, encoder = tiny.model(family), tiny.encoder(bos=bos)
    rows = tiny.rows(Side.EVALUATOR, 6)[Role.HARMFUL]
    found = nn.opening_states(model, encoder, rows, (1, 3))
    assert found.shape == (2, 6, 16)
    assert found.dtype == torch.float32
    for i, row in enumerate(rows):
        ids = encoder.encode(row.prompt).ids
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        for place, layer in enumerate((1, 3)):
            expected = out.hidden_states[layer][0, -1]
            torch.testing.assert_close(found[place, i], expected, atol=1e-5, rtol=1e-4)


def test_opening_states_do_not_depend_on_the_other_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoder = tiny.model(), tiny.encoder()
    rows = tiny.rows(Side.EVALUATOR, 6)[Role.HARMFUL]
    whole = nn.opening_states(model, encoder, rows, (2,))
    monkeypatch.setattr("holdfast.nn.opening.PART", 2)
    parts = nn.opening_states(model, encoder, rows, (2,))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert not any(m._forward_hooks for m in model.modules())
    meter = nn.FlopMeter()
    nn.opening_states(model, encoder, rows, (2,))
    assert meter.total == 0.0


# ---- bad input


def line(call) -> str:
    with pytest.raises(HoldfastError) as caught:
        call()
    return str(caught.value)


def test_bad_input_is_one_line() -> None:
    x = np.ones((4, 2))
    assert line(lambda: evaluate.knn_overlap(x, x, 4)) == (
        "k-NN overlap: 4 neighbours of 4 prompts; ask for between 1 and 3"
    )
    assert line(lambda: evaluate.knn_overlap(x, x[:3], 1)) == (
        "k-NN overlap: 4 and 3 rows; give the same prompts"
    )
    assert line(lambda: evaluate.plane({"x": x[:, :1]})) == (
        "PCA: states of shape (4, 1); give two rows of two dimensions"
    )
    with pytest.raises(DataError):
        evaluate.knn_overlap(x, x, 0)
