"""Padding, the cut into micro-batches and the order of rows change no loss and no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Defence, GradientDefence, LoRA, Loss, LossDefence
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.data.example import Example, Role
from holdfast.data.tokens import IGNORE, Encoder, Tokens
from holdfast.defences.booster import Booster
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT, SGTState
from holdfast.nn.adapter import lora
from holdfast.nn.vectors import ParamVector, total
from holdfast.testing import tiny

ROWS = 4
Cut = Sequence[dict[Role, Tokens]]
Answer = tuple[ParamVector, Loss]

METHODS: dict[str, Any] = {
    "refusal_sft": RefusalSFT(benign_weight=0.5),
    "sgt": SGT(alpha_align=1.0, alpha_repel=0.5),
    "sgt paper": SGT.model_validate({"preset": "paper"}),
    "sgt released": SGT.model_validate({"preset": "released"}),
    "booster": Booster(lam=2.0),
    "harmful_sft": HarmfulSFT(),
}
STAGE_1 = {
    "shared noise": SGT.model_validate({"cons": {"sigma": 0.3}}),
    "own noise": SGT.model_validate({"cons": {"sigma": 0.3, "noise": "per_row"}}),
}


def state_of(method: Any, family: str, encoder: Encoder) -> Any:
    if not isinstance(method, SGT):
        return None
    generator = torch.Generator().manual_seed(3)
    phi = 0.5 * torch.randn(1, 16, generator=generator)
    return SGTState(phi, tiny.model(family, seed=1).requires_grad_(False), encoder)


def step_of(method: Any, model: Any, state: Any) -> Callable[[Cut], Answer]:
    """Give what the loop gives the optimiser, as a function of the micro-batches."""
    params = nn.trainable(model)
    if isinstance(method, GradientDefence):
        return lambda parts: method.gradient(
            model, {role: [part[role] for part in parts] for role in parts[0]}, state
        )
    counts = None
    if isinstance(method, Defence):

        def counts(part: Any) -> Any:
            return method.counts(part, state)

    return lambda parts: nn.grad(params, lambda p: method.loss(model, p, state), parts, counts)


def cut(encoder: Encoder, rows: dict[Role, list[Example]], size: int) -> Cut:
    return [
        {role: encoder.batch(some[i : i + size]) for role, some in rows.items()}
        for i in range(0, ROWS, size)
    ]


def padded(tokens: Tokens, extra: int) -> Tokens:
    """Add columns of padding on the right."""

    def wide(values: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, extra), value=fill)

    return replace(
        tokens,
        ids=wide(tokens.ids, 7),
        mask=wide(tokens.mask, 0),
        labels=wide(tokens.labels, IGNORE),
    )


def agree(first: Answer, second: Answer) -> None:
    """Compare values to 1e-6 and gradients to 1e-6 of the larger of 1 and their norm."""
    assert total(second[1]) == pytest.approx(total(first[1]), rel=1e-6, abs=1e-6)
    for name, term in first[1].items():
        assert second[1][name].count == term.count
        mean = float(term.sum) / term.count
        assert float(second[1][name].sum) / term.count == pytest.approx(mean, rel=2e-6, abs=1e-6)
    size = max(1.0, first[0].norm())
    for name, tensor in first[0].items():
        assert (second[0][name] - tensor).abs().max().item() <= 1e-6 * size, name


def everything(encoder: Encoder, step: Callable[[Cut], Answer], roles: Sequence[Role]) -> None:
    rows = {role: some[:ROWS] for role, some in tiny.rows(n=ROWS).items() if role in roles}
    whole = step(cut(encoder, rows, ROWS))
    assert whole[0].norm() > 1e-3
    for size in (2, 1):
        agree(whole, step(cut(encoder, rows, size)))
    backwards = {role: some[::-1] for role, some in rows.items()}
    mixed = {role: [some[i] for i in (2, 0, 3, 1)] for role, some in rows.items()}
    agree(whole, step(cut(encoder, backwards, ROWS)))
    agree(whole, step(cut(encoder, mixed, 2)))
    agree(
        whole,
        step([{r: padded(t, 5) for r, t in part.items()} for part in cut(encoder, rows, ROWS)]),
    )


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_padding_split_and_order_change_nothing(name: str, family: str, bos: bool) -> None:
    method, encoder = METHODS[name], tiny.encoder(bos=bos)
    model = tiny.model(family)
    roles = [Role(role) for role in getattr(method, "roles", None) or ("harmful",)]
    assert getattr(method, "separable", True)
    everything(encoder, step_of(method, model, state_of(method, family, encoder)), roles)


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("name", STAGE_1)
def test_stage_1_of_sgt_too(name: str, family: str, bos: bool) -> None:
    method, encoder = STAGE_1[name], tiny.encoder(bos=bos)
    teacher = tiny.model(family).requires_grad_(False)
    phi = state_of(method, family, encoder).trigger.requires_grad_(True)
    everything(
        encoder,
        lambda parts: nn.grad(
            {"trigger": phi}, lambda p: method.stage1_loss(teacher, p, phi, 0, 3), parts
        ),
        [Role.REFUSAL],
    )


@pytest.mark.parametrize("name", ["refusal_sft", "sgt", "harmful_sft"])
def test_under_lora_too(name: str) -> None:
    method, encoder, model = METHODS[name], tiny.encoder(), tiny.model()
    state = state_of(method, "qwen3", encoder)
    roles = [Role(role) for role in getattr(method, "roles", None) or ("harmful",)]
    with lora(model, LoRA(rank=2), 0) as params:
        with torch.no_grad():
            for p in params.values():
                p.normal_(0.0, 0.05)
        everything(encoder, step_of(method, model, state), roles)


def test_counts_told_are_counts_measured() -> None:
    encoder, model = tiny.encoder(), tiny.model()
    for method in METHODS.values():
        if not isinstance(method, LossDefence):
            continue
        state = state_of(method, "qwen3", encoder)
        rows = {Role(role): tiny.rows(n=3)[Role(role)] for role in method.roles}
        part = {role: encoder.batch(some) for role, some in rows.items()}
        told = method.counts(part, state)
        assert told == {k: t.count for k, t in method.loss(model, part, state).items()}


def test_naive_averaging_of_micro_batches_would_differ() -> None:
    """Micro-batches of unlike token counts: the mean of their means is another number."""
    model, encoder = tiny.model(), tiny.encoder()
    step = step_of(METHODS["refusal_sft"], model, None)
    rows = {r: tiny.rows(n=ROWS)[r] for r in (Role.REFUSAL, Role.BENIGN)}
    parts = cut(encoder, rows, 1)
    naive = sum(total(step([part])[1]) for part in parts) / len(parts)
    assert abs(naive - total(step(parts)[1])) > 1e-4
