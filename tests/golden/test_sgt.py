"""SGT's equations against float64 twins written from the paper's maths, and against hand-work.

A twin runs every row alone and unpadded through plain Hugging Face calls, so it shares neither
batching, padding, insertion nor selection with what it checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.data.example import Role
from holdfast.data.tokens import Encoder, Row, Tokens
from holdfast.defences.sgt import (
    SGT,
    SGTState,
    alignment,
    consistency,
    guided,
    repulsion,
)
from holdfast.defences.sgt.diagnostics import select_positions, squared_distance
from holdfast.nn.vectors import total
from holdfast.testing import tiny

LAYERS, WIDTH = 3, 16


# ---- the twins: plain loops over rows, layers, tokens, in float64


def twin_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) of two logit vectors [V]."""
    p = torch.exp(p_logits) / torch.exp(p_logits).sum()
    q = torch.exp(q_logits) / torch.exp(q_logits).sum()
    return (p * (torch.log(p) - torch.log(q))).sum()


def twin_distance(
    student: Sequence[Tensor], teacher: Sequence[Tensor], positions: Sequence[int], **how: Any
) -> list[Tensor]:
    """Each layer's ||f_s - f_t||^2 of one row: [T, H] tensors, reduced over H, then tokens."""
    result = []
    for s, t in zip(student, teacher, strict=True):
        each = []
        for i in positions:
            squares = (s[i] - t[i]) ** 2
            each.append(squares.sum() / (len(squares) if how["hidden"] == "mean" else 1))
        value = sum(each) / (len(each) if how["tokens"] == "mean" else 1)
        if how.get("relative"):
            value = value / torch.stack([t[i] for i in positions]).pow(2).mean()
        result.append(value)
    return result


def twin_repel(distances: Sequence[Tensor], eps: float, aggregate: str) -> Tensor:
    """Eq. 3: log(1 + 1 / (d + eps)) of the layers' mean, or each layer's, averaged."""
    if aggregate == "log_of_mean":
        return torch.log(1 + 1 / (sum(distances) / len(distances) + eps))
    return sum(torch.log(1 + 1 / (d + eps)) for d in distances) / len(distances)


def twin_positions(row: Row, which: str) -> list[int]:
    """Which tokens are matched, by meaning; BOS is no word of anyone's."""
    begin, end = int(row.bos), len(row.ids)
    return {
        "generation": list(range(row.start - 1, end)),
        "response": list(range(row.start, end)),
        "prompt": list(range(begin, row.start)),
        "all": list(range(begin, end)),
        "last_prompt": [row.start - 1],
    }[which]


def twin_states(model: Any, row: Row, trigger: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """One row alone: L states [T, H] and logits [T, V] in float64, the trigger's column cut."""
    embeds = model.get_input_embeddings()(torch.tensor(row.ids))
    keep = list(range(len(row.ids)))
    if trigger is not None:
        at = row.content[0]
        embeds = torch.cat([embeds[:at], trigger, embeds[at:]])
        keep = [i if i < at else i + len(trigger) for i in keep]
    out = model(inputs_embeds=embeds[None], output_hidden_states=True, use_cache=False)
    layers = [h[0, keep].double() for h in out.hidden_states[1:]]
    return layers, out.logits[0, keep].double()


def twin_ce(logits: Tensor, row: Row) -> list[Tensor]:
    """-log p of each response token from the logits one position before it."""
    return [
        -torch.log_softmax(logits[i - 1], 0)[row.ids[i]] for i in range(row.start, len(row.ids))
    ]


# ---- the pieces, on numbers


def test_kl_worked_by_hand() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln(2/3) = ln(2 / sqrt 3)."""
    clean, noisy = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]).log()
    assert float(consistency(clean, noisy)) == pytest.approx(math.log(2 / math.sqrt(3)), rel=1e-6)
    assert float(consistency(noisy, noisy)) == 0.0


def test_kl_and_its_gradient_equal_the_twin() -> None:
    clean = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    noisy = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    ours = consistency(clean, noisy)
    theirs = torch.stack([twin_kl(c.detach(), n) for c, n in zip(clean, noisy, strict=True)])
    torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-6)
    weights = torch.randn(4)
    found = torch.autograd.grad((ours * weights).sum(), [clean, noisy], allow_unused=True)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), noisy)
    assert found[0] is None  # the clean side is a constant
    torch.testing.assert_close(found[1], expected, atol=1e-6, rtol=1e-6)
    both = consistency(clean, noisy, "both")
    theirs = torch.stack([twin_kl(c, n) for c, n in zip(clean, noisy, strict=True)])
    for a, b in zip(
        torch.autograd.grad((both * weights).sum(), [clean, noisy]),
        torch.autograd.grad((theirs * weights).sum(), [clean, noisy]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def by_hand() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Two layers, two rows, three tokens, width 2; tokens 1, 2 of row 0 and 0 of row 1 count."""
    teacher = [torch.zeros(2, 3, 2), torch.ones(2, 3, 2)]
    student = [torch.zeros(2, 3, 2), torch.ones(2, 3, 2)]
    student[0][0, 1] = torch.tensor([1.0, 3.0])  # squares 1 + 9 = 10
    student[0][0, 0] = 77.0  # not selected
    student[1][0, 2] = torch.tensor([3.0, 1.0])  # squares 4 + 0 = 4
    student[1][1, 0] = torch.tensor([1.0, 5.0])  # squares 0 + 16 = 16
    select = torch.tensor([[False, True, True], [True, False, False]])
    return student, teacher, select


@pytest.mark.parametrize(
    ("hidden", "tokens", "expected"),
    [
        ("mean", "mean", [[2.5, 0.0], [1.0, 8.0]]),
        ("sum", "mean", [[5.0, 0.0], [2.0, 16.0]]),
        ("mean", "sum", [[5.0, 0.0], [2.0, 8.0]]),
        ("sum", "sum", [[10.0, 0.0], [4.0, 16.0]]),
    ],
)
def test_distances_worked_by_hand(hidden: Any, tokens: Any, expected: list[list[float]]) -> None:
    found = squared_distance(*by_hand(), over_hidden=hidden, over_tokens=tokens)
    assert found.tolist() == expected


def test_eq_2_and_3_worked_by_hand() -> None:
    distance = squared_distance(*by_hand())
    assert alignment(distance).tolist() == [1.75, 4.0]
    of_mean = repulsion(distance, 0.25, "log_of_mean").tolist()
    assert of_mean == pytest.approx([math.log(1.5), math.log(1 + 1 / 4.25)], rel=1e-6)
    of_logs = repulsion(distance, 0.25, "mean_of_logs").tolist()
    row0 = (math.log(1 + 1 / 2.75) + math.log(1 + 1 / 1.25)) / 2
    row1 = (math.log(1 + 1 / 0.25) + math.log(1 + 1 / 8.25)) / 2
    assert of_logs == pytest.approx([row0, row1], rel=1e-6)


def test_relative_distances_are_of_the_teachers_own_size() -> None:
    student, teacher, select = by_hand()
    found = squared_distance(student[1:], teacher[1:], select, relative=True)
    assert found.tolist() == [[1.0, 8.0]]  # the teacher's mean square is 1
    twice = squared_distance(
        [2 * h for h in student[1:]], [2 * h for h in teacher[1:]], select, relative=True
    )
    torch.testing.assert_close(twice, found)


def test_the_teachers_side_of_a_distance_is_a_constant() -> None:
    student, teacher, select = by_hand()
    for tensor in (*student, *teacher):
        tensor.requires_grad_(True)
    for relative in (False, True):
        value = squared_distance(student, teacher, select, relative=relative).sum()
        found = torch.autograd.grad(value, [*student, *teacher], allow_unused=True)
        assert [one is None for one in found] == [False, False, True, True]


def test_a_guided_target_worked_by_hand() -> None:
    plain, triggered = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert guided(plain, triggered, 1.5).tolist() == [4.0, -4.0]
    assert guided(plain, triggered, 1.0) is triggered


def test_a_row_without_matched_tokens_is_at_distance_0() -> None:
    student, teacher, select = by_hand()
    select[1] = False
    assert squared_distance(student, teacher, select)[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("hidden", "tokens", "relative"),
    [
        ("mean", "mean", False),
        ("sum", "mean", False),
        ("mean", "sum", False),
        ("sum", "sum", False),
        ("mean", "mean", True),
    ],
)
def test_eq_2_and_3_and_their_gradients_equal_the_twins(
    hidden: Any, tokens: Any, relative: bool
) -> None:
    student = [torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teacher = [torch.randn(3, 5, 4, dtype=torch.float64) for _ in range(2)]
    chosen = [[1, 3], [0, 1, 2, 4], [2]]
    select = torch.zeros(3, 5, dtype=torch.bool)
    for row, positions in enumerate(chosen):
        select[row, positions] = True
    ours = squared_distance(
        student, teacher, select, over_hidden=hidden, over_tokens=tokens, relative=relative
    )
    theirs = [
        twin_distance(
            [s[row] for s in student],
            [t[row] for t in teacher],
            positions,
            hidden=hidden,
            tokens=tokens,
            relative=relative,
        )
        for row, positions in enumerate(chosen)
    ]
    for name, mine, twin in (
        ("Eq. 2", alignment(ours), [sum(d) / len(d) for d in theirs]),
        *(
            (
                f"Eq. 3, {how}",
                repulsion(ours, 1e-3, how),
                [twin_repel(d, 1e-3, how) for d in theirs],
            )
            for how in ("log_of_mean", "mean_of_logs")
        ),
    ):
        expected = torch.stack(twin)
        torch.testing.assert_close(mine.double(), expected, atol=1e-6, rtol=1e-6, msg=name)
        found = torch.autograd.grad(mine.sum(), student, retain_graph=True)
        wanted = torch.autograd.grad(expected.sum(), student, retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("aggregate", ["log_of_mean", "mean_of_logs"])
def test_repulsion_falls_with_distance_and_is_finite_at_0(aggregate: Any) -> None:
    distances = torch.tensor([[0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0, 1e6]])
    values = repulsion(distances, 1e-3, aggregate)
    assert values[0].item() == pytest.approx(math.log(1 + 1 / 1e-3), rel=1e-6)
    assert (values.diff() < 0).all()
    assert values[-1].item() == pytest.approx(1e-6, rel=1e-3)


# ---- whole losses, on models


def setting(family: str, bos: bool) -> tuple[Any, Any, Tokens, Tokens, Encoder]:
    """Give student, teacher and two batches of rows of unlike lengths."""
    teacher = tiny.model(family, spread=0.3).requires_grad_(False)
    student = tiny.model(family, spread=0.3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for p in student.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    encoder = tiny.encoder(bos=bos)
    rows = tiny.rows(n=3)
    return (
        student,
        teacher,
        encoder.batch(rows[Role.REFUSAL]),
        encoder.batch(rows[Role.BENIGN]),
        encoder,
    )


def compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare gradients to 1e-6 of the larger of 1 and their norm."""
    size = max(1.0, float(sum(e.double().square().sum() for e in expected)) ** 0.5)
    for a, b in zip(found, expected, strict=True):
        assert float((a.double() - b.double()).abs().max()) <= 1e-6 * size


def phi(k: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return 0.5 * torch.randn(k, WIDTH, generator=generator)


CASES = [("qwen3", False), ("llama", True), ("mistral", True)]


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    "cons",
    [
        {"sigma": 0.3, "sides": "both"},
        {"weight": 0.0},
        {"sigma": 0.3},
        {"sigma": 0.3, "samples": 3, "weight": 0.5, "noise": "per_row"},
        {"sigma": 0.3, "sigma_mode": "relative"},
    ],
)
@pytest.mark.parametrize(("family", "bos"), CASES)
@pytest.mark.parametrize("k", [1, 2])
def test_eq_1_and_its_gradient_by_the_trigger_equal_the_twin(
    family: str,
    bos: bool,
    cons: dict[str, Any],
    reduce: str,
    k: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, teacher, harmful, _, _ = setting(family, bos)
    fields = {"trigger": {"length": k}, "cons": cons, "stage1_reduce": reduce}
    method = SGT.model_validate(fields)
    used: list[Tensor] = []
    inner = nn.forward

    def spy(*arguments: Any, **options: Any) -> Any:
        used.append(options["trigger"].detach().clone())
        return inner(*arguments, **options)

    monkeypatch.setattr(nn, "forward", spy)
    trigger = phi(k).requires_grad_(True)
    batch = {Role.REFUSAL: harmful}
    found, terms = nn.grad(
        {"trigger": trigger}, lambda part: method.stage1_loss(teacher, part, trigger, 5, 7), [batch]
    )
    samples = method.cons.samples if method.cons.weight else 0
    drawn = torch.cat([one.expand(-1, k, WIDTH) for one in used]) - trigger.detach()
    rows = len(harmful)
    noise = drawn.view(1 + samples, rows, k, WIDTH)
    assert not noise[0].any()

    twin = trigger.detach().clone().requires_grad_(True)
    task: list[Tensor] = []
    apart: list[Tensor] = []
    for number, row in enumerate(harmful.rows):
        clean = twin_states(teacher, row, twin)[1]
        task += twin_ce(clean, row)
        for sample in range(samples):
            noisy = twin_states(teacher, row, twin + noise[1 + sample, number])[1]
            for i in range(row.start - 1, len(row.ids) - 1):
                side = clean[i] if method.cons.sides == "both" else clean[i].detach()
                apart.append(twin_kl(side, noisy[i]))
    count = len(task) if reduce == "mean" else rows
    value = sum(task) / count
    if samples:
        value = value + method.cons.weight * sum(apart) / (count * samples)
    (expected,) = torch.autograd.grad(value, twin)
    assert total(terms) == pytest.approx(value.item(), rel=1e-6)
    compare([found["trigger"]], [expected])


def noise_of(method: SGT, monkeypatch: pytest.MonkeyPatch, step: int = 0) -> Tensor:
    """Give the noise that one step of stage 1 adds, [samples, rows, K, H]."""
    _, teacher, harmful, _, _ = setting("qwen3", False)
    used: list[Tensor] = []
    inner = nn.forward

    def spy(*arguments: Any, **options: Any) -> Any:
        used.append(options["trigger"])
        return inner(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(nn, "forward", spy)
        method.stage1_loss(teacher, {Role.REFUSAL: harmful}, phi(), 5, step)
    k, rows = method.cons.samples, len(harmful)
    return (torch.cat(used) - phi()).view(1 + k, rows, 1, WIDTH)[1:]


@pytest.mark.usefixtures("passes")
def test_the_noise_has_the_size_and_the_sharing_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = noise_of(SGT.model_validate({"cons": {"samples": 50, "sigma": 0.2}}), monkeypatch)
    assert torch.allclose(shared[:, 0], shared[:, 1])
    assert not torch.allclose(shared[0], shared[1])
    assert float(shared.std()) == pytest.approx(0.2, rel=0.1)
    own = {"samples": 50, "sigma": 0.2, "noise": "per_row"}
    apart = noise_of(SGT.model_validate({"cons": own}), monkeypatch)
    assert not torch.allclose(apart[:, 0], apart[:, 1])
    assert float(apart.std()) == pytest.approx(0.2, rel=0.1)
    relative = {"samples": 50, "sigma": 0.2, "sigma_mode": "relative"}
    scaled = noise_of(SGT.model_validate({"cons": relative}), monkeypatch)
    typical = 0.2 * float(phi().norm()) / math.sqrt(WIDTH)
    assert float(scaled.std()) == pytest.approx(typical, rel=0.1)
    fresh = noise_of(SGT.model_validate({"cons": {"samples": 50}}), monkeypatch, step=1)
    assert not torch.allclose(
        fresh, noise_of(SGT.model_validate({"cons": {"samples": 50}}), monkeypatch)
    )


@pytest.mark.usefixtures("passes")
def test_consistency_is_0_without_noise() -> None:
    _, teacher, harmful, _, _ = setting("qwen3", False)
    method = SGT.model_validate({"cons": {"sigma": 0.0}})
    terms = method.stage1_loss(teacher, {Role.REFUSAL: harmful}, phi(), 0, 0)
    assert abs(float(terms["consistency"].sum)) <= 1e-6
    assert terms["consistency"].count == 2 * terms["refusal"].count


def twin_shift(
    distances: list[Tensor], plain: list[Tensor], moved: list[Tensor], where: list[int]
) -> list[Tensor]:
    """Each layer's distance over the mean square of the shift, at least 1 % of the length."""
    found = []
    for distance, b, t in zip(distances, plain, moved, strict=True):
        far = sum(float(((t[i] - b[i]) ** 2).mean()) for i in where) / len(where)
        size = sum(float((t[i] ** 2).mean()) for i in where) / len(where)
        found.append(distance / max(far, 1e-4 * size, 1e-12))
    return found


def twin_eq_4(
    student: Any, teacher: Any, harmful: Tokens, benign: Tokens, trigger: Tensor, **how: Any
) -> Tensor:
    """alpha_align L_align + L_task + alpha_repel L_repel, rows one by one."""
    aligned, task, repelled = [], [], []
    for row in harmful.rows:
        s, _ = twin_states(student, row)
        t, _ = twin_states(teacher, row, trigger)
        b, _ = twin_states(teacher, row)
        times = how.get("guidance", 1.0)
        t = [plain + times * (moved - plain) for plain, moved in zip(b, t, strict=True)]
        where = twin_positions(row, how["align"])
        distances = twin_distance(s, t, where, **how)
        if how.get("shift"):
            distances = twin_shift(distances, b, t, where)
        aligned.append(sum(distances) / len(distances))
    for row in benign.rows:
        s, logits = twin_states(student, row)
        t, _ = twin_states(teacher, row, trigger)
        where = twin_positions(row, how["repel"])
        distances = twin_distance(s, t, where, **how)
        if how.get("shift"):
            distances = twin_shift(distances, twin_states(teacher, row)[0], t, where)
        repelled.append(twin_repel(distances, 1e-3, how["aggregate"]))
        task.append(twin_ce(logits, row))
    if how["task"] == "mean":
        ce = sum(sum(some) for some in task) / sum(len(some) for some in task)
    else:
        ce = sum(sum(some) for some in task) / len(task)
    return (
        how["alphas"][0] * sum(aligned) / len(aligned)
        + ce
        + how["alphas"][1] * sum(repelled) / len(repelled)
    )


ABSOLUTE = {
    "align": "generation",
    "repel": "generation",
    "hidden": "mean",
    "tokens": "mean",
    "aggregate": "log_of_mean",
    "task": "mean",
    "alphas": (0.01, 0.01),
}
PAPER = ABSOLUTE | {"align": "prompt", "repel": "prompt", "hidden": "sum", "task": "sum"}
RELEASED = ABSOLUTE | {
    "align": "response",
    "repel": "response",
    "aggregate": "mean_of_logs",
    "alphas": (1.0, 1.0),
}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clean": ({}, ABSOLUTE | {"shift": True, "alphas": (1.0, 0.1)}),
    "clean, further": (
        {"align": {"guidance": 1.75, "positions": "all"}},
        ABSOLUTE | {"shift": True, "alphas": (1.0, 0.1), "guidance": 1.75, "align": "all"},
    ),
    "absolute": ({"preset": "absolute"}, ABSOLUTE),
    "paper": ({"preset": "paper"}, PAPER),
    "released": ({"preset": "released"}, RELEASED),
    "strong": (
        {"preset": "absolute", "alpha_align": 1.0, "alpha_repel": 0.5, "trigger": {"length": 2}},
        ABSOLUTE | {"alphas": (1.0, 0.5)},
    ),
    "sums": (
        {
            "preset": "absolute",
            "alpha_align": 0.1,
            "align": {"positions": "all", "over_tokens": "sum"},
            "repel": {"positions": "last_prompt"},
        },
        ABSOLUTE | {"align": "all", "repel": "last_prompt", "tokens": "sum", "alphas": (0.1, 0.01)},
    ),
    "relative": (
        {"preset": "absolute", "alpha_align": 1.0, "align": {"relative": True}},
        ABSOLUTE | {"relative": True, "alphas": (1.0, 0.01)},
    ),
    "guided": (
        {"preset": "absolute", "alpha_align": 0.5, "align": {"guidance": 1.75}},
        ABSOLUTE | {"guidance": 1.75, "alphas": (0.5, 0.01)},
    ),
}


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("family", "bos"), CASES)
def test_eq_4_and_its_gradient_by_the_weights_equal_the_twin(
    family: str, bos: bool, name: str
) -> None:
    student, teacher, harmful, benign, encoder = setting(family, bos)
    given, how = SETTINGS[name]
    method = SGT.model_validate(given)
    trigger = phi(method.trigger.length)
    state = SGTState(trigger, teacher, encoder)
    batch = {Role.REFUSAL: harmful, Role.BENIGN: benign}
    params = nn.trainable(student)
    found, terms = nn.grad(params, lambda part: method.loss(student, part, state), [batch])
    if method.teacher_embeddings == "student":
        teacher = tiny.copied(teacher)
        embeddings = teacher.get_input_embeddings()
        embeddings.weight = torch.nn.Parameter(student.get_input_embeddings().weight.detach())
    value = twin_eq_4(student, teacher, harmful, benign, trigger, **how)
    expected = torch.autograd.grad(value, list(params.values()), allow_unused=True)
    assert total(terms) == pytest.approx(value.item(), rel=1e-6)
    assert all(e is not None for e in expected)
    compare(list(found.values()), [e for e in expected if e is not None])


@pytest.mark.usefixtures("passes")
def test_only_the_asked_for_layers_are_matched() -> None:
    student, teacher, harmful, benign, encoder = setting("qwen3", False)
    batch = {Role.REFUSAL: harmful, Role.BENIGN: benign}
    state = SGTState(phi(), teacher, encoder)
    by_layer = []
    for first in range(LAYERS):
        layers = [first / LAYERS, (first + 1) / LAYERS]
        method = SGT.model_validate({"preset": "absolute", "align": {"layers": layers}})
        terms = method.loss(student, batch, state)
        by_layer.append(terms["align"].sum.item())
    whole = SGT.model_validate({"preset": "absolute"}).loss(student, batch, state)
    whole = whole["align"].sum.item()
    assert sum(by_layer) / LAYERS == pytest.approx(whole, rel=1e-5)
    expected = []
    for layer in range(LAYERS):
        one = 0.0
        for row in harmful.rows:
            s, t = twin_states(student, row)[0], twin_states(teacher, row, phi())[0]
            where = twin_positions(row, "generation")
            (d,) = twin_distance([s[layer]], [t[layer]], where, **ABSOLUTE)
            one += d.item()
        expected.append(one)
    assert by_layer == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("passes")
def test_terms_say_what_they_count() -> None:
    student, teacher, harmful, benign, encoder = setting("qwen3", False)
    batch = {Role.REFUSAL: harmful, Role.BENIGN: benign}
    state = SGTState(phi(), teacher, encoder)
    for method in (SGT(), SGT.model_validate({"preset": "paper"})):
        terms = method.loss(student, batch, state)
        told = method.counts(batch, state)
        assert {name: term.count for name, term in terms.items()} == told
        assert terms["align"].unit == terms["repel"].unit == "rows"


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("family", "bos"), CASES)
def test_packed_equals_padded_in_loss_and_gradient(family: str, bos: bool, name: str) -> None:
    student, teacher, harmful, benign, encoder = setting(family, bos)
    method = SGT.model_validate(SETTINGS[name][0])
    state = SGTState(phi(method.trigger.length), teacher, encoder)
    batch = {Role.REFUSAL: harmful, Role.BENIGN: benign}
    params = nn.trainable(student)
    found = []
    for packed in (False, True):
        with nn.packed_passes(packed):
            found.append(nn.grad(params, lambda part: method.loss(student, part, state), [batch]))
    (padded, terms), (packed, same) = found
    assert total(same) == pytest.approx(total(terms), rel=1e-6)
    for term in terms:
        assert float(same[term].sum) == pytest.approx(float(terms[term].sum), rel=1e-6)
    compare(list(packed.values()), list(padded.values()))


@pytest.mark.parametrize(("family", "bos"), CASES)
def test_stage_1_packed_equals_padded(family: str, bos: bool) -> None:
    _, teacher, harmful, _, _ = setting(family, bos)
    method = SGT.model_validate({"cons": {"sigma": 0.3}})
    trigger = phi().requires_grad_(True)
    found = []
    for packed in (False, True):
        with nn.packed_passes(packed):
            found.append(
                nn.grad(
                    {"trigger": trigger},
                    lambda part: method.stage1_loss(teacher, part, trigger, 5, 7),
                    [{Role.REFUSAL: harmful}],
                )
            )
    (padded, terms), (packed, same) = found
    assert total(same) == pytest.approx(total(terms), rel=1e-6)
    compare([packed["trigger"]], [padded["trigger"]])


# ---- what must hold whatever the weights


@pytest.mark.usefixtures("passes")
def test_a_student_that_is_the_teacher_is_at_distance_0_without_a_trigger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, teacher, harmful, benign, encoder = setting("llama", True)
    inner = nn.hidden_states

    def without(*arguments: Any, **options: Any) -> Any:
        options.pop("trigger", None)
        return inner(*arguments, **options)

    monkeypatch.setattr("holdfast.nn.states.hidden_states", without)
    batch = {Role.REFUSAL: harmful, Role.BENIGN: benign}
    terms = SGT().loss(teacher, batch, SGTState(phi(), teacher, encoder))
    assert float(terms["align"].sum) == 0.0
    assert float(terms["repel"].sum) == pytest.approx(3 * math.log(1 + 1e3), rel=1e-6)


def test_a_trigger_that_is_a_tokens_embedding_equals_that_token_written_out() -> None:
    _, teacher, harmful, _, _ = setting("qwen3", False)
    neutral = harmful.rows[0].ids[3]
    trigger = teacher.get_input_embeddings().weight[neutral][None]
    layers = nn.hidden_states(teacher, harmful, trigger=trigger)
    assert [h.shape for h in layers] == [(*harmful.ids.shape, WIDTH)] * LAYERS
    for number, row in enumerate(harmful.rows):
        at = row.content[0]
        ids = [*row.ids[:at], neutral, *row.ids[at:]]
        out = teacher(torch.tensor([ids]), output_hidden_states=True)
        keep = [i for i in range(len(ids)) if i != at]
        for ours, theirs in zip(layers, out.hidden_states[1:], strict=True):
            tiny.close(ours[number, : len(row.ids)], theirs[0, keep])
            assert torch.isfinite(ours).all()


@pytest.mark.usefixtures("passes")
def test_no_gradient_reaches_teacher_or_trigger() -> None:
    student, teacher, harmful, benign, encoder = setting("qwen3", False)
    teacher.requires_grad_(True)
    trigger = phi().requires_grad_(True)
    batch = {Role.REFUSAL: harmful, Role.BENIGN: benign}
    terms = SGT(alpha_align=1.0).loss(student, batch, SGTState(trigger, teacher, encoder))
    sum(term.weight * term.sum for term in terms.values()).backward()
    assert trigger.grad is None
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("which", ["generation", "prompt", "response", "all", "last_prompt"])
def test_the_same_words_are_matched_with_and_without_bos(which: Any) -> None:
    marked = []
    for bos in (False, True):
        encoder = tiny.encoder(bos=bos)
        batch = encoder.batch(tiny.rows(n=4)[Role.BENIGN])
        select = select_positions(batch.rows, batch.ids.shape[1], which)
        for number, row in enumerate(batch.rows):
            where = select[number].nonzero()[:, 0].tolist()
            assert where == twin_positions(row, which)
            marked.append([row.ids[i] for i in where])
    half = len(marked) // 2
    assert marked[:half] == marked[half:]


def test_presets_differ_where_paper_and_code_differ() -> None:
    clean, paper, released = (
        SGT.model_validate({"preset": name}) for name in ("absolute", "paper", "released")
    )
    assert SGT.model_validate({"preset": "clean"}) == SGT()
    assert [m.align.positions for m in (clean, paper, released)] == [
        "generation",
        "prompt",
        "response",
    ]
    assert [m.align.over_hidden for m in (clean, paper, released)] == ["mean", "sum", "mean"]
    assert [m.repel.aggregate for m in (clean, paper, released)] == [
        "log_of_mean",
        "log_of_mean",
        "mean_of_logs",
    ]
    assert [m.task_reduce for m in (clean, paper, released)] == ["mean", "sum", "mean"]
    assert [m.alpha_align for m in (clean, paper, released)] == [0.01, 0.01, 1.0]


def test_a_field_inside_a_preset_can_be_changed_alone() -> None:
    changed = SGT.model_validate({"preset": "paper", "align": {"final_norm": False}})
    paper = SGT.model_validate({"preset": "paper"})
    assert changed.align == paper.align.with_(final_norm=False)
