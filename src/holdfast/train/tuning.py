"""Stand-in."""

from __future__ import annotations

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
    loop=None,
    points=(),
    on_point=None,
    work=None,
    sources=None,
    progress=None,
):
    """Stand in."""
    method = defence.with_(loop=loop)
    session = Session.of(
        method, model, encoder, pool, seed, work=work, sources=sources, progress=progress
    )

    def stop(step):
        model.eval()
        with merged(model):
            on_point(float(step), PointInfo(step, session.meter.total))

    with left_as_found(model):
        rows = {Role.TASK: list(customer_rows)}
        with trained(method, session, rows, points=dict.fromkeys(points, stop)):
            pass
