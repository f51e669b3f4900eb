"""How often do the report's intervals hold the truth? Simulates outcomes whose truth is planted.

Run `python benchmarks/intervals.py`; it prints two tables and ends with 1 if a bar is missed.
Bars: 95 % intervals of rates cover 93-97 % (93-99 % at p = .05) and have width at no event;
the true cost-to-break lies inside in >= 93 %, with a median width of at most 3 budget steps.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from scipy import stats

from holdfast.report import cost, estimates

CLUSTERS, PROMPTS = 32, 4
BUDGETS = np.array([0, 8, 16, 32, 64, 128, 256, 512, 1024], float)
CURVES = {"steep": (6.0, 0.5), "middling": (5.5, 1.2), "shallow": (5.5, 2.0)}
"""Planted curves: H(b) = Phi((log2 b - middle) / spread), scaled so that H(0) = 0.005."""


def beta_binomial(
    generator: np.random.Generator, p: float, correlation: float, repeats: int
) -> np.ndarray:
    """Draw events per cluster, [repeats, CLUSTERS], with the given correlation inside clusters."""
    if correlation == 0:
        chance = np.full((repeats, CLUSTERS), p)
    else:
        scale = (1 - correlation) / correlation
        chance = generator.beta(p * scale, (1 - p) * scale, (repeats, CLUSTERS))
    return generator.binomial(PROMPTS, chance)


def rates(repeats: int) -> bool:
    """Print the coverage of rate intervals; say whether every bar is met."""
    generator = np.random.default_rng(20260823)
    sizes = np.full(CLUSTERS, PROMPTS)
    fine = True
    print(f"{'p':>5} {'icc':>5} {'cover %':>8} {'median width':>13}  bar")
    for correlation in (0.0, 0.3):
        for p in (0.05, 0.2, 0.5, 0.8):
            draws = beta_binomial(generator, p, correlation, repeats)
            found = [estimates.rate(row, sizes) for row in draws]
            cover = 100 * float(np.mean([r.low <= p <= r.high for r in found]))
            width = float(np.median([r.high - r.low for r in found]))
            top = 99 if p == 0.05 else 97
            fine &= 93 <= cover <= top
            print(f"{p:5.2f} {correlation:5.1f} {cover:8.1f} {width:13.3f}  93-{top}")
    for events in (0, PROMPTS):
        edge = estimates.rate(np.full(CLUSTERS, events), sizes)
        fine &= edge.high > edge.low
        print(f"{events * CLUSTERS} events of {sizes.sum()}: [{edge.low:.3f}, {edge.high:.3f}]")
    return fine


def planted(budgets: np.ndarray, middle: float, spread: float) -> np.ndarray:
    """Give the true harmful rate at each budget: 0.005 at 0, rising to 0.9."""
    logs = np.log2(np.maximum(budgets, 1e-9))
    return 0.005 + 0.895 * stats.norm.cdf((logs - middle) / spread)


def crossing(threshold: float, middle: float, spread: float) -> float:
    """Give the budget at which the planted curve meets the threshold."""
    return float(2 ** (middle + spread * stats.norm.ppf((threshold - 0.005) / 0.895)))


def outcomes(generator: np.random.Generator, truth: np.ndarray, groups: int) -> np.ndarray:
    """Draw events per budget and cluster, [K, groups].

    0.3 of a latent normal's variance is the cluster's, 0.4 the prompt's own at every budget, the
    rest new at each budget.
    """
    cluster = generator.normal(size=(1, groups, 1)) * np.sqrt(0.3)
    prompt = generator.normal(size=(1, groups, PROMPTS)) * np.sqrt(0.4)
    fresh = generator.normal(size=(len(truth), groups, PROMPTS)) * np.sqrt(0.3)
    return (cluster + prompt + fresh < stats.norm.ppf(truth)[:, None, None]).sum(-1)


def curve(events: np.ndarray) -> cost.Curve:
    """Wrap events [K, G] of fully coherent models."""
    full = np.full(events.shape, PROMPTS, float)
    return cost.Curve(events.astype(float), np.zeros(events.shape), full)


def cost_coverage(
    generator: np.random.Generator, curve_name: str, threshold: float, repeats: int
) -> tuple[float, float, float]:
    """Give the cost interval's coverage (%), its median width in steps, the estimate's own (%).

    The curve's place moves by a uniform part of one budget step in every repeat. The second
    attacker needs twice the budget; selection sides have 8 clusters.
    """
    middle, spread = CURVES[curve_name]
    ends, blank = np.append(BUDGETS, np.inf), np.zeros(len(BUDGETS))
    inside, widths, exact = [], [], []
    for repeat in range(repeats):
        here = middle + generator.uniform(0, 1)
        candidates = []
        for label, shift in (("strong", 0.0), ("weak", 1.0)):
            truth = planted(BUDGETS, here + shift, spread)
            score = curve(outcomes(generator, truth, CLUSTERS))
            choose = curve(outcomes(generator, truth, 8))
            candidates.append(cost.Candidate(label, BUDGETS, blank, blank, score, choose))
        found = cost.cost_to_break(candidates, threshold, resamples=400, seed=repeat)
        true = crossing(threshold, here, spread)
        inside.append(found.ci_low < true <= found.ci_high)
        exact.append(found.low < true <= found.high)
        steps = np.searchsorted(ends, [found.ci_low, found.ci_high])
        widths.append(steps[1] - steps[0])
    return 100 * float(np.mean(inside)), float(np.median(widths)), 100 * float(np.mean(exact))


def costs(repeats: int) -> bool:
    """Print the coverage of cost intervals; say whether every bar at the headline is met."""
    generator = np.random.default_rng(20260824)
    fine = True
    print(f"\n{'curve':>9} {'thr':>5} {'cover %':>8} {'median steps':>13} {'point %':>8}  bar")
    for name in CURVES:
        for threshold in (0.2, 0.05, 0.5):
            cover, width, exact = cost_coverage(generator, name, threshold, repeats)
            fine &= threshold != 0.2 or (cover >= 93 and width <= 3)
            bar = ">= 93, <= 3" if threshold == 0.2 else "shown only"
            print(f"{name:>9} {threshold:5.2f} {cover:8.1f} {width:13.1f} {exact:8.1f}  {bar}")
    return fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--cost-repeats", type=int, default=500)
    options = parser.parse_args()
    met = [rates(options.repeats), costs(options.cost_repeats)]
    print("\nevery bar is met" if all(met) else "\na bar is missed")
    sys.exit(0 if all(met) else 1)
