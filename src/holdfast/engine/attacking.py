"""Run one trajectory of an attack and ask at every point of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.api import Attack, Chain, PromptAttack, Trainable
from holdfast.data.format import MARKER
from holdfast.engine.asking import ask
from holdfast.engine.hosting import scored
from holdfast.engine.session import Session, folder_of
from holdfast.engine.store import write_json
from holdfast.errors import JobRefusedError
from holdfast.nn.content import content
from holdfast.nn.history import history, weights
from holdfast.study.hosting import Hosted
from holdfast.study.nodes import Point, Trajectory

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from holdfast.train.attacking import PointInfo

NOTHING: Mapping[str, Any] = {}


def attack(session: Session, own: str) -> None:
    """Run one trajectory (or none: the model as released) and ask at every point of it."""
    trajectory = session.plan.trajectories[own]
    missing = {
        budget: point
        for budget, point in sorted(trajectory.points.items())
        if any(not session.store.has("generate", step.key) for step in point.asked.values())
        or any(not session.store.has("analyse", look.key) for look in point.looks)
    }
    missing = _kept(session, trajectory, missing)
    if not missing:
        session.store.done(trajectory.key)
        return
    start = trajectory.released.start
    if trajectory.attack is None:
        model, tokenizer = session.take(trajectory.released, keep=True)
        (point,) = missing.values()
        ask(session, model, tokenizer, start, point, {"steps": 0, "flops": 0.0})
        return
    if isinstance(trajectory.attack, PromptAttack):
        model, tokenizer = session.take(trajectory.released, keep=True)
        for point in missing.values():
            spent = {"steps": 0, "flops": 0.0}
            ask(session, model, tokenizer, start, point, spent, trajectory.attack)
        return
    from holdfast import nn, train

    method = trajectory.attack
    model, tokenizer = session.take(trajectory.released)

    def on_point(budget: float, info: PointInfo, told: Mapping[str, Any] = NOTHING) -> None:
        point = missing[budget]
        spent = {"steps": info.steps, "flops": info.flops, **told}
        if session.keep_weights and method.weights_alone:
            _keep(session, model, tokenizer, trajectory, point, spent)
        ask(session, model, tokenizer, start, point, spent)

    if isinstance(method, Hosted):
        _host(session, trajectory, method, model, tokenizer, missing, on_point)
    else:
        train.attack(
            method,
            model,
            nn.encoder(model, tokenizer, start.attack_format, where=trajectory.label),
            session.plan.attack_pool,
            points=list(missing),
            on_point=on_point,
            **_around(session, trajectory, method),
        )
    session.store.done(trajectory.key)


def _around(session: Session, trajectory: Trajectory, method: Attack) -> dict[str, Any]:
    """Give what surrounds any training: seed, work folder, other models, progress."""
    return {
        "seed": trajectory.seed,
        "work": session.store.work(trajectory.key),
        "sources": session.sources(method.needs),
        "progress": session.progress,
    }


def _host(
    session: Session,
    trajectory: Trajectory,
    method: Hosted,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    missing: Mapping[float, Point],
    on_point: Callable[[float, PointInfo, Mapping[str, Any]], None],
) -> None:
    """Run a customer's job on the host's loop; at each budget keep what its log says of rows.

    Of a job that the host refuses whole the model is the release.
    """
    from holdfast import nn, train

    steps = {method.step_of(one): one for one in missing}
    form = trajectory.released.start.format
    coder = nn.encoder(model, tokenizer, form, where=trajectory.label)
    rows = method.customer(session.plan.attack_pool, trajectory.seed)
    around = _around(session, trajectory, method)

    def at(step: float, info: PointInfo) -> None:
        on_point(steps[int(step)], info, scored(around["work"], rows, coder))

    try:
        train.tune(
            method.defence,
            model,
            coder,
            rows,
            session.plan.pool,
            loop=method.loop_to(max(missing)),
            points=list(steps),
            on_point=at,
            **around,
        )
    except JobRefusedError:
        spent = {"steps": 0, "flops": 0.0, "refused": True, **scored(around["work"], rows, coder)}
        model, tokenizer = session.take(trajectory.released, keep=True)
        for point in missing.values():
            ask(session, model, tokenizer, trajectory.released.start, point, spent)


def _keep(
    session: Session,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trajectory: Trajectory,
    point: Point,
    spent: Mapping[str, Any],
) -> None:
    from holdfast import nn

    def fill(folder: Path) -> None:
        nn.save(model, tokenizer, folder)
        marker = {
            "made_by": "holdfast",
            "model": trajectory.released.start.entry.path,
            "content": content(trajectory.released.start.files),
            "attacked": True,
            "budget": point.budget,
            "history": history(folder_of(trajectory.released, session.store)),
        }
        marker |= {"trajectory": dict(trajectory.config), **weights(folder)}
        write_json(folder / MARKER, marker)

    session.publish(
        "point",
        point.key,
        {**trajectory.config, "budget": point.budget},
        [trajectory.released.key],
        spent,
        time.monotonic(),
        fill,
    )


def _kept(
    session: Session, trajectory: Trajectory, missing: dict[float, Point]
) -> dict[float, Point]:
    """Ask the points whose weights were kept; give those that must be replayed."""
    from holdfast import nn

    left = {}
    for budget, point in missing.items():
        if trajectory.attack is None or not session.store.has("point", point.key):
            left[budget] = point
            continue
        folder = session.store.checked("point", point.key)
        trained = isinstance(trajectory.attack, Trainable | Chain)
        held = trajectory.attack.loop.precision if trained else "fp32"
        model, tokenizer = nn.load(folder, precision=held, device=session.device)
        spent = session.store.manifest("point", point.key)["result"]
        ask(session, model, tokenizer, trajectory.released.start, point, spent)
    return left
