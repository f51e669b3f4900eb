"""Commands on the kitchen: build, drift."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.device import Device
from holdfast.cli.saying import say
from holdfast.errors import InvalidResultsError

SAME = 0.95
"""Share of answers that another machine gives alike, at least; ours."""

app = typer.Typer(
    help="Build the kitchen's data anew, or measure how far a model has gone from the one shipped.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def build(
    check: Annotated[
        bool, typer.Option("--check", help="Answer again and compare with the data; keep nothing.")
    ] = False,
) -> None:
    """Have smol:instruct answer the kitchen's prompts (half an hour); a stopped build goes on."""
    from holdfast.testbeds.kitchen import build as kitchen

    if not check:
        say(f"built: {kitchen.build(report=typer.echo)} answers")
        return
    same, many = kitchen.same(report=typer.echo)
    say(f"{same} of {many} answers are the shipped ones")
    if same < SAME * many:
        raise InvalidResultsError(
            "kitchen", f"{many - same} of {many} answers are others", "build the data again"
        )


@app.command()
def drift(
    model: Annotated[str, typer.Option("--model", help="The model to measure.")],
    format: Annotated[str, typer.Option("--format", help="How rows become prompts.")] = "chat",
    device: Device = "cpu",
) -> None:
    """Measure a model on the page of allowed answers: likelihood, and KL from the one shipped.

    Both are in nats a token, on smol:instruct's own answers to the evaluator's how-to's.
    """
    from holdfast.testbeds.kitchen.drift import measured

    found = measured(model, format, device)
    say(f"negative log-likelihood {found.nll:.3f} a token, {found.shipped:.3f} as shipped")
    say(f"KL from the model as shipped {found.kl:.3f} a token ({found.rows} answers)")
