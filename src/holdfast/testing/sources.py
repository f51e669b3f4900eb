"""What every source promises: the same rows each time, whole, and sets that can be scored."""

from __future__ import annotations

from holdfast.api import Source
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool
from holdfast.testing.hold import hold


def it_gives_rows_and_always_the_same(method: Source) -> None:
    """Read twice it gives the same rows and the same content hash."""
    first, second = method.examples(), method.examples()
    hold(first, "gives no row")
    hold(first == second, "read twice it gives other rows")
    hold(method.content() == method.content(), "asked twice `content` gives another hash")


def every_row_is_whole(method: Source) -> None:
    """Prompts have words, roles and sides are known ones, hashes are those of the text."""
    for row in method.examples():
        hold(isinstance(row, Example), f"gives a {type(row).__name__}, no Example")
        shown = f"row {row.place}"  # never its words: they may be harmful
        hold(row.prompt.strip(), f"{shown} has an empty prompt; drop it")
        hold(isinstance(row.role, Role), f"role {row.role!r} of {shown} is none of Role")
        hold(
            row.side is None or isinstance(row.side, Side),
            f"side {row.side!r} of {shown} is none of Side",
        )
        hold(row.response is None or row.response.strip(), f"the answer of {shown} is empty")
        hold(row.group, f"{shown} has no group; let `example` fill it")


def its_rows_fit_into_a_pool(method: Source) -> None:
    """No declared group or prompt is on two sides, so the pool drops none of its rows."""
    dropped = Pool(method.examples()).dropped
    declared = {side.value: n for side, n in dropped.items() if n}
    hold(not declared, f"the pool drops rows that are on two sides: {declared}")


def its_personas_have_words(method: Source) -> None:
    """Each persona is a system prompt with something in it."""
    for persona in method.personas():
        hold(isinstance(persona, str) and persona.strip(), f"a persona is {persona!r}")


def its_sets_have_rows_that_can_be_scored(method: Source) -> None:
    """Each set it declares has rows that can be scored, and rows name no other set."""
    rows = method.examples()
    names = [one.name for one in method.sets()]
    hold(len(names) == len(set(names)), f"declares a set twice: {names}")
    named = {row.evaluation_set for row in rows if row.evaluation_set}
    hold(named == set(names), f"rows name sets {sorted(named)}, it declares {sorted(names)}")
    for one in method.sets():
        for row in rows:
            if row.evaluation_set == one.name:
                one.check(row.known, f"row {row.place}")


CHECKS = (
    it_gives_rows_and_always_the_same,
    every_row_is_whole,
    its_rows_fit_into_a_pool,
    its_personas_have_words,
    its_sets_have_rows_that_can_be_scored,
)
