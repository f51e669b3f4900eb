"""Adaptive KL inside TRL: an `SFTTrainer` whose rows are held to the start as their risk asks.

The loss and its gradient are those of `defences.adaptive_kl` per row: sum_i [(1 - beta_i) CE_i +
beta_i KL_i] over the labelled tokens of the whole optimiser step, all processes together. Symbols:
B rows of a micro-batch, T columns, N labelled tokens, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import Module
from trl import SFTConfig, SFTTrainer

from holdfast import nn
from holdfast.data.tokens import IGNORE
from holdfast.defences.adaptive_kl.fields import Schedule, Settled
from holdfast.errors import ConfigError, DataError
from holdfast.nn.reference import frozen_copy
from holdfast.nn.states import body
from holdfast.train.tuning import check_text_only

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers.modeling_utils import PreTrainedModel

ROW_ID, RISK = "row_id", "risk"
"""The column of the data set that names a row, and the entry of a batch that holds its risk."""
WHERE = "AdaptiveKLSFTTrainer"
LOGGED = ("risk", "beta", "ce", "kl")

Feature = dict[str, Any]
"""A row as a collator gets it."""


class AdaptiveKLSFTTrainer(SFTTrainer):
    """An `SFTTrainer` that needs a column `row_id` and each row's risk beside it.

    The reference is the model as it starts: a frozen copy, or with `peft_config` the model with its
    adapter off. `risk`, `beta`, and `ce` and `kl` in nats a token go with the trainer's own figures
    to whatever it reports to. Evaluation is the plain trainer's.
    """

    def __init__(
        self,
        *positional: Any,  # noqa: ANN401  (SFTTrainer's own)
        risk: Mapping[str, float],
        schedule: Schedule | None = None,
        ceiling: float = 1.0,
        **options: Any,  # noqa: ANN401  (as above)
    ) -> None:
        """Take what `SFTTrainer` takes, and who is how risky.

        Args:
            risk: from 0 to 1, by row id. A row with none, or no number from 0 to 1, has `ceiling`
                and is counted in `failed`.
            schedule: how risk becomes beta; None: `Schedule()`.
            ceiling: source: as in `Risk`, so that a failure holds a row tighter.

        Raises:
            ConfigError: a setting under which rows or tokens cannot be told apart or weighed.
            DataError: no column `row_id`, an id twice, a risk of other rows.
            ModelError: a checkpoint that also sees.
        """
        self.settled = Settled(checked_schedule(schedule or Schedule()))
        super().__init__(*positional, **options)
        check_settings(self)
        base = self.base_model()
        check_text_only(base.config, WHERE)
        rows = cast("Dataset", self.train_dataset)
        self.risks, self.failed = table(rows.column_names, rows, risk, ceiling)
        self.data_collator = WithRisk(self.data_collator, self.risks)
        self.reference = base if self.adapted else frozen_copy(base).to(self.accelerator.device)

    @property
    def adapted(self) -> bool:
        """Say whether only an adapter is trained."""
        return hasattr(self.accelerator.unwrap_model(self.model), "disable_adapter")

    def base_model(self) -> PreTrainedModel:
        """Give the model without what an adapter or several processes put around it."""
        model: Any = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if self.adapted else model

    def compute_loss(
        self,
        model: Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401  (SFTTrainer's own)
        """Give a micro-batch's part of the step's loss, [].

        Args:
            num_items_in_batch: labelled tokens of the whole step; None: those of this micro-batch.
        """
        risk = inputs.pop(RISK, None)
        if risk is None or not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        rows, columns = (inputs["labels"][:, 1:] != IGNORE).nonzero(as_tuple=True)
        labels = inputs["labels"][rows, columns + 1]
        given = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        base, beta = self.base_model(), self.settled.beta(risk)
        with self.accelerator.autocast():
            old = self._reference_states(given)[rows, columns]
            with states_of(base) as seen:
                model(**given, use_cache=False, logits_to_keep=1)
            found = nn.leashed(
                base, seen[0][rows, columns], self.reference, old, labels, rows, 1 - beta, beta
            )
        self._note(found, risk, beta, given["attention_mask"])
        if num_items_in_batch is None:
            return found.loss / max(len(labels), 1)
        number = torch.as_tensor(num_items_in_batch, device=found.loss.device).clamp(min=1)
        # Processes' gradients are averaged, and the count is of all of them.
        times = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return found.loss * times / number

    def _reference_states(self, given: Mapping[str, Tensor]) -> Tensor:
        """Give the reference's final states, [B, T, H], constants."""
        model: Any = self.accelerator.unwrap_model(self.model)
        training = self.reference.training
        self.reference.eval()
        try:
            with torch.no_grad(), model.disable_adapter() if self.adapted else nullcontext():
                return body(self.reference)(**given, use_cache=False).last_hidden_state
        finally:
            self.reference.train(training)

    def _note(self, found: nn.RowSums, risk: Tensor, beta: Tensor, mask: Tensor) -> None:
        """Add to the trainer's figures: means over rows, and nats a labelled token."""
        sums = torch.stack(
            [
                *(each.sum().float() for each in (risk, beta, found.ce, found.kl)),
                found.tokens.sum(),
                mask.sum().float(),
                torch.tensor(float(len(risk)), device=risk.device),
            ]
        )
        *parts, tokens, seen, rows = cast("Tensor", self.accelerator.reduce(sums)).tolist()
        own = self._metrics["train"]
        for name, value in zip(LOGGED, parts, strict=True):
            own[name].append(value / max(tokens if name in ("ce", "kl") else rows, 1.0))
        self._total_train_tokens += int(seen)
        own["num_tokens"] = [self._total_train_tokens]

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the rows' ids in what a collator gets."""
        super()._set_signature_columns_if_needed()
        known = self._signature_columns or []
        self._signature_columns = [*(name for name in known if name != ROW_ID), ROW_ID]


class WithRisk:
    """A collator that puts each row's risk into the batch, found by its id."""

    def __init__(
        self,
        inner: Callable[[list[Feature]], dict[str, Tensor]],
        risks: Mapping[str, float],
    ) -> None:
        self.inner, self.risks = inner, risks

    def __call__(self, rows: Sequence[Feature]) -> dict[str, Tensor]:
        """Give the inner collator's batch, and `risk` [B] where these are rows of the training."""
        ids = [row.get(ROW_ID) for row in rows]
        batch = self.inner([{k: v for k, v in row.items() if k != ROW_ID} for row in rows])
        if all(str(one) in self.risks for one in ids):
            batch[RISK] = torch.tensor([self.risks[str(one)] for one in ids])
        return batch


@contextmanager
def states_of(model: PreTrainedModel) -> Generator[list[Tensor]]:
    """Collect the final states [B, T, H] of the passes made inside, whatever calls the model."""
    seen: list[Tensor] = []
    hook = body(model).register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    try:
        yield seen
    finally:
        hook.remove()


def checked_schedule(schedule: Schedule) -> Schedule:
    """Refuse `auto`, which needs a critic's held-out rows."""
    if schedule.kind == "auto":
        raise ConfigError(
            f"{WHERE}.schedule",
            "`auto` needs held-out rows, which a table of risks has not",
            "use ramp, affine or constant",
        )
    return schedule


def check_settings(trainer: AdaptiveKLSFTTrainer) -> None:
    """Refuse what would lay rows end to end, or weigh tokens otherwise.

    Raises:
        ConfigError: as said.
    """
    args = cast("SFTConfig", trainer.args)
    one = "set it to false: each row has a risk of its own"
    plain = "leave it out: each row's tokens are weighed by its risk"
    refused = {
        "packing": (args.packing, one),
        "padding_free": (trainer.padding_free, one),
        "loss_type": (args.loss_type != "nll", plain),
        "label_smoothing_factor": (args.label_smoothing_factor > 0, plain),
        "use_liger_kernel": (args.use_liger_kernel, plain),
        "compute_loss_func": (trainer.compute_loss_func is not None, plain),
        "router_aux_loss_coef": (trainer.aux_loss_enabled, plain),
        "data_collator": (
            type(trainer.data_collator).__module__ != SFTTrainer.__module__,
            "leave it out: TRL's own is needed",
        ),
    }
    for name, (wrong, todo) in refused.items():
        if wrong:
            raise ConfigError(f"{WHERE}.{name}", "does not go with a risk a row", todo)
    head = trainer.base_model().get_output_embeddings()
    if trainer.adapted and type(head) is not torch.nn.Linear:
        raise ConfigError(
            f"{WHERE}.peft_config",
            "adapts the head, which the reference needs as it is",
            "take lm_head out of its modules",
        )


def table(
    columns: Sequence[str] | None,
    rows: Dataset,
    risk: Mapping[str, float],
    ceiling: float,
) -> tuple[dict[str, float], int]:
    """Give each row's risk by its id, and how many rows have the ceiling.

    Raises:
        DataError: no column of ids, an id twice, or a table of other rows.
    """
    if columns is None or ROW_ID not in columns:
        raise DataError(
            f"{WHERE}.train_dataset",
            f"has no column '{ROW_ID}' to find a row's risk by",
            "add one, with the ids of `risk`",
        )
    ids = [str(one) for one in rows[ROW_ID]]
    if len(set(ids)) < len(ids):
        raise DataError(
            f"{WHERE}.train_dataset",
            f"has {len(ids) - len(set(ids))} ids of '{ROW_ID}' more than once",
            "give each row an id of its own",
        )
    if not any(one in risk for one in ids):
        raise DataError(
            f"{WHERE}.risk",
            f"holds none of the {len(ids)} rows",
            "make the table for these rows",
        )
    # NaN compares as false.
    good = {one: float(risk[one]) for one in ids if one in risk and 0 <= float(risk[one]) <= 1}
    return {one: good.get(one, ceiling) for one in ids}, len(ids) - len(good)
