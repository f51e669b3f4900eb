"""Say whether a study's line-ups match in usefulness on the defender's own selection prompts.

    python studies/world/matched.py studies/world/claim.yaml runs

Crafts, facts and quiz pooled (140 prompts), for each line-up and seed, from the checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tune import SEED, utility

from holdfast import nn
from holdfast.api import set_threads
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.engine.store import Store
from holdfast.study.file import load_study
from holdfast.study.plan import Plan
from holdfast.testbeds.guild import corpora


def main() -> None:
    """Print one line a line-up: the seeds' utility in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    set_threads(1)
    plan, store, pool = Plan(load_study(given.study)), Store(given.store), Pool(corpora.rows())
    found: dict[str, dict[int, float]] = {}
    for track in plan.tracks:
        seeds = found.setdefault(track.lineup, {})
        if track.seed not in seeds:
            model, tokenizer = nn.load(track.released.folder(store))
            seeds[track.seed] = utility(model, Encoder(tokenizer, "plain"), pool, SEED)
    for name, seeds in found.items():
        print(name, ", ".join(f"{100 * seeds[s]:.1f}" for s in sorted(seeds)))  # noqa: T201


if __name__ == "__main__":
    main()
