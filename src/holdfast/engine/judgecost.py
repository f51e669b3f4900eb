"""What judging costs: passes of a model here, or a server's tokens and money."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.api import Judge
from holdfast.endpoint import Endpoint
from holdfast.engine.cards import Card
from holdfast.engine.sizes import Counter
from holdfast.engine.store import Store
from holdfast.errors import ModelError
from holdfast.nn import memory
from holdfast.nn.files import local_only
from holdfast.nn.judging import FLOATS, ModelJudge
from holdfast.nn.shapes import Shape, known_shape
from holdfast.study.plan import Plan


@dataclass(slots=True)
class JudgeCost:
    """What one judge costs: calls at most, tokens it reads and writes, and what these take."""

    name: str
    calls: int = 0
    read: float = 0.0
    written: float = 0.0
    money: float | None = None
    """In the currency of the endpoint's prices; None where none are told."""
    flops: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0
    unchecked: str = ""


def judge_costs(plan: Plan, store: Store, on: Card, counter: Counter) -> list[JudgeCost]:
    """Give the cost of every judge that has something to read."""
    done = store.keys("judge")
    found = [_cost(judge, i, plan, done, on, counter) for i, judge in enumerate(plan.judges)]
    return [cost for cost in found if cost.calls]


def _cost(
    judge: Judge,
    number: int,
    plan: Plan,
    done: set[str],
    on: Card,
    counter: Counter,
) -> JudgeCost:
    cost, seen = JudgeCost(judge.name()), set(done)
    answer = plan.study.generation.max_new_tokens
    for track in plan.trajectories.values():
        for point in track.points.values():
            for step in point.asked.values():
                name = step.judges.get(number)
                if name is None or name in seen:
                    continue
                seen.add(name)
                prompts = plan.prompts[step.evaluation]
                calls = len(prompts.rows) * step.draws
                length = counter.of(track.released.start, prompts.rows)
                each = judge.around + length.prompt + answer
                if judge.tells_right:  # it sees a good answer besides
                    each += length.response
                if isinstance(judge, ModelJudge):
                    each = min(each, judge.max_length)
                cost.calls += calls
                cost.read += calls * each
                cost.written += calls * judge.writes
    endpoint = getattr(judge, "endpoint", None)
    if isinstance(endpoint, Endpoint):
        if endpoint.prices is not None:
            cost.money = endpoint.money(cost.read, cost.written)
        cost.unchecked = (
            f"judge {cost.name}: {endpoint.base_url} not asked; a call's tokens a guess"
        )
    elif isinstance(judge, ModelJudge):
        _run_here(judge, cost, on)
    return cost


def _run_here(judge: ModelJudge, cost: JudgeCost, on: Card) -> None:
    """Add what a judge's own model takes."""
    of = _shape(judge, cost)
    if of is None:
        return
    width = FLOATS[judge.dtype][1]
    cost.flops = 2.0 * (
        of.body * (cost.read + cost.written) + of.head * cost.calls * max(1, judge.writes)
    )
    written = cost.written / cost.calls if judge.writes > 1 else 0.0
    batches = cost.read / judge.batch_tokens
    each = of.weights * width / on.bandwidth + of.layers * on.launch
    cost.seconds = cost.flops / on.speed(width) + batches * (1 + written) * each
    cost.memory = float(of.weights * width)


def _shape(judge: ModelJudge, cost: JudgeCost) -> Shape | None:
    try:
        with local_only():
            return memory.shape(judge.files())
    except ModelError:
        found = known_shape(judge.model)
    told = "its shape is known, its files and prompt are not" if found else "its cost is left out"
    cost.unchecked = f"judge {cost.name}: {judge.model} not on this machine; {told}"
    return found
