"""What a study may run on: two sizes of GPU, or this machine's processor; how fast, how large.

Speeds are stated, not promised. A card's peaks and bandwidth are its maker's (H100 SXM, H200). The
rest was fitted to what LOG.md has, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast.errors import ConfigError, did_you_mean
from holdfast.nn.memory import available

GIB = float(2**30)


@dataclass(frozen=True, slots=True)
class Card:
    """One device. Speeds in FLOP/s and bytes a second, times in seconds."""

    name: str
    told: str
    memory: float | None
    """Bytes a run may fill; None where nobody says."""
    half: float
    """Peak of products in bf16."""
    single: float
    """Peak of products in fp32."""
    bandwidth: float
    """Bytes read or written a second."""
    efficiency: float
    """Share of the peak that a whole pass reaches."""
    settling: float
    """Bytes read and written for each trained weight after a step's gradient: norm and AdamW."""
    launch: float
    """Least seconds that one block takes for one more token of a batch."""
    program: float = 0.0
    """Bytes of the program itself and its libraries, beside what a step needs."""
    gpu: bool = True

    def speed(self, width: int) -> float:
        """Give the FLOP/s reached in numbers of so many bytes."""
        return self.efficiency * (self.half if width == 2 else self.single)


_BIG = Card("80gb", "one GPU of 80 GB (H100)", 78 * GIB, 989e12, 67e12, 3.35e12, 0.25, 500, 8e-4)
CARDS = {
    "80gb": _BIG,
    "141gb": replace(
        _BIG,
        name="141gb",
        told="one GPU of 141 GB (H200)",
        memory=139 * GIB,
        bandwidth=4.8e12,
    ),
}
"""The two sizes. Efficiency, settling and launch: LOG.md, 2026-11-26 (8B-shape SGT on an H200: 37 %
of the peak with 8 + 8 rows, a whole step of 2 + 2 rows in 1.53 s under bf16_kahan, 0.75 s under
LoRA)."""

CORE = 8e10
"""Peak FLOP/s of one core in fp32; source: LOG.md, 2026-11-21 (54 to 99 of one thread)."""


def processor() -> Card:
    """Give one core of this machine: times on it are processor hours, whatever the workers.

    Half as fast in bf16 is a guess; the rest was fitted to benchmarks/estimate.py (LOG.md).
    """
    return Card(
        "cpu",
        "one core of this processor",
        available(),
        CORE / 2,
        CORE,
        bandwidth=1e10,
        efficiency=0.7,
        settling=60,
        launch=3e-4,
        program=0.6 * GIB,
        gpu=False,
    )


def card(name: str, efficiency: float | None = None) -> Card:
    """Give a device by name: `cpu`, `80gb` or `141gb`.

    Args:
        efficiency: the share of the peak that is reached; None takes the device's own.

    Raises:
        ConfigError: there is no such device, or no such share.
    """
    if name != "cpu" and name not in CARDS:
        known = ("cpu", *CARDS)
        raise ConfigError("--card", f"no card '{name}'", did_you_mean(name, known))
    found = processor() if name == "cpu" else CARDS[name]
    if efficiency is None:
        return found
    if not 0 < efficiency <= 1:
        raise ConfigError("--efficiency", f"got {efficiency:g}", "give a share above 0, at most 1")
    return replace(found, efficiency=efficiency)
