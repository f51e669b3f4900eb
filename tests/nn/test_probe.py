"""A probe: fitted on the defender's rows, kept in two files, used on the model it is of alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.tokens import Encoder
from holdfast.errors import DataError, ModelError
from holdfast.nn.probe import prompt_states
from holdfast.testing import tiny


def rows(n: int = 12, side: Side = Side.DEFENDER) -> tuple[list[Example], list[Example]]:
    made = tiny.rows(side, n)
    return made[Role.REFUSAL], made[Role.BENIGN]


def fitted(some: Any = None, **more: Any) -> Any:
    how = {"layers": (0.25, 0.5, 1.0), "recall": 0.99, "l2": 1.0, "where": "adaptive_kl.risk"}
    return nn.fit_probe(tiny.model(), tiny.encoder(), some or rows(), **(how | more))


def test_it_tells_requests_of_other_names_apart_with_a_probability() -> None:
    probe = fitted()
    risky, clean = rows(8, Side.EVALUATOR)
    states = prompt_states(tiny.model(), tiny.encoder(), [*risky, *clean], [probe.about.layer])
    p = probe.risk(states[probe.about.layer])
    assert float(p[:8].min()) > float(p[8:].max())
    assert 0 < float(p.min()) < 0.5 < float(p.max()) < 1
    assert probe.about.auroc[str(probe.about.layer)] == max(probe.about.auroc.values())
    assert probe.about.recall >= 0.99
    assert probe.about.false_positives == 0.0


def test_a_float64_twin_gives_the_same_probability() -> None:
    probe = fitted()
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    bias, slope, offset = probe.numbers.double()
    z = (states.double() - probe.mean.double()) / probe.scale.double() @ probe.weight.double()
    exact = torch.sigmoid(slope * (z + bias) + offset)
    torch.testing.assert_close(probe.risk(states).double(), exact, rtol=1e-5, atol=1e-6)


def test_it_comes_back_from_its_files(tmp_path: Path) -> None:
    probe = fitted()
    probe.save(tmp_path)
    again = nn.Probe.load(tmp_path, "risk")
    assert again.about == probe.about
    states = torch.randn(3, 16)
    assert torch.equal(again.risk(states), probe.risk(states))
    again.check(tiny.model(), tiny.encoder(), "risk")
    assert json.loads((tmp_path / "probe.json").read_text())["width"] == 16


@pytest.mark.parametrize(
    ("model", "encoder", "line"),
    [
        (
            lambda: tiny.model(num_hidden_layers=2),
            tiny.encoder,
            "was fitted to width 16 and 3 layers, the model has 16 and 2",
        ),
        (lambda: tiny.model(seed=4), tiny.encoder, "was fitted to a model of other weights"),
        (
            tiny.model,
            lambda: Encoder(tiny.byte_tokenizer(bos=True), "plain"),
            "was fitted under another template or system prompt",
        ),
    ],
)
def test_another_model_or_template_is_one_line(model: Any, encoder: Any, line: str) -> None:
    with pytest.raises(ModelError) as error:
        fitted().check(model(), encoder(), "adaptive_kl.risk")
    todo = "fit one to this reference: leave path out"
    assert str(error.value) == f"adaptive_kl.risk.path: {line}; {todo}"


def test_a_folder_without_a_probe_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        nn.Probe.load(tmp_path, "adaptive_kl.risk")
    assert str(error.value) == (
        f"adaptive_kl.risk.path: {tmp_path} holds no probe (probe.safetensors and probe.json); "
        "name the folder of one, or leave path out to fit one"
    )


def test_fewer_than_two_classes_and_too_few_groups_are_one_line_each() -> None:
    risky, clean = rows()
    with pytest.raises(DataError) as error:
        fitted((risky, []))
    assert str(error.value) == (
        "adaptive_kl.risk.probe: has no clean row, so fewer than two classes to fit; "
        "give the defender refusal and benign rows"
    )
    with pytest.raises(DataError) as error:
        fitted((risky[:2], clean))
    assert str(error.value) == (
        "adaptive_kl.risk.probe: has 2 groups of risky rows, too few to fit, choose and "
        "calibrate; give 3 or more"
    )


def test_rows_of_one_group_stay_in_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def noting(model: Any, encoder: Any, some: Any, layers: Any) -> Any:
        seen.append([row.group for row in some])
        return prompt_states(model, encoder, some, layers)

    monkeypatch.setattr("holdfast.nn.probe.prompt_states", noting)
    risky, clean = rows()
    again = [
        replace(example(row.prompt + " now", "x", role=row.role, side=row.side), group=row.group)
        for row in risky
    ]
    fitted(([*risky, *again], clean))
    first, second, third = (set(some) for some in seen)
    assert first
    assert not first & second
    assert not first & third
    assert not second & third
