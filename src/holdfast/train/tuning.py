"""Stand-in."""

from __future__ import annotations

from holdfast.api import seed as seed_of
from holdfast.data.example import Role
from holdfast.nn.adapter import merged
from holdfast.train.attacking import PointInfo
from holdfast.train.training import Session, left_as_found, trained


def tune(
    defence,
    model,
    encoder,
    customer_rows,
    pool,
    *,
    seed,
    loop,
    points,
    on_point,
    work=None,
    sources=None,
    progress=None,
):
    method = defence.with_(loop=loop)
    session = Session.of(
        method, model, encoder, pool, seed, work=work, sources=sources, progress=progress
    )
    steps = {int(point) // loop.batch: point for point in points}

    def stop(step):
        model.eval()
        with merged(model):
            on_point(steps[step], PointInfo(step, session.meter.total))

    with left_as_found(model):
        rows = {Role.TASK: list(customer_rows)}
        with trained(method, session, rows, until=max(steps), points=dict.fromkeys(steps, stop)):
            pass
