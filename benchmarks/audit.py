"""Load, deduplicate and audit many rows: seconds of each part, and the peak of memory.

    python benchmarks/audit.py                  # 200,000 rows; under 5 minutes and 2.5 GiB
    python benchmarks/audit.py --self-check     # the same in small, in seconds

Rows are sentences of made-up words, their lengths like those of requests, drawn as words of a
language are: few often, most hardly ever. Planted among them: one row in a hundred is the one
before it with other punctuation, one in ten is an earlier one with another word in it, and one in a
hundred is a template with another name. Rows fall on sides by chance, so many of these cross them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from holdfast.data.audit import ATTACK, CALIBRATION, DEFENCE, EVALUATION, audit
from holdfast.data.example import Example, Side
from holdfast.data.pool import Pool
from holdfast.data.sources.local import Local

ROWS, SMALL = 200_000, 3_000
SECONDS, GIB = 300, 2.5
"""What the whole may take. Seconds of the processor, which other work does not stretch: it is one
thread and waits for nothing."""
WORDS = 30_000
T = TypeVar("T")


def vocabulary(rng: random.Random) -> list[str]:
    """Make up words of two to ten letters."""
    pairs = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    return ["".join(rng.choices(pairs, k=rng.randint(1, 5))) for _ in range(WORDS)]


def records(n: int) -> Iterator[dict[str, str]]:
    """Give n rows of prompt and response."""
    rng = random.Random(0)
    words = vocabulary(rng)
    often = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))
    told: list[list[str]] = []

    def near(said: list[str]) -> list[str]:
        at = rng.randrange(len(said))
        return [*said[:at], rng.choice(words), *said[at + 1 :]]

    for number in range(n):
        said = rng.choices(words, cum_weights=often, k=rng.randint(8, 30))
        if number % 100 == 1:
            yield {"prompt": ", ".join(told[-1]).upper() + "!", "response": "placeholder"}
            continue
        if number % 100 == 2:
            said = f"write a placeholder note for {rng.choice(words)} of the third file".split()
        elif number % 10 == 3:
            said = near(rng.choice(told))
        told.append(said)
        yield {"prompt": " ".join(said) + "?", "response": f"placeholder {number}"}


def timed(name: str, work: Callable[[], T]) -> T:
    """Run one part and print its seconds and the peak of memory so far."""
    began, spent = time.monotonic(), time.process_time()
    made = work()
    seconds, cpu = time.monotonic() - began, time.process_time() - spent
    print(f"{name:<12}{seconds:>8.1f} s{cpu:>8.1f} s of processor{peak():>8.2f} GiB at most")
    return made


def peak() -> float:
    """Give the most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def groups(pool: Pool) -> dict[str, list[Example]]:
    """Give the pool's rows by what a study takes them for."""
    selection = (Side.DEFENDER_SELECTION, Side.ATTACKER_SELECTION)
    return {
        EVALUATION: pool.rows(Side.EVALUATOR),
        CALIBRATION: [row for side in selection for row in pool.rows(side)],
        ATTACK: pool.rows(Side.ATTACKER),
        DEFENCE: pool.rows(Side.DEFENDER),
    }


def measure(path: Path) -> Any:
    """Load, deduplicate and audit one file; print each part, and give what was found."""
    rows = timed("load", lambda: Local(path=str(path), role="benign").examples())
    pool = timed("deduplicate", lambda: Pool(rows))
    return timed("audit", lambda: audit(groups(pool)))


def main(arguments: list[str] | None = None) -> int:
    """Make the rows, measure, and give 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--self-check", action="store_true", help=f"{SMALL} rows and no bars")
    given = parser.parse_args(arguments)
    n = SMALL if given.self_check else given.rows
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in records(n))
        print(f"{n} rows made in {time.monotonic() - began:.1f} s")
        began = time.process_time()
        found = measure(path)
    seconds = time.process_time() - began
    for pair in found.pairs:
        print(f"{pair.first} in {pair.second}: {pair.exact} equal, {pair.near} near")
    print(f"whole: {seconds:.1f} s of processor, {peak():.2f} GiB; may take {SECONDS} s, {GIB} GiB")
    # The peak is that of the whole process: of a test run that calls this, all that went before.
    return 0 if given.self_check else int(seconds > SECONDS or peak() > GIB)


if __name__ == "__main__":
    raise SystemExit(main())
