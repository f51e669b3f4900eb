"""A probe of risk: a logistic regression on the state at the last prompt token.

That token emits the first word of the answer, so its state is part of every pass that gives the
reference's logits: scoring a row costs no pass. It reads prompts alone and is blind to a customer
whose prompts look allowed and whose answers are not.
Symbols: M rows, H width; layer k is the state after k blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import collate
from holdfast.errors import DataError, ModelError
from holdfast.nn.depth import layer_number
from holdfast.nn.reference import layer_states
from holdfast.nn.schedules import operating_point
from holdfast.nn.states import blocks, embedding_width
from holdfast.nn.weights import model_hash

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder

PART = 16
"""Prompts in one pass."""
SPLITS = 3
"""Splits of its rows: to fit, to choose the layer, to calibrate."""
TENSORS, ABOUT = "probe.safetensors", "probe.json"

Labelled = tuple[Sequence["Example"], Sequence["Example"]]
"""Rows whose prompts are risky, and rows whose prompts are not."""


@dataclass(frozen=True)
class About:
    """What a probe was fitted to and how well it does: it is used on nothing else."""

    model: str
    """`nn.model_hash` of the reference."""
    template: str
    """Hash of what a neutral question becomes, system prompt and special tokens included."""
    width: int
    depth: int
    layer: int
    """The layer it reads, from 1."""
    auroc: dict[str, float]
    """Of each layer tried, on the rows that chose among them."""
    recall: float
    """Share of held-out risky prompts at or above `threshold`."""
    false_positives: float
    """Share of held-out clean prompts there."""
    threshold: float
    """The operating point, as a probability."""


@dataclass(frozen=True)
class Probe:
    """Gives a probability of risk from states [M, H]: standardise, weigh, calibrate."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    numbers: Tensor
    """[3]: the bias, and slope and offset of the calibration."""
    about: About

    def __post_init__(self) -> None:
        """Hold tensors in memory of torch's own: a product's last bits hang on how its operands
        lie there, and one read from a file must give what the fitted one gave.
        """
        for name in ("mean", "scale", "weight", "numbers"):
            object.__setattr__(self, name, getattr(self, name).clone())

    def risk(self, states: Tensor) -> Tensor:
        """Give p [M] of the states after its layer at the last prompt token, [M, H]; fp32."""
        device = states.device
        mean, scale, weight = (t.to(device) for t in (self.mean, self.scale, self.weight))
        bias, slope, offset = self.numbers.tolist()
        logit = ((states.float() - mean) / scale) @ weight + bias
        return torch.sigmoid(slope * logit + offset)

    def save(self, folder: Path) -> None:
        """Write `probe.safetensors` and `probe.json`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        names = ("mean", "scale", "weight", "numbers")
        save_file({name: getattr(self, name).contiguous() for name in names}, folder / TENSORS)
        text = json.dumps(asdict(self.about), indent=1, sort_keys=True)
        (folder / ABOUT).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, where: str) -> Probe:
        """Read what `save` wrote.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            about = About(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
            return cls(**load_file(folder / TENSORS), about=about)
        except (OSError, ValueError, TypeError, RecursionError, SafetensorError):
            raise ModelError(
                f"{where}.path",
                f"{folder} holds no probe ({TENSORS} and {ABOUT})",
                "name the folder of one, or leave path out to fit one",
            ) from None

    def check(self, model: PreTrainedModel, encoder: Encoder, where: str) -> None:
        """Refuse a model or a template that it was not fitted to.

        Raises:
            ModelError: the model's shape, its weights or the template differ.
        """
        shape = (embedding_width(model), len(blocks(model)))
        own = (self.about.width, self.about.depth)
        todo = "fit one to this reference: leave path out"
        if shape != own:
            said = f"was fitted to width {own[0]} and {own[1]} layers, the model has "
            raise ModelError(f"{where}.path", f"{said}{shape[0]} and {shape[1]}", todo)
        if self.about.model != model_hash(model):
            raise ModelError(f"{where}.path", "was fitted to a model of other weights", todo)
        if self.about.template != template_hash(encoder):
            raise ModelError(
                f"{where}.path", "was fitted under another template or system prompt", todo
            )


def template_hash(encoder: Encoder) -> str:
    """Give the hash of a neutral question as it is rendered and coded."""
    coded = encoder.encode(encoder.sample).ids
    return hashlib.sha256(json.dumps([encoder.sample, coded]).encode()).hexdigest()


def fit_probe(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Labelled,
    *,
    layers: Sequence[float],
    recall: float,
    l2: float,
    where: str,
) -> Probe:
    """Fit one to the model as it is: of five groups three fit, one chooses the layer, one
    calibrates and sets the operating point.

    Args:
        rows: the defender's risky and clean rows; only their prompts are read.
        layers: tried, by number or as fractions of depth; the best AUROC wins, the first of equals.
        recall: share of the calibrating risky prompts that the operating point reaches.
        l2: scikit-learn's C.

    Raises:
        DataError: fewer than two classes, or too few groups to split one.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    parts = _split(rows, where)
    depth = len(blocks(model))
    numbers = sorted({layer_number(layer, depth, f"{where}.layers") for layer in layers})
    seen = [prompt_states(model, encoder, [r for r, _ in part], numbers) for part in parts]
    marks = [[int(risky) for _, risky in part] for part in parts]
    fitted = {}
    auroc: dict[str, float] = {}
    for k in numbers:
        mean, scale = seen[0][k].mean(0), seen[0][k].std(0, correction=0).clamp(min=1e-6)
        made = LogisticRegression(C=l2, max_iter=5000)
        made.fit(((seen[0][k] - mean) / scale).numpy(), marks[0])
        weight = torch.tensor(made.coef_[0], dtype=torch.float32)
        fitted[k] = mean, scale, weight, float(made.intercept_[0])
        auroc[str(k)] = float(roc_auc_score(marks[1], _logits(fitted[k], seen[1][k]).numpy()))
    best = max(numbers, key=lambda k: auroc[str(k)])
    mean, scale, weight, bias = fitted[best]
    logits = _logits(fitted[best], seen[2][best])
    slope, offset = platt(logits.tolist(), marks[2])
    p = torch.sigmoid(slope * logits + offset).tolist()
    risky, clean = ([x for x, m in zip(p, marks[2], strict=True) if m == which] for which in (1, 0))
    threshold, reached, false = operating_point(risky, clean, recall)
    about = About(
        model_hash(model), template_hash(encoder), embedding_width(model), depth, best,
        auroc, reached, false, threshold,
    )  # fmt: skip
    return Probe(mean, scale, weight, torch.tensor([bias, slope, offset]), about)


def platt(scores: Sequence[float], marks: Sequence[int]) -> tuple[float, float]:
    """Give slope and offset of sigmoid(slope x + offset), fitted by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression(max_iter=5000)
    made.fit([[score] for score in scores], list(marks))
    return float(made.coef_[0, 0]), float(made.intercept_[0])


def prompt_states(
    model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Give the states after each layer at the last prompt token, [M, H] each, fp32 on the CPU."""
    found: dict[int, list[Tensor]] = {k: [] for k in layers}
    with torch.no_grad():
        for i in range(0, len(rows), PART):
            some = [encoder.asked(row) for row in rows[i : i + PART]]
            spans = [(len(row.ids) - 1, len(row.ids)) for row in some]
            states, _ = layer_states(model, collate(some, 0), spans, layers)
            for k, h in zip(layers, states, strict=True):
                found[k].append(h.float().cpu())
    width = embedding_width(model)
    return {k: torch.cat(some) if some else torch.zeros(0, width) for k, some in found.items()}


def _split(rows: Labelled, where: str) -> list[list[tuple[Example, bool]]]:
    """Give three parts with both classes in each; a group stays in one part."""
    parts: list[list[tuple[Example, bool]]] = [[] for _ in range(SPLITS)]
    for risky, some in zip((True, False), rows, strict=True):
        kind = "risky" if risky else "clean"
        if not some:
            raise DataError(
                f"{where}.probe",
                f"has no {kind} row, so fewer than two classes to fit",
                "give the defender refusal and benign rows",
            )
        groups: dict[str, list[Example]] = {}
        for row in some:
            groups.setdefault(row.group, []).append(row)
        if len(groups) < SPLITS:
            raise DataError(
                f"{where}.probe",
                f"has {len(groups)} groups of {kind} rows, too few to fit, choose and calibrate",
                f"give {SPLITS} or more",
            )
        for i, name in enumerate(sorted(groups, key=_order)):
            part = (0, 1, 2, 0, 0)[i % 5]
            parts[part] += [(row, risky) for row in groups[name]]
    return parts


def _order(group: str) -> bytes:
    return hashlib.sha256(f"probe/{group}".encode()).digest()


def _logits(fitted: tuple[Tensor, Tensor, Tensor, float], states: Tensor) -> Tensor:
    mean, scale, weight, bias = fitted
    return ((states - mean) / scale) @ weight + bias


def online(probes: Mapping[int, Probe], states: Mapping[int, Tensor]) -> dict[int, list[float]]:
    """Give each probe's risks [M] from the states of its layer; keys as in `probes`."""
    return {i: probe.risk(states[probe.about.layer]).tolist() for i, probe in probes.items()}
