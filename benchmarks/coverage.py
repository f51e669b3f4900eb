"""How often do the report's intervals hold the truth? Whole studies whose truth is planted.

    python benchmarks/coverage.py [--studies 4000] [--only costs rates kept]

Prints a table for each part and ends with 1 if a bar is missed. What is drawn shares no line with
the code under test; only the estimates come from Holdfast.

`costs`: a study is four line-ups x eight seeds, attacked in four ways. Every trained model has a
curve of its own, at its line-up's place plus a normal deviation of the seed and of each attack, in
log2 examples. An answer is harmful where a normal variable of variance 1 lies below the curve's
level; 0.3 of that variance is the prompt cluster's (half of it the same for all models), 0.4 the
prompt's at every budget, 0.3 new at each budget. One attack wrecks the model at once; the fastest
of the others spoils its benign answers later on. The attack is chosen on 16 restricted and 16
benign prompts, and scored on 60 and 40 others.

- The truth of a cost is that of one trained model: the budget at which its own curve, over all
  prompts that might be asked, meets the threshold under the attack that is truly its worst.
- The truth of a ratio is 2 to the difference of the line-ups' places, one over all trainings. Where
  a setting has `lasting` > 0, some prompts suit one line-up better in all its seeds. A study with
  one set of prompts cannot see past that, so such settings are shown without a bar.

Bars: cost intervals hold the truth in at least 94 %; the interval of a ratio leaves out 1 in at
most 6 % of pairs without a difference; some ranking is claimed in at most 5 % of studies without
any difference.

`rates` and `kept`: intervals of a share, and of the usefulness kept, with clusters that agree and
seeds that differ. Bars: at least 93 % for shares, at least 94 % for `kept`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from holdfast.stats import cost, estimates
from holdfast.stats import ratios as kept_use
from holdfast.stats.pairs import Pair, compare

LINEUPS, SEEDS, PROMPTS = 4, 8, 2
CHOOSING, BENIGN = 8, 20
"""Clusters of two prompts each: the attacker's of either kind, and the benign ones."""
THRESHOLD = 0.2
FINE = np.array([0, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64], float)
COARSE = np.array([0, 4, 16, 64], float)
FLOOR, TOP = 0.005, 0.9
"""Harmful rate before any attack, and after endless training."""
ATTACKS = {"wreck": 0.0, "fast": 0.0, "middling": 0.5, "slow": 1.5}
"""How much more than the fast one an attack needs, log2; the wreck leaves no model at all."""
SPOILT = 4.0
"""The fast attack takes the benign answers below four fifths 2^4 times after its crossing."""
RESAMPLES = 400
"""The report takes 1,000; the interval's ends are order statistics and move little."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One kind of study: `shifts` are the line-ups' places beside the first's, log2 examples."""

    name: str
    budgets: np.ndarray
    spread: float
    seeds: float
    shifts: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    clusters: int = 30
    lasting: float = 0.0

    @property
    def null(self) -> bool:
        """Whether no line-up differs from another."""
        return len(set(self.shifts)) == 1


APART = (0.0, 0.5, 1.0, 2.0)
SETTINGS = (
    Setting("steep, fine", FINE, 0.5, 0.4),
    Setting("shallow, fine", FINE, 2.0, 0.4),
    Setting("steep, coarse", COARSE, 0.5, 0.4),
    Setting("shallow, coarse", COARSE, 2.0, 0.4),
    Setting("seeds far apart", FINE, 1.0, 1.2),
    Setting("24 prompts", FINE, 1.0, 0.4, clusters=12),
    Setting("steep, fine, apart", FINE, 0.5, 0.4, APART),
    Setting("shallow, fine, apart", FINE, 2.0, 0.4, APART),
    Setting("steep, coarse, apart", COARSE, 0.5, 0.4, APART),
    Setting("lasting 0.05", FINE, 1.0, 0.4, lasting=0.05),
    Setting("lasting 0.15", FINE, 1.0, 0.4, lasting=0.15),
)


@dataclass(frozen=True, slots=True)
class Side:
    """Counts by cluster on one side: restricted [N, L, S, A, K, G], benign [N, L, S, A, K, U]."""

    harmful: np.ndarray
    degenerate: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, slots=True)
class Studies:
    """Some studies: both sides, each model's true cost and truly worst attack, [N, L, S]."""

    evaluator: Side
    selection: Side
    truth: np.ndarray
    worst: np.ndarray


def events(
    generator: np.random.Generator, level: np.ndarray, groups: int, lasting: float, fresh: bool
) -> np.ndarray:
    """Count events per cluster, [N, L, S, A, K, groups], for levels [N, L, S, A, K] (probit).

    `lasting` is the part of the cluster's variance that all seeds of a line-up share. Without
    `fresh` the last 0.3 is new for each attack and not at each budget.
    """
    n, lineups, seeds, attacks, budgets = level.shape

    def normal(variance: float, *shape: int) -> np.ndarray:
        scale = np.float32(np.sqrt(variance))
        return scale * generator.standard_normal((*shape, groups), dtype=np.float32)

    cluster = normal(0.15, n, 1, 1) + normal(lasting, n, lineups, 1)
    cluster = cluster + normal(0.15 - lasting, n, lineups, seeds)
    found = np.zeros((*level.shape, groups), np.int8)
    for _ in range(PROMPTS):
        prompt = cluster + normal(0.4, n, lineups, seeds)
        new = normal(0.3, n, lineups, seeds, attacks, budgets if fresh else 1)
        found += new + prompt[:, :, :, None, None] < level[..., None]
    return found


def studies(generator: np.random.Generator, setting: Setting, count: int) -> Studies:
    """Draw some studies."""
    shape, attacks = (count, LINEUPS, SEEDS), np.array(list(ATTACKS.values()))
    place = generator.uniform(2.0, 3.5, (count, 1, 1)) + np.array(setting.shifts)[:, None]
    place = place + setting.seeds * generator.standard_normal(shape)
    own = place[..., None] + attacks + 0.3 * generator.standard_normal((*shape, len(attacks)))
    # Log2 of the budget at which each curve meets the threshold.
    met = own + setting.spread * special.ndtri((THRESHOLD - FLOOR) / (TOP - FLOOR))
    logs = np.log2(np.maximum(setting.budgets, 1e-9))
    chance = FLOOR + (TOP - FLOOR) * special.ndtr((logs - own[..., None]) / setting.spread)
    useful = np.full(chance.shape, 0.95)
    # 0.95 at first, four fifths of it 2^SPOILT times after the crossing.
    useful[..., 1, :] -= 0.38 * special.ndtr(logs - met[..., 1, None] - SPOILT)
    harm_level, useful_level = (special.ndtri(p).astype(np.float32) for p in (chance, useful))
    gone = setting.budgets > 0

    def side(groups: int, benign: int) -> Side:
        harmful = events(generator, harm_level, groups, setting.lasting, fresh=True)
        right = events(generator, useful_level, benign, 0.0, fresh=False)
        degenerate = np.zeros_like(harmful)
        harmful[:, :, :, 0, gone] = 0
        right[:, :, :, 0, gone] = 0
        degenerate[:, :, :, 0, gone] = PROMPTS
        return Side(harmful, degenerate, right)

    met[..., 0] = np.inf
    return Studies(
        side(setting.clusters, BENIGN), side(CHOOSING, CHOOSING), 2 ** met.min(-1), met.argmin(-1)
    )


def pooled(side: Side, attack: int) -> cost.Shares:
    """Give one attack's shares for all models at once: [N L S, K]."""

    def share(counts: np.ndarray) -> np.ndarray:
        part = counts[:, :, :, attack].mean(-1) / PROMPTS
        return part.reshape(-1, part.shape[-1])

    harm = share(side.harmful)
    asked = np.full(harm.shape, float(PROMPTS * side.harmful.shape[-1]))
    return cost.Shares(harm, share(side.degenerate), asked, share(side.right))


def points(setting: Setting, drawn: Studies) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate every model's cost without an interval: attack chosen, low, high, [N, L, S]."""
    each, grid = range(len(ATTACKS)), setting.budgets
    chosen = cost.choose(
        [grid for _ in each], [pooled(drawn.selection, a) for a in each], THRESHOLD
    )
    found = np.array([cost.breaks(pooled(drawn.evaluator, a), THRESHOLD) for a in each])
    before, at = found[chosen, :, np.arange(len(chosen))].T
    low = np.where(at == 0, 0.0, grid[before])
    high = np.where(at == 0, 0.0, np.append(grid, np.inf)[at])
    shape = drawn.truth.shape
    return chosen.reshape(shape), low.reshape(shape), high.reshape(shape)


def candidates(setting: Setting, drawn: Studies, study: int) -> list[cost.Candidate]:
    """Wrap one model's answers as the report would: the first line-up's first seed."""

    def curve(side: Side, attack: int) -> cost.Curve:
        harm, bad, right = (
            part[study, 0, 0, attack].astype(float)
            for part in (side.harmful, side.degenerate, side.right)
        )
        asked = np.full(right.shape, float(PROMPTS))
        return cost.Curve(harm, bad, np.full(harm.shape, float(PROMPTS)), right, asked)

    grid = setting.budgets
    return [
        cost.Candidate(name, grid, grid, grid, curve(drawn.evaluator, a), curve(drawn.selection, a))
        for a, name in enumerate(ATTACKS)
    ]


@dataclass(slots=True)
class Tally:
    """What was seen in one setting: an entry a study, or a pair of line-ups."""

    held: list[bool] = field(default_factory=list)
    by_point: list[bool] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    misled: list[bool] = field(default_factory=list)
    claimed: list[bool] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def tested(self) -> Mapping[tuple[int, int], np.ndarray]:
        """Give lead, low and high of log2 ratios of the tested pairs: [P, 3] by line-ups."""
        found: dict[tuple[int, int], list[list[float]]] = {}
        for pair in self.pairs:
            if pair.ratio and pair.ratio_low and pair.ratio_high:
                ends = [pair.ratio, pair.ratio_low, pair.ratio_high]
                found.setdefault((int(pair.left), int(pair.right)), []).append(ends)
        return {key: np.log2(rows) for key, rows in found.items()}


def chunks(generator: np.random.Generator, setting: Setting, count: int) -> Iterator[Studies]:
    """Draw studies in parts that fit into memory."""
    for start in range(0, count, 40):
        yield studies(generator, setting, min(40, count - start))


def simulate(setting: Setting, count: int, resamples: int, seed: int) -> Tally:
    """Simulate one setting."""
    tally, generator = Tally(), np.random.default_rng(seed)
    ends = np.append(setting.budgets, np.inf)
    for drawn in chunks(generator, setting, count):
        chosen, lows, highs = points(setting, drawn)
        tally.misled += (chosen != drawn.worst)[:, 0, 0].tolist()
        for study, (low, high) in enumerate(zip(lows, highs, strict=True)):
            own, true = candidates(setting, drawn, study), drawn.truth[study, 0, 0]
            found = cost.cost_to_break(own, THRESHOLD, resamples=resamples)
            # The vectorised path and the report's own give the same price.
            assert (found.low, found.high) == (low[0, 0], high[0, 0])
            tally.held.append(bool(found.ci_low < true <= found.ci_high))
            tally.by_point.append(bool(found.low < true <= found.high))
            steps = np.searchsorted(ends, [found.ci_low, found.ci_high])
            tally.widths.append(int(steps[1] - steps[0]))
            pairs = compare(
                {
                    str(lineup): {
                        seed: cost.Cost(a, b, a, b, ends[-2], (a, b), (a, b), "", "selection")
                        for seed, (a, b) in enumerate(zip(*sides, strict=True))
                    }
                    for lineup, sides in enumerate(zip(low.tolist(), high.tolist(), strict=True))
                }
            )
            tally.pairs += pairs
            tally.claimed.append(any(pair.costlier for pair in pairs))
    return tally


def costs(count: int, resamples: int = RESAMPLES, chosen: Sequence[Setting] = SETTINGS) -> bool:
    """Print the coverage of costs and ratios; say whether every bar is met."""
    print(
        f"{'costs and ratios':>22} {'held %':>7} {'width':>6} {'point %':>8} {'misled %':>9}"
        f" | {'not 1 %':>8} {'held %':>7} {'on grid %':>10} {'factor':>7} {'claims %':>9}"
    )
    fine = True
    for index, setting in enumerate(chosen):
        tally = simulate(setting, count, resamples, 20261126 + index)
        held, claimed = 100 * np.mean(tally.held), 100 * np.mean(tally.claimed)
        excluded, right, on_grid, factor = ratios(setting, tally)
        null = f"{excluded:8.1f}" if setting.null else f"{'-':>8}"
        met = held >= 94 and (not setting.null or (excluded <= 6 and claimed <= 5))
        note = "" if setting.lasting == 0 else "  (no bar)"
        fine &= bool(met or note)
        print(
            f"{setting.name:>22} {held:7.1f} {np.mean(tally.widths):6.2f}"
            f" {100 * np.mean(tally.by_point):8.1f} {100 * np.mean(tally.misled):9.1f}"
            f" | {null} {right:7.1f} {on_grid:10.1f} {factor:7.2f} {claimed:9.1f}{note}",
            flush=True,
        )
    return fine


def ratios(setting: Setting, tally: Tally) -> tuple[float, float, float, float]:
    """Give how often ratios leave out 1, hold the truth, hold their own mean (%), and their span.

    Their own mean is that of all studies' estimates: what the budgets let one see of the truth (1
    where nothing differs). The span is the typical factor from the lower to the upper end.
    """
    one, right, own, spans = [], [], [], []
    for (left, other), rows in tally.tested().items():
        lead, low, high = rows.T
        true = setting.shifts[left] - setting.shifts[other]
        seen = 0.0 if setting.null else lead.mean()
        for hits, centre in ((one, 0.0), (right, true), (own, seen)):
            hits.append((low - 1e-9 <= centre) & (centre <= high + 1e-9))
        spans.append(high - low)
    held = [100 * float(np.mean(np.concatenate(hits))) for hits in (one, right, own)]
    return 100 - held[0], held[1], held[2], float(2 ** np.median(np.concatenate(spans)))


@dataclass(frozen=True, slots=True)
class Answers:
    """A setting of `rates` and `kept`: the undefended model's true share, and the ratio to it.

    `deviation` is the seeds' (probit); `over_seeds` whether the truth is that of all trainings and
    the interval asked over seeds, or that of the trained models at hand.
    """

    share: float
    ratio: float
    seeds: int = 1
    deviation: float = 0.0
    clusters: int = 30
    agree: float = 0.3

    @property
    def over_seeds(self) -> bool:
        """Whether there are seeds enough for an interval over them."""
        return self.seeds >= estimates.SEEDS_FOR_INTERVAL


def drawn_answers(
    generator: np.random.Generator, it: Answers
) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw right answers (own, plain), each [S, G, PROMPTS], and the line-up's true share.

    Of the latent variance, `agree` is the cluster's (a third of it not shared with the undefended
    model), 0.3 the prompt's, the rest new in each model.
    """
    scales = [2 * it.agree / 3, it.agree / 3, 0.3, 0.7 - it.agree]
    common, own, prompt, new = (float(np.sqrt(scale)) for scale in scales)
    clusters, prompts = (it.clusters, 1), (it.clusters, PROMPTS)
    normal = generator.standard_normal
    shared = common * normal(clusters) + prompt * normal(prompts)
    plain = shared + own * normal(clusters) + new * normal(prompts) < special.ndtri(it.share)
    level = special.ndtri(it.share * it.ratio) * np.sqrt(1 + it.deviation**2)
    places = level + it.deviation * normal((it.seeds, 1, 1))
    latent = shared + own * normal(clusters) + new * normal((it.seeds, *prompts))
    true = it.share * it.ratio if it.over_seeds else float(special.ndtr(places).mean())
    return latent < places, np.broadcast_to(plain, latent.shape), true


def answers(kind: str, chosen: Sequence[Answers], count: int) -> bool:
    """Print the coverage of `rate` or `kept`; say whether every bar is met."""
    heads = f"{'share':>6} {'ratio':>6} {'seeds':>6} {'apart':>6} {'agree':>6} {'clusters':>9}"
    print(f"\n{kind:>8} {heads} {'held %':>7} {'below %':>8} {'above %':>8} {'width':>6}")
    generator, fine, bar = np.random.default_rng(20261127), True, 93 if kind == "rates" else 94
    for it in chosen:
        below, above, widths = [], [], []
        for _ in range(count):
            own, plain, true = drawn_answers(generator, it)
            seed, cluster, _ = np.indices(own.shape).reshape(3, -1)
            over = seed if it.over_seeds else None
            ones = np.ones(own.size)
            if kind == "rates":
                found = estimates.rate(own.ravel(), ones, cluster=cluster, seed=over)
            else:
                found = kept_use.kept(own.ravel(), plain.ravel(), ones, cluster, over)
                true /= it.share
            below.append(true < found.low)
            above.append(true > found.high)
            widths.append(found.high - found.low)
        low, high = 100 * float(np.mean(below)), 100 * float(np.mean(above))
        fine &= 100 - low - high >= bar
        print(
            f"{'':>8} {it.share:6.2f} {it.ratio:6.2f} {it.seeds:6d} {it.deviation:6.1f}"
            f" {it.agree:6.1f} {it.clusters:9d} {100 - low - high:7.1f} {low:8.1f} {high:8.1f}"
            f" {np.median(widths):6.3f}",
            flush=True,
        )
    return fine


RATES = (
    *(Answers(p, 1.0, agree=agree) for agree in (0.0, 0.3) for p in (0.02, 0.05, 0.2, 0.5, 0.8)),
    *(Answers(p, 1.0, 8, apart) for apart in (0.0, 0.4) for p in (0.02, 0.2, 0.5)),
)
KEPT = (
    Answers(0.99, 1.0),
    Answers(0.95, 1.0),
    Answers(0.95, 0.9),
    Answers(0.9, 0.6),
    Answers(0.5, 1.0),
    Answers(0.5, 1.6),
    Answers(0.95, 0.9, clusters=12),
    Answers(0.95, 0.9, 3, 0.3),
    Answers(0.99, 1.0, 8, 0.3),
    Answers(0.95, 0.9, 8, 0.0),
    Answers(0.95, 0.9, 8, 0.4),
    Answers(0.8, 0.5, 8, 0.4),
)


def edges() -> None:
    """Print what no event, all events and a perfect model give."""
    for events in (0, 1):
        found = estimates.rate(np.full(32, 4 * events), np.full(32, 4))
        print(f"{128 * events} of 128 in 32 clusters: [{found.low:.3f}, {found.high:.3f}]")
    for groups in (12, 20, 24, 30, 40):
        ones = np.ones(groups)
        found = kept_use.kept(ones, ones, ones)
        print(f"all right beside all right, {groups} clusters: [{found.low:.3f}, {found.high:.3f}]")
    print(f"clusters that show 0.9: {kept_use.clusters_to_show(0.9)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--only", nargs="+", choices=["costs", "rates", "kept"])
    given = parser.parse_args(arguments)
    parts = given.only or ["costs", "rates", "kept"]
    started, fine = time.process_time(), True
    if "costs" in parts:
        fine &= costs(given.studies, given.resamples)
    if "rates" in parts:
        fine &= answers("rates", RATES, given.studies)
    if "kept" in parts:
        fine &= answers("kept", KEPT, given.studies)
    edges()
    spent = time.process_time() - started
    print(f"{'every bar is met' if fine else 'a bar is missed'}; {spent:.0f} s of processor time")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
