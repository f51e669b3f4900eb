"""Seeds by purpose: what draws by chance, draws from its own."""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal["draw", "order", "init", "noise", "sampling", "bootstrap", "rounding"]


def seed(study: int, purpose: Purpose, *parts: int | str) -> int:
    """Give the 63-bit seed of one purpose under study seed `study`.

    No method name enters, so line-ups at one study seed share attack rows and order.
    """
    text = "/".join(["holdfast", str(study), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
