"""Train on a customer's rows under a defence: what a host of fine-tuning does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.api import Defence, Loop, State, TuneDefence
from holdfast.data.example import Example, Role, check_answered
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, DataError, ModelError
from holdfast.nn.adapter import merged
from holdfast.train.attacking import OnPoint, PointInfo
from holdfast.train.loop import Progress
from holdfast.train.training import Hardened, Session, Sources, left_as_found, train

if TYPE_CHECKING:
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.modeling_utils import PreTrainedModel


def tune(
    defence: Defence,
    model: PreTrainedModel,
    encoder: Encoder,
    customer_rows: Sequence[Example],
    pool: Pool,
    *,
    seed: int,
    loop: Loop | None = None,
    points: Sequence[int] = (),
    on_point: OnPoint | None = None,
    work: Path | None = None,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> Hardened:
    """Train `model`, in place, on a customer's rows as the defence allows.

    Args:
        customer_rows: what the customer sent; their role and category are forgotten here.
        pool: the defender's own rows.
        loop: the host's, for every defence of a comparison; None: the defence's own field.
        points: steps at which `on_point` is called with the weights live, an adapter merged.
        work: folder for checkpoints, risk tables and `log.jsonl`; with some there, it continues.
        sources: `reference` as a tensor mapping, where the leash is to another model than the
            start; `original` for a defence that needs it.

    Raises:
        ConfigError: it is no defence of this stage, or a point lies beyond the loop.
        DataError: a row has no response, or none is left.
        ModelError, TrainingError: see their texts.
    """
    method = checked(defence, loop)
    check_text_only(model.config, method.name())
    rows = anonymous(customer_rows)
    check_responses(rows, encoder, method.name())
    if beyond := [point for point in points if not 0 < point <= method.loop.steps]:
        raise ConfigError(
            f"{method.name()}.loop.steps",
            f"point {beyond[0]} is not among its {method.loop.steps} steps",
            "set it to that or more",
        )
    session = Session.of(
        method, model, encoder, pool, seed, work=work, sources=sources, progress=progress
    )
    own = method.rows(session.run.pool, seed)

    def admit(state: State) -> list[Example]:
        return admitted(method, rows, session, state)

    with left_as_found(model):
        at = dict.fromkeys(points, _stop(session, on_point))
        return train(method, session, own, admit=admit, points=at)


def checked(defence: Defence, loop: Loop | None) -> TuneDefence:
    """Give the defence on the host's loop; refuse one of another stage."""
    if not isinstance(defence, TuneDefence):
        raise ConfigError(
            defence.name(),
            f"acts at stage '{defence.when.value}', not while a customer trains",
            "harden the model with it first (`holdfast defend`), then tune",
        )
    return defence if loop is None else defence.with_(loop=loop)


def check_text_only(config: PreTrainedConfig, where: str) -> None:
    """Refuse a checkpoint that also sees: what a picture asks for is no text a critic reads."""
    if getattr(config, "vision_config", None) is not None:
        raise ModelError(
            where,
            "is asked to tune a vision-language checkpoint, whose pictures no critic reads",
            "use a checkpoint of text alone",
        )


def anonymous(rows: Sequence[Example]) -> list[Example]:
    """Give a customer's rows as a host sees them: role `task`, no category."""
    return [replace(row, role=Role.TASK, category="") for row in rows]


def check_responses(rows: Sequence[Example], encoder: Encoder, where: str) -> None:
    """Refuse a job without rows, and rows without a token of a response.

    Raises:
        DataError: as said.
    """
    if not rows:
        raise DataError(f"{where}.task", "the customer sent no rows", "give --data task=FILE")
    check_answered({Role.TASK: rows})
    for row in rows:
        coded = encoder.row(row)
        if len(coded.ids) == coded.start:
            raise DataError(
                f"row {row.place} of role task",
                "has no response token to train on",
                "take it out, or give it a response",
            )


def admitted(
    method: TuneDefence, rows: list[Example], session: Session, state: State
) -> list[Example]:
    """Give the rows that are trained on, and say in the log how many of how many."""
    kept = list(method.admit(rows, session.run, state))
    if not kept:
        raise DataError(
            f"{method.name()}.task",
            f"none of the customer's {len(rows)} rows is admitted",
            "raise its threshold, or refuse the job",
        )
    session.run.log(customer=len(rows), admitted=len(kept))
    return kept


def _stop(session: Session, on_point: OnPoint | None) -> Callable[[int], None]:
    """Give what is called at a point: the weights as they would be saved then."""

    def stop(step: int) -> None:
        if on_point is None:
            return
        model = session.run.model
        model.eval()
        with merged(model):
            on_point(float(step), PointInfo(step, session.meter.total))

    return stop
