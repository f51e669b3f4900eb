"""What every defence must do, whoever wrote it: one file, parametrised over all that are found.

A defence that needs more than its neutral fields to be brought down to plain fine-tuning adds a
line to `PLAIN`; everything else holds without being told.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from ruamel.yaml import YAML
from tests import tiny

from holdfast import nn
from holdfast.api import (
    Defence,
    GradientDefence,
    Loop,
    LoRA,
    Run,
    TrainedDefence,
    WeightDefence,
    registry,
)
from holdfast.api.fields import Fields, parse_yaml
from holdfast.cli import run as command
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.errors import ConfigError
from holdfast.nn.vectors import ParamVector
from holdfast.train import harden

ROOT = Path(__file__).parents[2]
NAMES = registry.names("defence")
LOOP = Loop(steps=3, batch=4, lr=0.01)
PLAIN: dict[str, dict[str, float]] = {
    "refusal_sft": {"refusal": 1.0, "benign": 1.0},
    "sgt": {"benign": 1.0},
    "booster": {"refusal": 1.0},
    "rep_noise": {"refusal": 1.0},
    "sdd": {"refusal": 1.0},
    "vaccine": {"refusal": 1.0},
    "t_vaccine": {"refusal": 1.0},
    "random_vaccine": {"refusal": 1.0},
    "ctrap": {"refusal": 1.0},
    "seam": {"refusal": 1.0},
    "tar": {"benign": 1.0},
}
"""What a defence's neutral point equals: cross-entropy on these roles with these weights."""


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> type[Defence]:
    found = registry.find("defence", request.param)
    assert issubclass(found, Defence)
    return found


def shaped(*shapes: type[Defence], separable: bool = False) -> list[str]:
    """Name the defences of some shapes, and of those the separable ones if asked."""
    found = {name: registry.find("defence", name) for name in NAMES}
    return [
        name
        for name, kind in found.items()
        if issubclass(kind, shapes) and (kind.separable or not separable)
    ]


TRAINED = pytest.mark.parametrize("kind", shaped(TrainedDefence), indirect=True)
SEPARABLE = pytest.mark.parametrize("kind", shaped(TrainedDefence, separable=True), indirect=True)


def made(kind: type[Defence], **fields: Any) -> Any:
    """Make a defence with every loop it has cut short."""
    loops = {
        name: LOOP
        for name, info in kind.model_fields.items()
        if isinstance(info.default, Loop) and name not in fields
    }
    if issubclass(kind, WeightDefence) and "rank" in kind.model_fields:
        fields = {"rank": 2} | fields
    return kind.model_validate(loops | fields)


def sources(family: str = "qwen3") -> dict[str, dict[str, torch.Tensor]]:
    """Give an original that the model has moved away from, and itself as the other models."""
    original = tiny.weights(tiny.model(family))
    generator = torch.Generator().manual_seed(4)
    moved = {
        name: p + 0.05 * torch.randn(p.shape, generator=generator) for name, p in original.items()
    }
    return {"original": moved, "unaligned": moved, "tuned": original}


def step(roles: tuple[str, ...], size: int = 4) -> list[dict[Role, Tokens]]:
    """Give four rows a role, `size` in a micro-batch."""
    encoder, rows = tiny.encoder(), tiny.rows(n=4)
    return [
        {Role(r): encoder.batch(rows[Role(r)][i : i + size]) for r in roles}
        for i in range(0, 4, size)
    ]


def gradient(method: Any, model: Any, parts: list[dict[Role, Tokens]], state: Any) -> ParamVector:
    if isinstance(method, GradientDefence):
        whole = {role: [part[role] for part in parts] for role in parts[0]}
        return method.gradient(model, whole, state)[0]
    return nn.grad(
        nn.trainable(model),
        lambda part: method.loss(model, part, state),
        parts,
        lambda part: method.counts(part, state),
    )[0]


def set_up(method: Any, model: Any) -> Any:
    """Run `setup` as the loop does, with a trainer for what is not a model."""

    def fit(_name: str, _params: Any, _loss: Any, _rows: Any, _loop: Any) -> None:
        """Leave what would be trained at its first draw."""

    run = Run(model, tiny.encoder(), tiny.pool(), 0, models=sources(), fit=fit)
    return method.setup(run)


# ---- what it does


def test_its_neutral_point_is_plain_fine_tuning_or_nothing(kind: type[Defence]) -> None:
    if kind.neutral is None:
        pytest.skip("no neutral point: it proves another identity in its own tests")
    method = made(kind, **kind.neutral)
    if isinstance(method, WeightDefence):
        model = tiny.model()
        before = tiny.weights(model)
        harden(method, model, tiny.encoder(), tiny.pool(), seed=0, sources=sources())
        assert tiny.same(tiny.weights(model), before)
        return
    assert kind.name() in PLAIN, "say in PLAIN what its neutral point equals"
    model = tiny.model()
    parts = step(method.roles)
    found = gradient(method, model, parts, set_up(method, model))
    value = torch.zeros(())
    for role, weight in PLAIN[kind.name()].items():
        tokens = parts[0][Role(role)]
        logits = model(tokens.ids, attention_mask=tokens.mask).logits[:, :-1]
        value = value + weight * torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.labels[:, 1:].flatten()
        )
    params = nn.trainable(model)
    expected = torch.autograd.grad(value, list(params.values()))
    for name, tensor in zip(params, expected, strict=True):
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


@SEPARABLE
def test_a_step_is_the_same_from_one_micro_batch_or_two_halves(kind: type[Defence]) -> None:
    method = made(kind)
    model = tiny.model()
    state = set_up(method, model)
    whole = gradient(method, model, step(method.roles), state)
    halves = gradient(method, model, step(method.roles, 2), state)
    size = max(1.0, whole.norm())
    assert whole.norm() > 0
    for name, tensor in whole.items():
        assert (halves[name] - tensor).abs().max().item() <= 1e-6 * size, name


@TRAINED
def test_a_gradient_leaves_weights_hooks_and_flags_as_found(kind: type[Defence]) -> None:
    method = made(kind)
    model = tiny.model()
    state = set_up(method, model)
    before = tiny.weights(model)
    teacher = tiny.weights(state.teacher) if hasattr(state, "teacher") else {}
    gradient(method, model, step(method.roles), state)
    assert tiny.same(tiny.weights(model), before)
    if teacher:
        assert tiny.same(tiny.weights(state.teacher), teacher)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hardening_leaves_flags_and_hooks_as_found(kind: type[Defence]) -> None:
    model = tiny.model("llama")
    model.model.norm.weight.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    kinds = [type(m) for m in model.modules()]
    before = tiny.weights(model)
    done = harden(made(kind), model, tiny.encoder(), tiny.pool(), seed=0, sources=sources("llama"))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert [type(m) for m in model.modules()] == kinds
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.training
    assert not tiny.same(tiny.weights(model), before)
    assert all(isinstance(value, float) for value in done.diagnostics.values())


def test_it_trains_on_the_roles_it_declares_and_on_the_defenders_side(
    kind: type[Defence],
) -> None:
    method = made(kind)
    if not isinstance(method, TrainedDefence):
        assert not method.roles
        return
    rows = method.rows(tiny.pool(), 0)
    assert {role.value for role in rows} == set(method.roles)
    for role, some in rows.items():
        assert {row.role for row in some} == {role}
        assert {row.side for row in some} == {Side.DEFENDER}


class Watched(Pool):
    """A pool that notes which roles and sides are asked for."""

    def __init__(self, rows: list[Example]) -> None:
        super().__init__(rows)
        self.asked: set[tuple[Role, Side]] = set()

    def draw(self, role: Role, side: Side, n: int | None, seed: int, **options: Any) -> Any:
        self.asked.add((role, side))
        return super().draw(role, side, n, seed, **options)

    def paired(self, first: Role, second: Role, side: Side, n: int | None, seed: int) -> Any:
        self.asked |= {(first, side), (second, side)}
        return super().paired(first, second, side, n, seed)


def test_it_reads_no_other_role_and_no_other_side(kind: type[Defence]) -> None:
    """Its own measurement may read the defender's selection side; nothing reads further."""
    pool = Watched([row for side in Side for some in tiny.rows(side).values() for row in some])
    harden(made(kind), tiny.model(), tiny.encoder(), pool, seed=0, sources=sources())
    assert {role.value for role, side in pool.asked if side is Side.DEFENDER} == set(kind.roles)
    assert {side for _, side in pool.asked} <= {Side.DEFENDER, Side.DEFENDER_SELECTION}
    assert {role.value for role, _ in pool.asked} <= set(kind.roles)


def test_it_works_on_a_pool_without_a_selection_side(kind: type[Defence]) -> None:
    pool = Pool([row for some in tiny.rows().values() for row in some])
    harden(made(kind), tiny.model(), tiny.encoder(), pool, seed=0, sources=sources())


@TRAINED
def test_under_lora_it_ends_as_a_plain_model(kind: type[Defence]) -> None:
    model = tiny.model()
    before = tiny.weights(model)
    loop = LOOP.with_(lora=LoRA(rank=2), micro_batch=1)
    harden(made(kind, loop=loop), model, tiny.encoder(), tiny.pool(), seed=0)
    after = tiny.weights(model)
    assert after.keys() == before.keys()
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@SEPARABLE
def test_micro_batches_change_no_weight(kind: type[Defence]) -> None:
    """AdamW divides by the gradient's size, so rounding shows; far less than a step of 0.01."""
    ends = []
    for size in (None, 1):
        model = tiny.model()
        loop = LOOP.with_(micro_batch=size, eps=1e-4)
        harden(made(kind, loop=loop), model, tiny.encoder(), tiny.pool(), seed=0)
        ends.append(tiny.weights(model))
    for name, tensor in ends[0].items():
        assert (tensor - ends[1][name]).abs().max().item() < 2e-4, name


def test_the_same_seed_gives_the_same_bits(kind: type[Defence]) -> None:
    ends = []
    for number in range(2):
        model = tiny.model()
        torch.manual_seed(number)  # nothing may hang on torch's own generator
        harden(made(kind), model, tiny.encoder(), tiny.pool(), seed=3, sources=sources())
        ends.append(tiny.weights(model))
    assert tiny.same(*ends)


# ---- what it says of itself


def groups(kind: type[BaseModel]) -> list[type[BaseModel]]:
    """Give a method's class and the classes of its nested groups."""
    found = [kind]
    for info in kind.model_fields.values():
        if isinstance(info.default, Fields):
            found += groups(type(info.default))
    return found


def test_every_field_is_documented(kind: type[Defence]) -> None:
    for group in groups(kind):
        assert group.__doc__, group
        for name, info in group.model_fields.items():
            assert info.description, f"{group.__name__}.{name}"
            assert len(info.description) > 10, f"{group.__name__}.{name}"


def test_show_tells_equation_paper_roles_cost_fidelity_and_every_field(
    kind: type[Defence], capsys: pytest.CaptureFixture[str]
) -> None:
    name = kind.__module__.rpartition(".")[2]
    assert command(["show", name]) == 0
    said = capsys.readouterr().out
    for label in ("equation", "paper", "cost"):
        assert getattr(kind, label)
        assert f"\n  {label}: {getattr(kind, label)}\n" in said
    assert kind.fidelity
    page = f"docs/fidelity/{name}.md"
    assert f"\n  fidelity: {kind.fidelity} ({page})\n" in said
    assert (ROOT / page).is_file()
    if kind.roles:
        assert f"\n  roles: {', '.join(kind.roles)}\n" in said
    for field in kind.model_fields:
        assert f"\n    {field}" in said


def dumped(method: Any) -> str:
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump({method.name(): method.model_dump(mode="json")}, out)
    return out.getvalue()


def test_it_survives_a_trip_through_yaml(kind: type[Defence]) -> None:
    for preset in ("clean", *kind.presets):
        method = registry.make("defence", {kind.name(): {"preset": preset}}, "test")
        text = dumped(method)
        again = registry.make("defence", parse_yaml(text, "test"), "test")
        assert again == method
        assert again.identity() == method.identity()
        assert dumped(again) == text
    assert registry.make("defence", kind.name(), "test") == kind()


def test_presets_are_all_different(kind: type[Defence]) -> None:
    all_of_them = [kind.model_validate({"preset": name}) for name in ("clean", *kind.presets)]
    for i, one in enumerate(all_of_them):
        assert all(one != other for other in all_of_them[:i])


def changes(group: Any) -> list[tuple[str, Any]]:
    """Give, for each field at any depth, the whole group with that field changed."""
    result: list[tuple[str, Any]] = []
    for name, info in type(group).model_fields.items():
        value = getattr(group, name)
        if isinstance(value, Fields):
            result += [
                (f"{name}.{deep}", group.with_(**{name: other})) for deep, other in changes(value)
            ]
            continue
        for other in (*_others(value), *_choices(info.annotation)):
            try:
                changed = group.with_(**{name: other})
            except ValueError:
                continue
            except ConfigError:  # another field rules it out
                break
            if changed != group:
                result.append((name, changed))
                break
        else:
            result.append((name, None))
    return result


def _others(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2]
    if isinstance(value, tuple):
        return [value[:-1], (0.0, 0.5)]
    return [1, 0.5, "some words", (0.0, 0.5), {"rank": 2}]


def _choices(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ())


def test_its_identity_follows_every_field_that_matters(kind: type[Defence]) -> None:
    whole = kind()
    plain = str(whole.identity())
    for name, changed in changes(whole):
        assert changed is not None, f"no other value found for {name}"
        no_effect = name.endswith("checkpoint_every")
        assert (str(changed.identity()) == plain) is no_effect, name


def test_its_identity_follows_name_and_version(kind: type[Defence]) -> None:
    identity = kind().identity()
    assert (identity["kind"], identity["name"]) == ("defence", kind.name())
    assert identity["version"] == kind.version


def test_methods_are_frozen_and_refuse_what_they_do_not_know(kind: type[Defence]) -> None:
    with pytest.raises(ValueError, match="extra_forbidden"):
        kind.model_validate({"no_such_field": 1})
    for name in kind.model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(kind(), name, 1)


def test_every_method_is_imported_and_described_without_torch() -> None:
    code = (
        "import sys\n"
        "from holdfast.api import registry\n"
        "for kind in ('defence', 'attack', 'judge', 'source'):\n"
        "    for name in registry.names(kind):\n"
        "        found = registry.find(kind, name)\n"
        "        found.model_json_schema()\n"
        "        if kind in ('defence', 'attack'):\n"
        "            found().identity()\n"
        "late = [m for m in ('torch', 'transformers', 'numpy', 'scipy') if m in sys.modules]\n"
        "sys.exit(', '.join(late) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
