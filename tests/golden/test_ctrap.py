"""CTRAP against a float64 twin: first order, second order, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from holdfast.api import Loop, Run, registry
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.defences.ctrap import CTRAP, ctrap_gradient, through_step
from holdfast.defences.ctrap.collapse import constant_nll
from holdfast.errors import ConfigError, DataError, TrainingError
from holdfast.nn.passes import packed_passes
from holdfast.nn.vectors import ParamVector, total
from holdfast.testing import tiny

ROLES = (Role.REFUSAL, Role.HARMFUL, Role.BENIGN)
TOKEN = 70
LIGHT = CTRAP(lam=0.6, alpha=0.02)


def step(cuts: int = 4, bos: bool = False) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)
    return {
        role: [encoder.batch(rows[role][i : i + cuts]) for i in range(0, 4, cuts)] for role in ROLES
    }


def vector(*numbers: float) -> ParamVector:
    return ParamVector({"w": torch.tensor(numbers, dtype=torch.float64)})


# ---- the equations, by hand and in closed form


def test_the_gradient_worked_by_hand() -> None:
    """1 + 0.1 x 20 = 3 and 10 + 0.1 x (-5) = 9.5."""
    found = ctrap_gradient(vector(1, 10), vector(20, -5), lam=0.1)
    torch.testing.assert_close(found["w"], vector(3, 9.5)["w"])


@pytest.mark.parametrize("normalise", [False, True])
def test_the_way_through_the_step_worked_by_hand(normalise: bool) -> None:
    """g = 2 w at (3, 4), so H = 2 and |g| = 10; v = (1, 0), alpha = 0.25.

    v - 0.25 x 2 v = (0.5, 0). Normalised: v less its part along u = (0.6, 0.8) is (0.64, -0.48),
    times 0.25 / 10 x 2 = 0.05: (1 - 0.032, 0.024).
    """

    def harm_at(d: Mapping[str, Tensor]) -> ParamVector:
        assert d["w"].norm().item() == pytest.approx(1.0)
        return ParamVector({"w": 2 * (vector(3, 4)["w"] + 0.5 * d["w"])})

    found = through_step(vector(1, 0), vector(6, 8), harm_at, 0.25, 0.5, normalise=normalise)
    expected = vector(0.968, 0.024) if normalise else vector(0.5, 0)
    torch.testing.assert_close(found["w"], expected["w"])


def test_a_direction_that_the_normalised_step_does_not_turn_passes_as_it_is() -> None:
    """v along g: the step's length is fixed, so the Jacobian gives 0, and no pass is made."""
    found = through_step(vector(3, 4), vector(6, 8), pytest.fail, 0.25, 0.5, normalise=True)
    torch.testing.assert_close(found["w"], vector(3, 4)["w"])


# ---- the whole method against a twin


class Twin:
    """The objective from Hugging Face's own logits, a row at a time, in float64."""

    def __init__(self, model: Any, bos: bool = False) -> None:
        self.model = tiny.copied(model).double()
        self.model.set_attn_implementation("eager")  # the only one with second derivatives
        self.params = {
            name: p.detach().clone().requires_grad_(True)
            for name, p in self.model.named_parameters()
        }
        self.rows = {role: parts[0].rows for role, parts in step(bos=bos).items()}

    def mean(self, role: Role, params: dict[str, Tensor], token: int | None = None) -> Tensor:
        """CE over all response tokens; of one token in their place if it is given."""
        losses = []
        for row in self.rows[role]:
            arguments = (torch.tensor([row.ids]),)
            out = functional_call(self.model, params, arguments, {"use_cache": False})
            chance = out.logits[0].double().log_softmax(-1)
            for i in range(row.start, len(row.ids)):
                losses.append(-chance[i - 1, row.ids[i] if token is None else token])
        return sum(losses) / len(losses)

    def stepped(self, method: CTRAP, graph: bool) -> dict[str, Tensor]:
        """Give w - alpha g (or g / |g|), through which a gradient flows only with `graph`."""
        value = self.mean(Role.HARMFUL, self.params)
        found = torch.autograd.grad(value, list(self.params.values()), create_graph=graph)
        length = torch.stack([g.square().sum() for g in found]).sum().sqrt()
        by = method.alpha / length if method.normalise else method.alpha
        return {n: p - by * g for (n, p), g in zip(self.params.items(), found, strict=True)}

    def objective(self, method: CTRAP, graph: bool = False) -> tuple[float, Tensor]:
        """Give value and flat gradient, the inner gradient a constant unless `graph`."""
        after = self.stepped(method, graph)
        value = (
            self.mean(Role.REFUSAL, self.params)
            + method.lam * self.mean(Role.BENIGN, after, TOKEN)
            + method.benign_weight * self.mean(Role.BENIGN, self.params)
        )
        found = torch.autograd.grad(value, list(self.params.values()))
        return value.item(), torch.cat([g.flatten() for g in found])


def flat(found: ParamVector) -> Tensor:
    return torch.cat([g.double().flatten() for g in found.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("family", "bos"), [("qwen3", False), ("llama", True), ("mistral", False)])
def test_the_gradient_is_autograds_of_the_objective(
    family: str, bos: bool, dtype: torch.dtype
) -> None:
    model = tiny.model(family, spread=0.3, num_hidden_layers=2).to(dtype)
    before = tiny.weights(model)
    for method in (LIGHT, LIGHT.with_(normalise=True, alpha=0.3, benign_weight=0.5)):
        found, terms = method.gradient(model, step(bos=bos), TOKEN)
        assert tiny.same(tiny.weights(model), before)
        value, expected = Twin(model, bos).objective(method)
        assert total(terms) == pytest.approx(value, rel=2e-6)
        size = max(1.0, expected.norm().item())
        assert (flat(found) - expected).abs().max().item() <= 2e-6 * size


@pytest.mark.parametrize("normalise", [False, True])
def test_the_second_order_converges_to_autograd_through_the_step(normalise: bool) -> None:
    """Half the shift, half the error; first order is further off than any of them."""
    model = tiny.model("llama", spread=0.3, num_hidden_layers=2).double()
    method = LIGHT.with_(order="second", normalise=normalise, alpha=0.3 if normalise else 0.02)
    _, exact = Twin(model).objective(method, graph=True)
    first, _ = method.with_(order="first").gradient(model, step(), TOKEN)
    found = [
        flat(method.with_(eps=eps).gradient(model, step(), TOKEN)[0]) for eps in (0.04, 0.02, 0.01)
    ]
    errors = [(one - exact).norm().item() for one in found]
    assert errors[0] < 0.5 * (flat(first) - exact).norm().item()
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.1)
    limit = 2 * found[2] - found[1]
    assert (limit - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cuts", [2, 1])
def test_one_step_is_the_same_from_1_2_or_4_micro_batches(cuts: int, packed: bool) -> None:
    """No mean and no norm is taken of a part."""
    model = tiny.model("llama", spread=0.3)
    for method in (LIGHT, LIGHT.with_(normalise=True, benign_weight=1.0)):
        with packed_passes(packed):
            whole, seen = method.gradient(model, step(), TOKEN)
            parts, again = method.gradient(model, step(cuts), TOKEN)
        size = max(1.0, whole.norm())
        for name, tensor in whole.items():
            assert (parts[name] - tensor).abs().max().item() <= 1e-6 * size, name
        assert total(again) == pytest.approx(total(seen), rel=1e-6)


# ---- what holds whatever the numbers


def test_without_weight_neither_harmful_nor_benign_rows_are_read() -> None:
    model = tiny.model("llama", spread=0.3)
    rows = step()
    found, terms = CTRAP(lam=0.0).gradient(model, {Role.REFUSAL: rows[Role.REFUSAL]}, TOKEN)
    assert list(terms) == ["align"]

    def slopes(of: Any) -> Sequence[Tensor]:
        twin = Twin(of)
        return torch.autograd.grad(twin.mean(Role.REFUSAL, twin.params), list(twin.params.values()))

    tiny.hold(found.values(), slopes, model)


def test_the_collapse_loss_asks_for_the_token_and_never_for_the_answer() -> None:
    """Of two answers of one length, only what is read counts: the last token is read by none."""
    model = tiny.model("llama", spread=0.3)
    tokens = step()[Role.BENIGN][0]
    other = tokens.labels.clone()
    other[other != -100] = 5
    changed = Tokens(tokens.ids, tokens.mask, other, tokens.rows)
    one, n = constant_nll(model, tokens, TOKEN)
    assert constant_nll(model, changed, TOKEN) == (one, n)
    assert constant_nll(model, tokens, TOKEN + 1)[0] != one


def test_a_step_down_the_trap_lowers_the_collapse_loss_behind_the_harmful_step() -> None:
    model = tiny.model("llama", spread=0.3)
    method = CTRAP(lam=1.0, alpha=0.02)
    found, before = method.gradient(model, step(), TOKEN)
    align, _ = CTRAP(lam=0.0).gradient(model, step(), TOKEN)
    found.add_(align, -1.0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.sub_(found[name], alpha=0.1 / found.norm())
    _, after = method.gradient(model, step(), TOKEN)
    assert total({"c": after["collapse"]}) < total({"c": before["collapse"]}) - 0.01


def test_the_harmful_step_matters_and_only_to_the_trap() -> None:
    """With a step of almost nothing, the trap is plain collapse of the weights as they are."""
    model = tiny.model("llama", spread=0.3).double()
    near, terms = CTRAP(lam=1.0, alpha=1e-9).gradient(model, step(), TOKEN)
    far, _ = CTRAP(lam=1.0, alpha=0.05).gradient(model, step(), TOKEN)
    twin = Twin(model)
    value = twin.mean(Role.BENIGN, twin.params, TOKEN)
    assert total({"c": terms["collapse"]}) == pytest.approx(value.item(), rel=1e-5)
    assert far.add_(near, -1.0).norm() > 0.05 * near.norm()


def test_the_terms_say_what_was_measured() -> None:
    method = CTRAP(benign_weight=0.5)
    _, terms = method.gradient(tiny.model("llama", spread=0.3), step(), TOKEN)
    assert {name: term.weight for name, term in terms.items()} == {
        "harm": 0.0,
        "collapse": 0.1,
        "align": 1.0,
        "benign": 0.5,
    }
    assert terms["collapse"].count == terms["benign"].count


# ---- bad input, the token, the diagnostic


def test_a_step_lost_to_bf16_stops_the_run_and_leaves_the_weights() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    before = tiny.weights(model)
    with pytest.raises(TrainingError) as caught:
        CTRAP(alpha=1e-5).gradient(model, step(), TOKEN)
    said = str(caught.value)
    assert said.startswith("ctrap: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger step")
    assert tiny.same(tiny.weights(model), before)


def test_a_harmful_gradient_of_0_is_told() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.lm_head.weight.requires_grad_(False)
    with pytest.raises(TrainingError) as caught:
        CTRAP().gradient(model, step(), TOKEN)
    assert str(caught.value) == (
        "ctrap: the harmful gradient is 0; check the harmful rows and the precision"
    )


def test_rows_without_partners_or_benign_ones_are_told() -> None:
    rows = tiny.rows()
    with pytest.raises(DataError) as caught:
        CTRAP().rows(Pool(rows[Role.REFUSAL] + rows[Role.BENIGN]), 0)
    assert str(caught.value) == (
        "pairs of roles refusal and harmful, side defender: some asked for, the pool has 0; "
        "give both responses for the same prompts"
    )
    with pytest.raises(DataError, match=r"^ctrap of role benign, side defender: 7 distinct rows"):
        CTRAP(n_benign=7).rows(Pool([row for some in rows.values() for row in some]), 0)


def test_the_token_is_the_one_an_answer_of_the_word_begins_with() -> None:
    encoder = tiny.encoder()
    logged: dict[str, Any] = {}
    run = Run(tiny.model(), encoder, tiny.pool(), 0, log=logged.update)
    token = CTRAP(word="take two").setup(run)
    row = encoder.encode("how?", "take two")
    assert token == row.ids[row.start]
    assert logged == {
        "collapse_token": token,
        "collapse_text": encoder.tokenizer.decode([token]),
    }


def test_a_word_that_ends_the_answer_is_refused() -> None:
    encoder = SimpleNamespace(
        encode=lambda _prompt, _word: SimpleNamespace(ids=(3, 7), start=1),
        ends=(7,),
        pad_id=0,
        tokenizer=SimpleNamespace(unk_token_id=None),
    )
    with pytest.raises(ConfigError) as caught:
        CTRAP(word="stop").token(encoder, "ctrap")  # ty: ignore[invalid-argument-type]
    assert str(caught.value) == "ctrap.word: 'stop' is no word of this tokenizer; choose another"


def test_a_word_that_spells_the_end_token_is_a_word() -> None:
    encoder = tiny.encoder()
    assert CTRAP(word="<eos>").token(encoder, "ctrap") not in encoder.ends


def test_it_reads_the_reported_numbers() -> None:
    plain = CTRAP()
    assert (plain.lam, plain.alpha, plain.order, plain.normalise) == (0.1, 0.1, "first", False)
    assert plain.loop == Loop(steps=10_000, batch=10, lr=5e-4, weight_decay=0.1, decay_norms=False)
    assert registry.make("defence", {"ctrap": {"preset": "paper"}}, "test") == CTRAP(order="second")


def test_the_diagnostic_steps_once_on_held_out_rows_of_any_model() -> None:
    model = tiny.model("llama", spread=0.3)
    model.model.norm.weight.requires_grad_(False)
    method, before = CTRAP(alpha=0.02), tiny.weights(model)
    encoder, held = tiny.encoder(), tiny.rows(Side.DEFENDER_SELECTION, 4)
    with torch.no_grad():
        found = method.diagnostic(Run(model, encoder, tiny.pool(4), 0), None)
    assert not model.model.norm.weight.requires_grad
    assert tiny.same(tiny.weights(model), before)
    twin, token = Twin(model), method.token(encoder, "ctrap")
    twin.rows = {role: encoder.batch(rows).rows for role, rows in held.items()}
    after = twin.stepped(method, graph=False)
    expected = {
        "harm_loss": twin.mean(Role.HARMFUL, twin.params).item(),
        "collapse_before": twin.mean(Role.BENIGN, twin.params, token).item(),
        "collapse_after": twin.mean(Role.BENIGN, after, token).item(),
    }
    expected["harm_loss_drop"] = expected["harm_loss"] - twin.mean(Role.HARMFUL, after).item()
    expected["collapse_drop"] = expected["collapse_before"] - expected["collapse_after"]
    assert found == pytest.approx(expected, abs=1e-5)
    assert CTRAP.signal in found
    run = Run(model, encoder, Pool([r for s in Side for r in tiny.rows(s)[Role.BENIGN]]), 0)
    assert method.diagnostic(run, None) == {}
