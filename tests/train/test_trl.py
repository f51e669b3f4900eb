"""Inside TRL, rows have our loop's loss and gradient, whatever the layout of a step."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train import trl_job as job

from holdfast import nn
from holdfast.data.tokens import collate
from holdfast.defences.adaptive_kl.fields import Schedule, Settled
from holdfast.errors import ConfigError, DataError
from holdfast.testing import tiny


def expected(model: Any, reference: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Give our loss of all four rows and its gradient."""
    tokens = collate(job.coded(), 0)
    beta = Settled(Schedule()).beta(torch.tensor([job.RISKS[str(i)] for i in range(4)]))
    old, _ = nn.reference_pass(reference, tokens)
    found = nn.row_sums(model, tokens, reference, old, 1 - beta, beta)
    loss = found.loss / found.tokens.sum()
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(own.values()))
    return float(loss.detach()), dict(zip(own, grads, strict=True))


def follows(before: dict[str, Any], after: dict[str, Any], grads: dict[str, Any]) -> None:
    for name, grad in grads.items():
        step = before[name] - after[name]
        torch.testing.assert_close(step, grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max()))


@pytest.mark.parametrize(("size", "parts"), [(4, 1), (2, 2), (1, 4)])
def test_a_step_is_our_loops(tmp_path: Path, size: int, parts: int) -> None:
    made = job.trainer(
        tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=parts
    )
    model = job.moved(made.model)
    loss, grads = expected(model, tiny.model())
    before = tiny.weights(model)
    made.train()
    follows(before, tiny.weights(model), grads)
    said = made.state.log_history[0]
    assert said["loss"] == pytest.approx(loss, rel=1e-3)
    assert said["kl"] > 0
    assert said["risk"] == pytest.approx(sum(job.RISKS.values()) / 4)
    assert 0.1 < said["beta"] < 0.9


# PEFT asks a model by an attribute's old name, as transformers tells.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_with_an_adapter_the_model_without_it_is_the_reference(tmp_path: Path) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made = job.trainer(tmp_path, peft_config=lora)
    model: Any = made.base_model()
    assert made.reference is model
    _, grads = expected(model, tiny.model())
    before = tiny.weights(model)
    made.train()
    after = tiny.weights(model)
    follows(before, after, grads)
    assert all("lora" in name for name in grads)
    assert all(torch.equal(before[n], after[n]) for n in before if "lora" not in n)


def test_a_row_without_a_number_has_the_ceiling(tmp_path: Path) -> None:
    made = job.trainer(tmp_path, risk={"0": 0.25, "1": float("nan"), "2": 1.5})
    assert made.risks == {"0": 0.25, "1": 1.0, "2": 1.0, "3": 1.0}
    assert made.failed == 3


END = "does not go with a risk a row; "


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"packing": True, "max_length": 64},
            f"AdaptiveKLSFTTrainer.packing: {END}set it to false: each row has a risk of its own",
        ),
        (
            {"loss_type": "dft"},
            f"AdaptiveKLSFTTrainer.loss_type: {END}leave it out: each row's tokens are weighed by "
            "its risk",
        ),
        (
            {"schedule": Schedule(kind="auto")},
            "AdaptiveKLSFTTrainer.schedule: `auto` needs held-out rows, which a table of risks has "
            "not; use ramp, affine or constant",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # TRL's own words on packing without a fast attention
def test_a_setting_that_mixes_rows_is_refused(tmp_path: Path, changes: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job.trainer(tmp_path, **changes)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"train_dataset": job.data("row_id")},
            "AdaptiveKLSFTTrainer.train_dataset: has no column 'row_id' to find a row's risk by; "
            "add one, with the ids of `risk`",
        ),
        (
            {"risk": {"other": 0.5}},
            "AdaptiveKLSFTTrainer.risk: holds none of the 4 rows; make the table for these rows",
        ),
    ],
)
def test_risks_of_no_row_are_refused(tmp_path: Path, changes: Any, line: str) -> None:
    with pytest.raises(DataError) as caught:
        job.trainer(tmp_path, **changes)
    assert str(caught.value) == line


@pytest.mark.slow
def test_two_processes_take_our_loops_step(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = tmp_path / "weights.safetensors"
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    command = [sys.executable, str(Path(job.__file__)), str(out)]
    both = [
        subprocess.Popen(command, env=shared | {"RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(2)
    ]
    assert [one.wait(timeout=200) for one in both] == [0, 0]
    model = job.moved(tiny.model())
    _, grads = expected(model, tiny.model())
    follows(tiny.weights(model), load_file(out), grads)
