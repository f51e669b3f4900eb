"""Whether what is left of a study fits into memory, estimated before any weight is read.

Without torch on the CPU: shapes come from headers, lengths from the tokenizer's own file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from holdfast.api import Attack, Chain, Loop, Trainable, WeightAttack
from holdfast.data.example import Example
from holdfast.engine.context import Todo, check_context
from holdfast.engine.store import Store
from holdfast.engine.tasks import tasks
from holdfast.errors import ModelError
from holdfast.nn import memory
from holdfast.nn.files import ModelFiles
from holdfast.study.drawing import drawn
from holdfast.study.keys import digest
from holdfast.study.nodes import Start
from holdfast.study.plan import Plan

if TYPE_CHECKING:
    from holdfast.api import Method

EDITED = 2
"""Copies of the weights beside an edited model: those it starts from, and the edit until written.
An attack by prompt keeps none."""

LONGEST = 8
"""Rows whose tokens are counted, those with the most letters: the longest is among them."""


def check_fit(plan: Plan, store: Store, *, device: str = "cpu", workers: int = 1) -> None:
    """Refuse a study that cannot fit: a row into its model's context, a step into memory.

    Steps run alone or side by side. Those that are finished need nothing more and are not looked
    at.

    Raises:
        DataError: a row does not fit. ModelError: in one line, with the step, its line-up,
            precision and sizes.
    """
    todo = _todo(plan, store)
    if not todo:
        return
    check_context(plan, todo)
    free = memory.available(device)
    known: dict[str, float] = {}
    sizes = []
    for label, start, method, seed in todo:
        same = digest([start.key, method.identity() if method else None])
        if same not in known:
            parts, loop = _needed(plan, start, method, seed)
            apart = getattr(method, "separable", True)
            place = f"{label}: memory"
            memory.check_memory(parts, free, loop, where=place, separable=apart)
            known[same] = sum(parts.values())
        sizes.append(known[same])
    beside = sorted(sizes)[-workers:]
    if free is not None and sum(beside) > free:
        raise ModelError(
            "memory",
            f"about {sum(beside) / 2**30:.3g} GiB needed by {len(beside)} workers at once, "
            f"{free / 2**30:.3g} free",
            "use --workers 1" if len(beside) == 2 else "use fewer --workers",
        )


def _todo(plan: Plan, store: Store) -> list[Todo]:
    """Give every step left that loads a model: label, start, method (None: only asked), seed."""
    found: list[Todo] = []
    measures = {step.key: step for step in plan.measures.values()}
    for task in tasks(plan, store):
        kind, *place = task.call
        if kind == "defend":
            step = plan.defends[place[0]]
            found.append((task.label, step.start, step.method, step.seed))
        elif kind == "attack":
            track = plan.trajectories[place[0]]
            found.append((task.label, track.released.start, track.attack, track.seed))
        elif kind == "measure":
            found.append((task.label, measures[place[0]].beside.start, None, 0))
    return found


def _needed(
    plan: Plan, start: Start, method: Method | None, seed: int
) -> tuple[dict[str, float], Loop | None]:
    """Estimate one step: its parts in bytes, and the loop they belong to."""
    of = memory.shape(start.files)
    if isinstance(method, Trainable | Chain):
        loop, copies = method.loop, method.copies()
        trains = method.then if isinstance(method, Chain) else method
        vectors = trains.vectors()
    else:
        copies = EDITED if isinstance(method, WeightAttack) else 0
        return memory.needed(of, None, copies=copies), None
    pool = plan.attack_pool if isinstance(method, Attack) else plan.pool
    rows = drawn(method, pool, seed)
    longest, said = lengths(start.files, (row for some in rows.values() for row in some))
    parts = memory.needed(
        of,
        loop,
        copies=copies,
        vectors=vectors,
        rows=(loop.micro_batch or loop.batch) * len(rows),
        longest=longest,
        said=said,
    )
    return parts, loop


def lengths(files: ModelFiles, rows: Iterable[Example]) -> tuple[int, int]:
    """Count the tokens of the longest row and of the longest response; a template's own are left
    out.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    except Exception as error:  # the library raises no class of its own
        raise ModelError(
            str(files.folder / "tokenizer.json"),
            f"cannot be read ({str(error).splitlines()[0]})",
            "copy it again",
        ) from None

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    texts = [
        (
            (row.system or "") + "".join(text for _, text in row.turns) + row.prompt,
            row.response or "",
        )
        for row in rows
    ]
    texts = sorted(texts, key=lambda pair: -len(pair[0]) - len(pair[1]))[:LONGEST]
    counted = [(count(prompt), count(response)) for prompt, response in texts]
    return (
        max((asked + said for asked, said in counted), default=0),
        max((said for _, said in counted), default=0),
    )
