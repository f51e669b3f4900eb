"""SEAM against a float64 twin: its gradient by finite differences, and what they converge to."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from holdfast.api import Loop, Run, registry
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Row, Tokens
from holdfast.defences.seam import SEAM, ascent, cosine, cosine_gradient
from holdfast.errors import DataError, TrainingError
from holdfast.nn.passes import packed_passes
from holdfast.nn.vectors import ParamVector, total
from holdfast.testing import tiny

ROLES = (Role.REFUSAL, Role.HARMFUL, Role.BENIGN)
LIGHT = SEAM(ascent_weight=0.7, retain_weight=1.3, couple_weight=0.4, eps=0.05)


def step(cuts: int = 4, bos: bool = False) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)
    return {
        role: [encoder.batch(rows[role][i : i + cuts]) for i in range(0, 4, cuts)] for role in ROLES
    }


def vector(*numbers: float) -> ParamVector:
    return ParamVector({"w": torch.tensor(numbers, dtype=torch.float64)})


# ---- the equations, by hand and in closed form


def test_the_cosine_and_its_gradient_worked_by_hand() -> None:
    """g_a = w at (3, 4), g_b = (1, 0) everywhere: c = 0.6, grad c = ((1 - 0.36), -0.48) / 5."""

    def harm_at(d: Mapping[str, Tensor]) -> ParamVector:
        return ParamVector({"w": vector(3, 4)["w"] + 0.25 * d["w"]})

    assert cosine(vector(3, 4), vector(1, 0)) == pytest.approx(0.6)
    found = cosine_gradient(vector(3, 4), vector(1, 0), harm_at, lambda _: vector(1, 0), 0.25)
    torch.testing.assert_close(found["w"], vector(0.128, -0.096)["w"])


def test_the_ascent_worked_by_hand() -> None:
    """m = 3: -log 4 and -1/4."""
    assert ascent(3.0) == (pytest.approx(-math.log(4)), -0.25)


def curved(at: Tensor, which: int) -> Tensor:
    """Give the gradient of one of two functions of three variables that are not quadratic."""
    a, b, c = at
    if which == 0:
        return torch.stack([a.cos() * b, a.sin() + 2 * b * c, b * b + c**3])
    return torch.stack([a.exp() - b, c - a, b + c * c])


def test_the_estimate_converges_to_autograds_gradient_as_eps_falls() -> None:
    """Off by O(eps): half the shift, half the error; with the benign term alongside."""
    at = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    first, second = curved(at, 0), curved(at, 1)
    value = 0.8 * (first @ second) / (first.norm() * second.norm())
    expected = torch.autograd.grad(value, at)[0] + 0.3 * curved(at.detach(), 1)
    errors = []
    for eps in (1e-2, 5e-3, 2.5e-3, 1e-6):

        def there(which: int, eps: float = eps) -> Any:
            return lambda d: ParamVector({"w": curved(at.detach() + eps * d["w"], which)})

        found = cosine_gradient(
            ParamVector({"w": first.detach().clone()}),
            ParamVector({"w": second.detach().clone()}),
            there(0),
            there(1),
            eps,
            weight=0.8,
            benign_weight=0.3,
        )
        errors.append((found["w"] - expected).norm().item())
    assert errors[0] < 0.02
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.05)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.05)
    assert errors[3] < 1e-5


def test_the_cosines_gradient_knows_no_length_and_is_orthogonal_to_a_scaling() -> None:
    """Scaling either gradient with its curvature changes nothing: a cosine has no unit."""
    at = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)

    def found(first: float, second: float) -> Tensor:
        def there(which: int, by: float) -> Any:
            return lambda d: ParamVector({"w": by * curved(at + 1e-4 * d["w"], which)})

        return cosine_gradient(
            ParamVector({"w": first * curved(at, 0)}),
            ParamVector({"w": second * curved(at, 1)}),
            there(0, first),
            there(1, second),
            1e-4,
        )["w"]

    torch.testing.assert_close(found(100.0, 0.01), found(1.0, 1.0), rtol=1e-9, atol=1e-11)


def test_the_directions_are_orthogonal_and_no_more_than_three_vectors_live() -> None:
    """Each shift is at right angles to its own gradient and of length sqrt(1 - c^2)."""
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []

    def held(*numbers: float) -> ParamVector:
        made = vector(*numbers)
        alive.append(weakref.ref(made["w"]))
        return made

    seen = []

    def there(*numbers: float) -> Any:
        def gradient(d: Mapping[str, Tensor]) -> ParamVector:
            seen.append(d["w"].clone())
            made = held(*numbers)
            most.append(sum(ref() is not None for ref in alive))
            return made

        return gradient

    cosine_gradient(held(3, 4), held(1, 0), there(2, 5), there(1, 1), 0.1)
    for direction, own in zip(seen, (vector(3, 4)["w"], vector(1, 0)["w"]), strict=True):
        assert direction @ own == pytest.approx(0.0, abs=1e-12)
        assert direction.norm().item() == pytest.approx(0.8)
    assert most == [3, 3]


# ---- the whole method against a twin


def token_losses(model: Any, params: dict[str, Tensor], row: Row) -> tuple[Tensor, Tensor]:
    """Give -log p of a row's response tokens [n], and of every block's [L, n], in float64."""
    options = {"use_cache": False, "output_hidden_states": True}
    out = functional_call(model, params, (torch.tensor([row.ids]),), options)
    head = params.get("lm_head.weight", params["model.embed_tokens.weight"])
    at = slice(row.start - 1, len(row.ids) - 1)
    labels = torch.tensor(row.ids[row.start :])[:, None]

    def losses(logits: Tensor) -> Tensor:
        return -logits.double().log_softmax(-1).gather(1, labels)[:, 0]

    deep = []
    for h in out.hidden_states[1:-1]:
        h = h[0, at].double()
        scale = (h.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).rsqrt()
        deep.append(losses(h * scale * params["model.norm.weight"] @ head.T))
    own = losses(out.logits[0, at])
    return own, torch.stack([*deep, own])


class Twin:
    """The objective's parts at any weights, from Hugging Face's own rows, one at a time."""

    def __init__(self, model: Any, bos: bool = False) -> None:
        self.model = tiny.copied(model).double()
        self.model.set_attn_implementation("eager")  # the only one with second derivatives
        self.params = {
            name: p.detach().clone().requires_grad_(True)
            for name, p in self.model.named_parameters()
        }
        self.rows = {role: parts[0].rows for role, parts in step(bos=bos).items()}

    def mean(self, role: Role, params: dict[str, Tensor], deep: bool = False) -> Tensor:
        found = [token_losses(self.model, params, row)[deep] for row in self.rows[role]]
        return torch.cat(found, dim=-1).mean()

    def gradient(self, role: Role, params: dict[str, Tensor], graph: bool = False) -> Tensor:
        """Give one flat gradient."""
        value = self.mean(role, params)
        found = torch.autograd.grad(value, list(params.values()), create_graph=graph)
        return torch.cat([g.flatten() for g in found])

    def moved(self, direction: Tensor, by: float) -> dict[str, Tensor]:
        """Give the weights shifted along a flat direction."""
        pieces = direction.split([p.numel() for p in self.params.values()])
        return {
            name: (p.detach() + by * piece.view_as(p)).requires_grad_(True)
            for (name, p), piece in zip(self.params.items(), pieces, strict=True)
        }

    def plain(self, method: SEAM) -> Tensor:
        """Give the value of everything but the cosine."""
        deep = self.mean(Role.HARMFUL, self.params, deep=True)
        return (
            method.retain_weight * self.mean(Role.REFUSAL, self.params)
            - method.ascent_weight * (1 + deep).log()
            + method.benign_weight * self.mean(Role.BENIGN, self.params)
        )

    def flat(self, value: Tensor) -> Tensor:
        found = torch.autograd.grad(value, list(self.params.values()))
        return torch.cat([g.flatten() for g in found])

    def by_differences(self, method: SEAM) -> tuple[float, Tensor]:
        """Give value and gradient, the cosine's by the paper's formula."""
        a = self.gradient(Role.HARMFUL, self.params)
        b = self.gradient(Role.BENIGN, self.params)
        c = (a @ b) / (a.norm() * b.norm())
        u, v, eps = a / a.norm(), b / b.norm(), method.eps
        a_after = self.gradient(Role.HARMFUL, self.moved(v - c * u, eps))
        b_after = self.gradient(Role.BENIGN, self.moved(u - c * v, eps))
        couple = ((a_after - a) / a.norm() + (b_after - b) / b.norm()) / eps
        value = self.plain(method)
        whole = value.item() + method.couple_weight * c.item()
        return whole, self.flat(value) + method.couple_weight * couple

    def by_autograd(self, method: SEAM) -> Tensor:
        """Give the objective's own gradient, second derivatives and all."""
        a = self.gradient(Role.HARMFUL, self.params, graph=True)
        b = self.gradient(Role.BENIGN, self.params, graph=True)
        c = (a @ b) / (a.norm() * b.norm())
        return self.flat(self.plain(method) + method.couple_weight * c)


def flat(found: ParamVector) -> Tensor:
    return torch.cat([g.double().flatten() for g in found.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("family", "bos"), [("qwen3", False), ("llama", True)])
def test_the_gradient_is_the_twins(family: str, bos: bool, dtype: torch.dtype) -> None:
    model = tiny.model(family, spread=0.3, num_hidden_layers=2).to(dtype)
    before = tiny.weights(model)
    method = LIGHT.with_(benign_weight=0.2)
    found, terms = method.gradient(model, step(bos=bos), None)
    assert tiny.same(tiny.weights(model), before)
    value, expected = Twin(model, bos).by_differences(method)
    assert total(terms) == pytest.approx(value, rel=2e-6)
    assert (flat(found) - expected).abs().max().item() <= 1e-5 * max(1.0, expected.norm().item())


def test_the_gradient_converges_to_autograds_of_the_objective() -> None:
    """Only the cosine is estimated: half the shift, half its error, so two tell the limit."""
    model = tiny.model("llama", spread=0.3, num_hidden_layers=2).double()
    exact = Twin(model).by_autograd(LIGHT)
    found = [
        flat(LIGHT.with_(eps=eps).gradient(model, step(), None)[0]) for eps in (0.02, 0.01, 0.005)
    ]
    errors = [(one - exact).norm().item() / exact.norm().item() for one in found]
    assert errors[0] < 0.2
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.1)
    limit = 2 * found[2] - found[1]
    assert (limit - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cuts", [2, 1])
def test_one_step_is_the_same_from_1_2_or_4_micro_batches(cuts: int, packed: bool) -> None:
    """The default shift and weights too: no mean, norm or cosine is taken of a part."""
    model = tiny.model("llama", spread=0.3)
    for method in (LIGHT, SEAM(), SEAM(benign_tokens="all", benign_weight=1.0)):
        with packed_passes(packed):
            whole, seen = method.gradient(model, step(), None)
            parts, again = method.gradient(model, step(cuts), None)
        size = max(1.0, whole.norm())
        for name, tensor in whole.items():
            assert (parts[name] - tensor).abs().max().item() <= 1e-6 * size, name
        assert total(again) == pytest.approx(total(seen), rel=1e-6)


def test_packed_passes_give_the_same() -> None:
    model = tiny.model(spread=0.3)
    plain, _ = LIGHT.gradient(model, step(), None)
    with packed_passes(True):
        packed, _ = LIGHT.gradient(model, step(), None)
    assert packed.add_(plain, -1.0).norm() < 1e-5 * plain.norm()


# ---- what holds whatever the numbers


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parallel_gradients_leave_the_benign_term_alone(sign: float) -> None:
    def never(_direction: Any) -> ParamVector:
        raise AssertionError("there is no direction to shift along")

    benign = ParamVector({"w": torch.tensor([3.0, 4.0])})
    harm = ParamVector({"w": sign * torch.tensor([1.5, 2.0])})
    found = cosine_gradient(harm, benign, never, never, 1e-3, weight=2.0, benign_weight=0.5)
    torch.testing.assert_close(found["w"], torch.tensor([1.5, 2.0]))


def test_rows_that_are_benign_and_harmful_alike_have_cosine_1_and_no_coupling() -> None:
    model = tiny.model("llama", spread=0.3).double()
    rows = step()
    rows[Role.BENIGN] = rows[Role.HARMFUL]
    found, terms = SEAM(ascent_weight=0, retain_weight=0, couple_weight=1.0).gradient(
        model, rows, None
    )
    assert float(terms["cosine"].sum) == pytest.approx(1.0)
    assert found.norm() < 1e-4


def moved(model: Any, method: SEAM, by: float) -> dict[Role, float]:
    """Step against the gradient and give each role's mean loss, and the cosine under no role."""
    model = tiny.copied(model)
    found, _ = method.gradient(model, step(), None)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.sub_(found[name], alpha=by / found.norm())
    measure = SEAM(ascent_weight=0, retain_weight=1.0, couple_weight=1e-6)
    _, terms = measure.gradient(model, step(), None)
    names = {"harm": Role.HARMFUL, "refusal": Role.REFUSAL, "cosine": Role.BENIGN}
    return {role: float(terms[n].sum) / terms[n].count for n, role in names.items()}


def test_each_term_moves_what_it_names() -> None:
    """Ascent raises the harmful loss, coupling lowers the cosine, retaining lowers refusals'."""
    model = tiny.model("llama", spread=0.3)
    still = moved(model, SEAM(), 0.0)
    off = {"ascent_weight": 0.0, "retain_weight": 0.0, "couple_weight": 0.0}
    rises = moved(model, SEAM(**off | {"ascent_weight": 1.0}), 0.05)
    coupled = moved(model, SEAM(**off | {"couple_weight": 1.0}), 0.05)
    kept = moved(model, SEAM(**off | {"retain_weight": 1.0}), 0.05)
    assert rises[Role.HARMFUL] > still[Role.HARMFUL] + 0.01
    assert coupled[Role.BENIGN] < still[Role.BENIGN] - 0.01
    assert kept[Role.REFUSAL] < still[Role.REFUSAL] - 0.01


def test_the_benign_term_is_the_benign_cross_entropys_gradient_with_coupling_or_without() -> None:
    model = tiny.model("llama", spread=0.3)
    alone, _ = SEAM(**SEAM.neutral, benign_weight=0.5).gradient(model, step(), None)
    plain, _ = SEAM(**SEAM.neutral).gradient(model, step(), None)
    both, _ = LIGHT.with_(benign_weight=0.5).gradient(model, step(), None)
    coupled, _ = LIGHT.gradient(model, step(), None)
    twin = Twin(model)
    expected = 0.5 * twin.gradient(Role.BENIGN, twin.params)
    for with_it, without in ((alone, plain), (both, coupled)):
        assert (flat(with_it) - flat(without) - expected).norm() < 1e-4 * expected.norm()


def test_the_terms_say_what_was_measured() -> None:
    _, terms = SEAM().gradient(tiny.model("llama", spread=0.3), step(), None)
    assert {name: term.weight for name, term in terms.items()} == {
        "harm": 0.0,
        "benign": 0.0,
        "cosine": 0.01,
        "refusal": 1.0,
        "depth": 0.0,
        "ascent": 1.0,
    }
    assert terms["depth"].count == 3 * terms["harm"].count
    assert terms["ascent"].sum < 0
    _, terms = SEAM(benign_tokens="all").gradient(tiny.model("llama"), step(), None)
    rows = step()[Role.BENIGN][0].rows
    assert terms["benign"].count == sum(len(row.ids) - 1 for row in rows)


# ---- bad input, presets, the diagnostic


def test_a_shift_lost_to_bf16_stops_the_run_and_leaves_the_weights() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    before = tiny.weights(model)
    with pytest.raises(TrainingError) as caught:
        SEAM().gradient(model, step(), None)
    said = str(caught.value)
    assert said.startswith("seam: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger step")
    assert tiny.same(tiny.weights(model), before)


def test_a_gradient_of_0_is_told() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.lm_head.weight.requires_grad_(False)
    with pytest.raises(TrainingError) as caught:
        SEAM().gradient(model, step(), None)
    assert str(caught.value) == "seam: the harmful gradient is 0; check the rows and the precision"


def test_rows_without_partners_or_benign_ones_are_told() -> None:
    rows = tiny.rows()
    with pytest.raises(DataError) as caught:
        SEAM().rows(Pool(rows[Role.REFUSAL] + rows[Role.BENIGN]), 0)
    assert str(caught.value) == (
        "pairs of roles refusal and harmful, side defender: some asked for, the pool has 0; "
        "give both responses for the same prompts"
    )
    with pytest.raises(DataError) as caught:
        SEAM(n_benign=7).rows(Pool([row for some in rows.values() for row in some]), 0)
    assert str(caught.value) == (
        "seam of role benign, side defender: 7 distinct rows asked for, the pool has 6; "
        "ask for at most 6"
    )


def test_it_reads_the_published_numbers() -> None:
    plain = SEAM()
    assert (plain.retain_weight, plain.couple_weight, plain.eps) == (1.0, 0.01, 1e-3)
    assert plain.loop == Loop(
        steps=1000, batch=8, lr=2e-5, schedule="cosine", warmup=100, clip=None
    )
    paper = registry.make("defence", {"seam": {"preset": "paper"}}, "test")
    assert paper == plain.with_(loop=plain.loop.with_(steps=500))
    released = registry.make("defence", {"seam": {"preset": "released"}}, "test")
    assert released == plain.with_(benign_tokens="all", lens="all")
    assert "lens" not in plain.key_fields()


def measured(model: Any, pool: Pool) -> dict[str, float]:
    with torch.no_grad():
        return SEAM().diagnostic(Run(model, tiny.encoder(), pool, 0), None)


def test_the_diagnostic_is_the_cosine_on_held_out_rows_of_any_model() -> None:
    model = tiny.model("llama", spread=0.3)
    model.model.norm.weight.requires_grad_(False)
    found = measured(model, tiny.pool(4))
    assert not model.model.norm.weight.requires_grad
    twin, held = Twin(model), tiny.rows(Side.DEFENDER_SELECTION, 4)
    encoder = tiny.encoder()
    twin.rows = {role: encoder.batch(rows).rows for role, rows in held.items()}
    a, b = (twin.gradient(role, twin.params) for role in (Role.HARMFUL, Role.BENIGN))
    assert found["gradient_cosine"] == pytest.approx(
        (a @ b / (a.norm() * b.norm())).item(), abs=1e-5
    )
    assert found["harmful_loss"] == pytest.approx(twin.mean(Role.HARMFUL, twin.params).item())
    assert SEAM.signal in found
    no_benign = [r for side in Side for r in tiny.rows(side)[Role.HARMFUL]]
    assert measured(model, Pool(no_benign)) == {}
