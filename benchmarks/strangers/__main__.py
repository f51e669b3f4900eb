"""Break inputs, stores, commands and models on purpose, and count what is told badly.

    PYTHONPATH=src python -m benchmarks.strangers --inputs 5000 --corruptions 500 --kills 100 \\
        --folders 40

A mutated input must end in one line and a known exit code, with no traceback, no word of a
restricted prompt, nothing half-written and within ten processor-seconds. A corrupted artefact of a
finished run must be told or made again. A killed command must give the same result when it is given
again. A hostile model or template must be refused or harmless. Each case is drawn from its seed and
number alone: `--only inputs:17` tries that one again, and shows what it said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.strangers import trying
from benchmarks.strangers.small import Small, made

PARTS: dict[str, tuple[int, str, Callable[[Small, int, int], str | None]]] = {
    "inputs": (5000, "mutated inputs", trying.an_input),
    "corruptions": (500, "corrupted artefacts", trying.a_corruption),
    "kills": (100, "kills", trying.a_kill),
    "folders": (40, "hostile models and templates", trying.a_folder),
}
"""Each part's size, what it is called, and how one case of it is tried."""


def main() -> int:
    """Print the figures; give 1 where anything was told badly."""
    asked = argparse.ArgumentParser(description=__doc__)
    for name, (size, what, _) in PARTS.items():
        asked.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} [full: {size}]")
    asked.add_argument("--first", type=int, default=0, help="number of the first case")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", metavar="PART:NUMBER", help="one case, and what it said")
    given = asked.parse_args()
    counts = {name: getattr(given, name) or 0 for name in PARTS}
    if not any(counts.values()):
        counts = {name: size for name, (size, _, _) in PARTS.items()}
    with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
        small = made(Path(folder))
        if given.only:
            part, _, number = given.only.partition(":")
            trying.TELL = True
            wrong = PARTS[part][2](small, given.seed, int(number))
            print(wrong or "well told")
            return int(wrong is not None)
        wrong = [_part(small, name, counts[name], given.seed, given.first) for name in PARTS]
    return int(any(wrong))


def _part(small: Small, name: str, count: int, seed: int, first: int) -> int:
    """Try a part; print its figures, and give how many cases went wrong."""
    if not count:
        return 0
    _, what, try_one = PARTS[name]
    began, found = time.monotonic(), {}
    for number in range(first, first + count):
        if (wrong := try_one(small, seed, number)) is not None:
            found[number] = wrong
            print(f"  {name}:{number} (seed {seed}): {wrong}", file=sys.stderr, flush=True)
    words = Counter(wrong.partition(":")[0].split(", ")[-1] for wrong in found.values())
    told = ", ".join(f"{count} {word}" for word, count in words.most_common()) or "none told badly"
    seconds = time.monotonic() - began
    print(f"{count} {what}, seed {seed}, from {first}: {told}; {seconds:.0f} s", flush=True)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
