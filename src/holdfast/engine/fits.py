"""Under which precision a method's step fits into one card of 80 GB and into one of 141 GB."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.api import Loop, LoRA, Precision
from holdfast.engine.cards import CARDS, Card
from holdfast.engine.sizes import Lengths
from holdfast.errors import ModelError
from holdfast.nn.memory import needed
from holdfast.nn.shapes import Shape

ORDER: tuple[Precision, ...] = ("fp32", "fp32_master", "bf16_kahan", "bf16_stochastic")
"""Precisions that are tried, the most exact first. `bf16_pure`, which swallows small steps, is
never advised; it needs as much as `bf16_stochastic`."""


@dataclass(frozen=True, slots=True)
class Step:
    """What decides a training step's memory: shape, loop, copies kept, rows and their lengths.

    `separable`: whether micro-batches leave the method's updates as they are.
    """

    of: Shape
    loop: Loop
    copies: int
    vectors: int
    roles: int
    lengths: Lengths
    separable: bool = True

    def bytes(self, loop: Loop | None = None) -> dict[str, float]:
        """Give what it needs, by what it is for; under another loop than its own, if given."""
        loop = loop or self.loop
        shared = loop.lora is not None and self.loop.lora is None
        rows = (loop.micro_batch or loop.batch) * self.roles
        longest, said = self.lengths.among(rows if loop.packing else 1)
        return needed(
            self.of,
            loop,
            copies=0 if shared else self.copies,
            vectors=self.vectors,
            rows=rows,
            longest=longest,
            said=said,
        )

    def fits(self, card: Card, loop: Loop) -> bool:
        """Say whether it fits under a loop."""
        return card.memory is None or sum(self.bytes(loop).values()) <= card.memory


def advice(step: Step, card: Card) -> str | None:
    """Say under what a step fits into a card, the study's own way first; None: under nothing.

    At the study's own micro-batch the precisions are tried, then a micro-batch of one, blocks run
    again, and last an adapter alone. A method whose updates a micro-batch changes keeps its own.
    """
    own = step.loop
    if step.fits(card, own):
        return "as written"
    ways: list[tuple[str, dict[str, object]]] = [("", {})]
    small: dict[str, object] = {}
    if step.separable:
        small = {"micro_batch": 1}
        ways.append((", micro_batch 1", small))
    told = "".join(f", {name} {value}" for name, value in small.items())
    ways.append((f"{told}, checkpoint_activations", {**small, "checkpoint_activations": True}))
    for told, more in ways if own.lora is None else []:
        for precision in ORDER:
            if step.fits(card, own.with_(precision=precision, **more)):
                return f"{precision}{told}"
    adapter = {"lora": own.lora or LoRA(), "compile_layers": False, "precision": ORDER[-1]}
    for told, more in ways:
        if step.fits(card, own.with_(**adapter, **more)):
            several = " (full training: several cards)" if own.lora is None else ""
            return f"lora in {ORDER[-1]}{told}{several}"
    return None


def check_fits(step: Step, where: str) -> dict[str, str]:
    """Give the advice for each card, by its name.

    Raises:
        ModelError: it fits into no card under any precision.
    """
    found = {name: advice(step, card) for name, card in CARDS.items()}
    if all(one is None for one in found.values()):
        size = sum(step.bytes().values()) / 2**30
        alone = "alone and micro_batch 1" if step.separable else "alone"
        raise ModelError(
            where,
            f"about {size:.3g} GiB needed, and under no precision does it fit into one card of "
            f"141 GB, not even with an adapter {alone}",
            "use a smaller model or shorter rows",
        )
    return {name: one or "several cards" for name, one in found.items()}
