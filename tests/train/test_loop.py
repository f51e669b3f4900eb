"""The one loop: what a step reads, how the rate moves, and that an interruption costs nothing."""

from __future__ import annotations

import json
import math
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.api import Loop, Loss, Term
from holdfast.data.example import Role
from holdfast.errors import DataError, StoreError, TrainingError
from holdfast.nn.vectors import ParamVector
from holdfast.testing import tiny
from holdfast.train import Stream, TrainLog, learning_rate, optimise
from holdfast.train import checkpoint as module

# ---- the rate


def rates(**fields: Any) -> list[float]:
    loop = Loop(lr=1.0, **fields)
    return [learning_rate(loop, step) for step in range(loop.steps)]


def test_rates_worked_by_hand() -> None:
    assert rates(steps=4) == [1.0, 1.0, 1.0, 1.0]
    assert rates(steps=4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(steps=4, schedule="cosine") == pytest.approx(
        [1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]
    )
    assert rates(steps=6, schedule="linear", warmup=2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(steps=4, warmup=4) == [0.25, 0.5, 0.75, 1.0]
    assert rates(steps=5, warmup=2, schedule="constant") == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_constant_rate_knows_no_length() -> None:
    assert rates(steps=3, warmup=2) == rates(steps=30, warmup=2)[:3]


# ---- the stream


def stream(loop: Loop, seed: int = 0, n: int = 6) -> Stream:
    rows = tiny.rows(n=n)
    return Stream(
        {role: rows[role] for role in (Role.REFUSAL, Role.BENIGN)}, tiny.encoder(), loop, seed
    )


def ids(some: Stream, step: int) -> dict[Role, list[str]]:
    return {role: [row.row_id for row in rows] for role, rows in some.examples(step).items()}


def test_a_steps_rows_hang_on_seed_and_step_alone() -> None:
    loop = Loop(batch=4)
    forwards = [ids(stream(loop), t) for t in range(9)]
    one = stream(loop)
    backwards = [ids(one, t) for t in reversed(range(9))][::-1]
    assert forwards == backwards
    assert forwards == [
        ids(stream(loop.with_(steps=7, lr=0.5, micro_batch=2)), t) for t in range(9)
    ]
    assert forwards != [ids(stream(loop, seed=1), t) for t in range(9)]


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 6, 13])
def test_every_row_is_seen_once_an_epoch(batch: int) -> None:
    n = 6
    some = stream(Loop(batch=batch), n=n)
    seen = [row for t in range(math.ceil(5 * n / batch)) for row in ids(some, t)[Role.BENIGN]]
    epochs = [seen[i : i + n] for i in range(0, 5 * n, n)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(row.row_id for row in tiny.rows(n=n)[Role.BENIGN])
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_roles_are_shuffled_apart_and_each_has_the_whole_batch() -> None:
    some = stream(Loop(batch=4))
    chosen = some.examples(0)
    assert {role: len(rows) for role, rows in chosen.items()} == {Role.REFUSAL: 4, Role.BENIGN: 4}
    names = [[row.prompt.split(" of ")[1] for row in rows] for rows in chosen.values()]
    assert names[0] != names[1]


def test_micro_batches_are_the_step_cut_in_order() -> None:
    whole, parts = stream(Loop(batch=5)), stream(Loop(batch=5, micro_batch=2))
    assert [len(part[Role.BENIGN]) for part in parts.step(3)] == [2, 2, 1]
    joined = [row for part in parts.step(3) for row in part[Role.BENIGN].rows]
    assert tuple(joined) == whole.step(3)[0][Role.BENIGN].rows


def test_a_role_without_rows_is_told() -> None:
    with pytest.raises(DataError) as caught:
        Stream({Role.BENIGN: []}, tiny.encoder(), Loop(), 0)
    assert str(caught.value) == "role benign: no rows to train on; check the sources"


# ---- the optimiser, on one number


def one_number(start: float = 1.0) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([start], requires_grad=True)}


def slope(by: float, value: float = 1.0) -> Any:
    """Give a gradient function that always gives `by`."""

    def gradient(_parts: Any, _step: int) -> tuple[ParamVector, Loss]:
        return ParamVector({"x": torch.tensor([by])}), {"x": Term(torch.tensor(value), 1.0)}

    return gradient


def test_a_first_step_of_adamw_worked_by_hand() -> None:
    """With bias correction the first step is lr in the gradient's sign; decay shrinks first."""
    params = one_number(1.0)
    optimise(params, slope(0.3), stream(Loop()), Loop(steps=1, lr=0.01, weight_decay=0.5))
    assert params["x"].item() == pytest.approx(1.0 * (1 - 0.01 * 0.5) - 0.01, rel=1e-6)


def test_a_steps_gradient_is_let_go_before_the_next_is_made() -> None:
    """Two of them at once would be four bytes a weight more: 30 GiB at 8B."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def gradient(_parts: Any, _step: int) -> tuple[ParamVector, Loss]:
        alive.extend(one() is not None for one in made)
        found = torch.tensor([0.3])
        made.append(weakref.ref(found))
        return ParamVector({"x": found}), {"x": Term(torch.tensor(1.0), 1.0)}

    loop = Loop(steps=3)
    optimise(one_number(), gradient, stream(loop), loop)
    assert alive == [False] * 3


def test_the_gradient_is_clipped_to_its_length(tmp_path: Path) -> None:
    """Second moments remember: after steps of 3 (clipped to 1) and 0.5, Adam's ratio shows it."""
    loop = Loop(steps=2, lr=0.1, beta1=0.0, beta2=0.5, clip=1.0)

    def gradient(_parts: Any, step: int) -> Any:
        return slope([3.0, 0.5][step])(_parts, step)

    params = one_number(0.0)
    optimise(params, gradient, stream(loop), loop, log=TrainLog(tmp_path / "log.jsonl"))
    second = (0.5 * (0.5 * 1.0) + 0.5 * 0.25) / (1 - 0.25)
    expected = -0.1 * 1.0 - 0.1 * 0.5 / math.sqrt(second)
    assert params["x"].item() == pytest.approx(expected, rel=1e-6)
    norms = [json.loads(line)["norm"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert norms == pytest.approx([3.0, 0.5])  # before clipping
    free = one_number(0.0)
    optimise(free, gradient, stream(loop), loop.with_(clip=None))
    second = (0.5 * (0.5 * 9.0) + 0.5 * 0.25) / (1 - 0.25)
    assert free["x"].item() == pytest.approx(-0.1 - 0.1 * 0.5 / math.sqrt(second), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    tmp_path: Path, bad: float
) -> None:
    loop = Loop(steps=9, batch=2, checkpoint_every=3)
    some = stream(loop)

    def gradient(parts: Any, step: int) -> Any:
        return slope(1.0, bad if step == 4 else 1.0)(parts, step)

    params = one_number()
    with pytest.raises(TrainingError) as caught:
        optimise(params, gradient, some, loop, part="toy", work=tmp_path)
    rows = ", ".join(row for role in ids(some, 4).values() for row in role[:2])
    assert str(caught.value) == (
        f"toy step 5: the loss is {bad}, the gradient's norm 1.0 (rows {rows}, ...); "
        "lower lr; the last checkpoint is kept"
    )
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["step-00000004"]
    assert params["x"].item() == pytest.approx(1.0 - 4 * 1e-3, rel=1e-6)


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(TrainingError, match=r"^train step 1: the loss is 1.0, the gradient's norm"):
        optimise(one_number(), slope(math.nan), stream(Loop()), Loop(steps=1))


def test_progress_and_points_are_told_after_each_step() -> None:
    told: list[Any] = []
    loop = Loop(steps=3)
    optimise(
        one_number(),
        slope(1.0),
        stream(loop),
        loop,
        part="toy",
        progress=lambda *what: told.append(what),
        points={2: lambda step: told.append(("point", step))},
        before=lambda step: told.append(("before", step)),
    )
    assert told == [
        ("before", 0),
        ("toy", 1, 3),
        ("before", 1),
        ("toy", 2, 3),
        ("point", 2),
        ("before", 2),
        ("toy", 3, 3),
    ]


# ---- interruption


def quadratic(params: dict[str, torch.Tensor], stop_at: int | None) -> Any:
    """Give a gradient that reads the rows of its step, and an interruption."""

    def gradient(parts: Any, step: int) -> Any:
        if step == stop_at:
            raise KeyboardInterrupt
        count = float(sum(part[Role.BENIGN].mask.sum() for part in parts))
        x = params["x"].detach()
        return (
            ParamVector({"x": 2 * x * count / 50 + 0.1}),
            {"x": Term((x**2).sum() * count, count), "none": Term(torch.tensor(0.0), 0.0)},
        )

    return gradient


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stops", [[1], [5], [6], [7], [9], [3, 5, 8], [8, 8, 8]])
def test_an_interrupted_run_ends_at_the_same_bits(tmp_path: Path, stops: list[int]) -> None:
    loop = Loop(steps=10, batch=2, lr=0.03, schedule="cosine", warmup=2, checkpoint_every=3)

    def run(folder: Path, stop_at: int | None) -> torch.Tensor:
        folder.mkdir(exist_ok=True)
        params = {"x": torch.tensor([1.0, -2.0], requires_grad=True)}
        optimise(
            params,
            quadratic(params, stop_at),
            stream(loop),
            loop,
            part="toy",
            work=folder,
            log=TrainLog(folder / "log.jsonl"),
        )
        return params["x"].detach()

    whole = run(tmp_path / "whole", None)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", stop)
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write('{"part": "toy", "st')
    assert torch.equal(run(tmp_path / "broken", None), whole)
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path / "whole")] == list(range(1, 11))
    assert lines(tmp_path / "whole")[0]["empty"] == ["none"]
    kept = [path.name for path in (tmp_path / "broken" / "toy").iterdir()]
    assert kept == ["step-00000010"]


def test_a_finished_run_called_again_does_nothing(tmp_path: Path) -> None:
    loop = Loop(steps=3)
    params = one_number()
    optimise(params, slope(1.0), stream(loop), loop, work=tmp_path)

    def never(_parts: Any, _step: int) -> Any:
        raise AssertionError

    again = one_number(77.0)
    optimise(again, never, stream(loop), loop, work=tmp_path)
    assert torch.equal(again["x"], params["x"])


def test_a_half_written_checkpoint_is_swept_away(tmp_path: Path) -> None:
    loop = Loop(steps=4, checkpoint_every=2)
    left = tmp_path / "train" / "tmp-99999"
    left.mkdir(parents=True)
    (left / "state.safetensors").write_bytes(b"half")
    optimise(one_number(), slope(1.0), stream(loop), loop, work=tmp_path)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["step-00000004"]


def test_a_checkpoint_past_the_first_point_is_passed_over(tmp_path: Path) -> None:
    """It starts anew, passes every point, and may write over the old checkpoint."""
    loop = Loop(steps=6, checkpoint_every=3)
    first = one_number()
    optimise(first, slope(1.0), stream(loop), loop, work=tmp_path)
    for points in ([2, 6], [4], [6], [3, 5]):
        again = one_number()
        seen: list[int] = []
        optimise(
            again,
            slope(1.0),
            stream(loop),
            loop,
            work=tmp_path,
            points=dict.fromkeys(points, seen.append),
        )
        assert seen == points
        assert torch.equal(again["x"], first["x"])


def test_a_checkpoint_of_an_interrupted_run_may_be_written_again(tmp_path: Path) -> None:
    """The only checkpoint lies past the first point, so the run starts anew and meets its name."""
    loop = Loop(steps=6, checkpoint_every=3)

    def broken(parts: Any, step: int) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return slope(1.0)(parts, step)

    seen: list[int] = []
    points = dict.fromkeys([2, 6], seen.append)
    with pytest.raises(KeyboardInterrupt):
        optimise(one_number(), broken, stream(loop), loop, work=tmp_path, points=points)
    optimise(one_number(), slope(1.0), stream(loop), loop, work=tmp_path, points=points)
    assert seen == [2, 2, 6]
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["step-00000006"]


def test_a_checkpoint_that_cannot_be_written_is_told_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(steps=6, checkpoint_every=2)
    calls = iter([None, OSError(28, "No space left on device")])
    inner = module.save_file

    def full(*arguments: Any) -> None:
        error = next(calls)
        if error is not None:
            raise error
        inner(*arguments)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StoreError) as caught:
        optimise(one_number(), slope(1.0), stream(loop), loop, work=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'train' / 'step-00000004'}: cannot be written (no space left on device); "
        "free some space and run the same command again"
    )
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["step-00000002"]


def test_a_checkpoint_is_safetensors_and_json(tmp_path: Path) -> None:
    optimise(one_number(), slope(1.0), stream(Loop()), Loop(steps=1), work=tmp_path)
    names = {path.name for path in (tmp_path / "train" / "step-00000001").iterdir()}
    assert names == {"state.safetensors", "state.json"}
