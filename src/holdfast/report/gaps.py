"""What a reader must know before any number: what is missing, and what was cut."""

from __future__ import annotations

from holdfast.report import text
from holdfast.report.names import listed
from holdfast.stats.cells import MOST_CUT
from holdfast.stats.records import Findings
from holdfast.stats.rows import NOT_REFUSED


def gaps(found: Findings) -> list[str]:
    """Say what a reader must know before any number.

    What a model's own notes have against it, holes, answers that were cut, and the chooser.
    """
    said = list(found.meta.doubts)
    holes = found.meta.holes
    if holes:
        first = holes[0]
        more = f" (and {len(holes) - 1} more)" if len(holes) > 1 else ""
        names = list(dict.fromkeys(str(hole["lineup"]) for hole in holes if hole.get("paid", True)))
        barred = f" No cost of fine-tuning is claimed for {listed(names)}." if names else ""
        said.append(
            f"Incomplete: {first['what']}, could not be run for {listed([first['lineup']])}{more}:"
            f" {str(first['why']).rstrip('.')}.{barred}"
        )
    cut = found.cut
    refusals = found.meta.counts == NOT_REFUSED  # how an answer begins tells
    if cut.language is not None and cut.language > MOST_CUT and not refusals:
        said.append(
            f"{text.percent(cut.language, 0)} of judged answers reached the token limit and were"
            " judged by what they say up to there: allow more tokens."
        )
    paid, unpaid = (
        any(
            attack.chosen_on != "selection"
            for threat in found.threats
            for attack in attacks(threat)
        )
        for attacks in (lambda threat: threat.attacks, lambda threat: threat.free_attacks)
    )
    if paid or unpaid:
        wrong = ["costs are too low"] * paid + ["what free attacks get is too high"] * unpaid
        said.append(
            "The attacker's choices were made on the prompts that score them, for want of selection"
            f" prompts of its own: {text.listed(wrong)}."
        )
    return said
