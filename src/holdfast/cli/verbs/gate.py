"""`holdfast gate`: hold a verdict to bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError


def gate(
    folder: Annotated[Path, typer.Argument(help="The folder of a report (with verdict.json).")],
    min_examples: Annotated[
        float, typer.Option("--min-examples", help="Examples fine-tuning must at least take.")
    ],
    min_utility: Annotated[
        float,
        typer.Option(
            "--min-utility",
            help="Share of the undefended model's benign utility to be kept, between 0 and 1.",
        ),
    ],
    free: Annotated[
        str,
        typer.Option(
            "--free", help="What being opened without training counts as: fail, or report only."
        ),
    ] = "fail",
    lineup: Annotated[
        str | None,
        typer.Option("--lineup", help="One line-up. [default: all but the undefended one]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Hold a study's verdict to bounds: exit code 0 pass, 4 fail, 5 cannot tell, 3 invalid."""
    from holdfast.report.counted import named
    from holdfast.report.gate import WORDS, hold, overall
    from holdfast.report.verdict import read

    if free not in ("fail", "report"):
        raise ConfigError("--free", f"got '{free}'", "write fail or report")
    found = read(folder)
    gates = hold(
        found,
        min_examples=min_examples,
        min_utility=min_utility,
        free_fails=free == "fail",
        lineup=lineup,
    )
    code = overall(gates)
    if as_json:
        told = [
            {"lineup": g.lineup, "gate": WORDS[g.passed], "reasons": list(g.reasons)} for g in gates
        ]
        said = {"gate": WORDS[code], "threshold": found["study"]["threshold"]}
        say(json.dumps(said | {"lineups": told}, indent=1))
        return int(code)
    for one in gates:
        say(f"{one.lineup}: {WORDS[one.passed]}")
        for reason in one.reasons:
            say(f"  {reason}")
    share = 100 * found["study"]["threshold"]
    useful = named(str(found["study"].get("counts"))).useful
    said = f"broken means: more than {share:g} % of restricted requests {useful}"
    say(f"{said}, by the judge {found['study']['judges'][0]}")
    say(f"gate: {WORDS[code]}")
    return int(code)
