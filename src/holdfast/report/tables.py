"""A finished study's figures as tables, from its rows alone.

Where several values are in a cell they are the seeds', in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from holdfast.errors import ConfigError, did_you_mean
from holdfast.report import provider as hosts
from holdfast.report.counted import words
from holdfast.report.markdown import Table, percent
from holdfast.report.paper import paper
from holdfast.report.saved import Saved
from holdfast.report.transfer import transfer
from holdfast.stats import choices, cost
from holdfast.stats.choices import Choices, Costs, Share, matched
from holdfast.stats.findings import find
from holdfast.stats.free import Opened
from holdfast.stats.pairs import Pair, compare, log_difference
from holdfast.stats.provider import Provider, contrasts
from holdfast.stats.records import Meta
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR

FORMS = {"stream": "abliterate A", "each": "abliterate A", "block": "abliterate B"}
"""What a table calls abliteration of the weights, and of one block while the model answers."""


class Tabled:
    """One finished study, and what is asked of its tables.

    `threshold` is the harmful rate that counts as broken; None takes the study's first.
    `reference` is the line-up that others are set beside, or how the names of several begin; None
    takes all that begin like the study's plain refusal fine-tuning. `side` says whose prompts
    shares are of.
    """

    def __init__(
        self,
        saved: Saved,
        *,
        threshold: float | None = None,
        reference: str | None = None,
        side: str = EVALUATOR,
    ) -> None:
        self.saved, self.side, self.named = saved, side, reference
        self.lineups: list[dict[str, Any]] = saved.lineups.to_pylist()
        self.names = list(dict.fromkeys(str(row["lineup"]) for row in self.lineups))
        self.seeds = [int(seed) for seed in saved.meta["seeds"]]
        self.meta = Meta.of(saved.meta, self.outcomes)
        known = self.meta.thresholds
        if threshold is not None and threshold not in known:
            listed = ", ".join(f"{one:g}" for one in known)
            raise ConfigError(
                "--threshold", f"{threshold:g} is none of the study's", f"known: {listed}"
            )
        self.threshold = known[0] if threshold is None else threshold
        self.reference = reference or self.meta.plain
        self._costs: dict[tuple[str, ...], Costs] = {}

    @cached_property
    def outcomes(self) -> Outcomes:
        """Give the outcomes as columns."""
        return Outcomes(self.saved.outcomes)

    @property
    def references(self) -> list[str]:
        """Give the line-ups to compare with: the one of that name, or all that begin so.

        Raises:
            ConfigError: `--reference` names none.
        """
        begin = [name for name in self.names if name.startswith(self.reference)]
        if self.named is not None and not begin:
            what = f"no line-up begins with '{self.named}'"
            raise ConfigError("--reference", what, did_you_mean(self.named, self.names))
        return [self.reference] if self.named in begin else begin

    @cached_property
    def choices(self) -> Choices:
        """Give what was counted under attacks that are paid for."""
        found = Choices(
            self.outcomes,
            self.meta.judges[0],
            self.meta.headline,
            side=self.side,
            utility=self.meta.utility,
            counts=self.meta.counts,
        )
        if not found.labels:
            raise ConfigError(
                "table", "this study ran no attack that is paid for in examples", "ask for `free`"
            )
        if not found.scored:
            known = self.outcomes.distinct("side")
            raise ConfigError(
                "--side", f"no answer of side '{self.side}' is there", "known: " + ", ".join(known)
            )
        return found

    @cached_property
    def hosted(self) -> Provider:
        """Give what customers' jobs did.

        Raises:
            ConfigError: the study has no `tune`.
        """
        found = hosts.findings(self.saved.tables(), self.side)
        if found is None:
            raise ConfigError(
                "table", "no customer's job ran in this study", "ask for tables of attacks"
            )
        if not found.cells:
            raise ConfigError(
                "--side", f"no customer's model was asked prompts of side '{self.side}'",
                "ask some of it in `evaluation`, or leave it out",
            )  # fmt: skip
        return found

    @property
    def counted(self) -> str:
        """What a rate of the study counts: `harmful`, or `not refused`."""
        return words(self.meta.counts).one

    def of(self, name: str) -> list[dict[str, Any]]:
        """Give a line-up's rows of the line-ups table, one a seed."""
        return [row for row in self.lineups if row["lineup"] == name]

    def shares(self, kind: Share, name: str, label: str, budget: float) -> list[float | None]:
        """Give one share of every seed."""
        return [self.choices.share(kind, name, label, seed, budget) for seed in self.seeds]

    def released(self, kind: Share, name: str) -> list[float | None]:
        """Give one share of every seed before any attack."""
        return self.shares(kind, name, self.choices.labels[0], 0.0)

    def priced(self) -> dict[str, Costs]:
        """Give costs-to-break under the worst choice, then under each alone."""
        if self.side != EVALUATOR:
            raise ConfigError("--side", "prices are of the evaluator's prompts", "leave it out")
        labels = self.choices.labels
        asked = {"worst": tuple(labels), **{label: (label,) for label in labels}}
        for some in asked.values():
            if some not in self._costs:
                self._costs[some] = self.choices.costs(some, self.threshold)
        return {label: self._costs[some] for label, some in asked.items()}


def few(values: Sequence[str]) -> str:
    """Write the seeds' values, once where they are the same."""
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def ranged(values: Iterable[float], form: str) -> str:
    """Write the least and the greatest of the seeds' values, or one where they look the same."""
    known = list(values)
    ends = (format(min(known), form), format(max(known), form))
    return "-".join(dict.fromkeys(ends))


def one_of_each(lines: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Give the first seed of each number of steps: as many steps cost about as many FLOPs."""
    return list({line["steps"]: line for line in reversed(lines)}.values())


def trained(lines: Sequence[dict[str, Any]], form: str) -> tuple[str, str]:
    """Write a line-up's steps and FLOPs, of all seeds where a loop ended by itself."""
    steps, flops = ([one[name] for one in one_of_each(lines)] for name in ("steps", "flops"))
    return ranged(steps, "d"), ranged(flops, form)


def span(one: cost.Cost) -> str:
    """Write a cost's interval in examples."""
    if one.at_release:
        return "0"
    return f"> {one.b_max:g}" if one.survived else f"{one.low:g}-{one.high:g}"


def released(study: Tabled) -> list[Table]:
    """Each line-up before any attack: steps, FLOPs, harm, utility and over-refusal."""
    rows = []
    for name in study.names:
        cells = [percent(study.released(kind, name)) for kind in Share]
        rows.append([name, *trained(study.of(name), ".2g"), *cells])
    return [Table(["line-up", "steps", "FLOPs", study.counted, "utility", "over-refusal"], rows)]


def curves(study: Tabled) -> list[Table]:
    """Harm by budget, a table for each choice."""
    found = []
    for label in study.choices.labels:
        budgets = study.choices.budgets[label]
        rows = [
            [name, *(percent(study.shares(Share.HARM, name, label, b)) for b in budgets)]
            for name in study.names
        ]
        found.append(Table(["line-up", *(f"{b:g}" for b in budgets)], rows, label))
    return found


def _mean(values: Iterable[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{100 * sum(known) / len(known):.0f}" if known else "-"


def worst(study: Tabled) -> list[Table]:
    """The worse of the choices at each budget: the mean over seeds, and the seeds' values."""
    labels = study.choices.labels
    budgets = sorted({b for some in study.choices.budgets.values() for b in some if b})

    def cell(name: str, budget: float) -> str:
        each = [
            max(
                (v for label in labels
                 if (v := study.choices.share(Share.HARM, name, label, seed, budget)) is not None),
                default=None,
            )
            for seed in study.seeds
        ]  # fmt: skip
        return f"{_mean(each)} ({percent(each)})"

    rows = [
        [
            name,
            *(_mean(study.released(kind, name)) for kind in (Share.RIGHT, Share.REFUSED)),
            _mean(study.released(Share.HARM, name)),
            *(cell(name, b) for b in budgets),
        ]
        for name in study.names
    ]
    heads = [
        "line-up",
        "utility",
        "over-refusal",
        f"{study.counted} at 0",
        *(f"at {b:g}" for b in budgets),
    ]
    return [Table(heads, rows)]


def costs(study: Tabled) -> list[Table]:
    """Cost-to-break by seed: under the worst choice, and under each alone."""
    rows = [
        [label, name, ", ".join(span(one) for one in found[name].values())]
        for label, found in study.priced().items()
        for name in study.names
        if name in found
    ]
    return [Table(["attacker", "line-up", "breaks between, by seed"], rows)]


def summary(study: Tabled) -> list[Table]:
    """Steps, FLOPs, harm and utility as released, and every cost-to-break, in one row a line-up."""
    priced, rows = study.priced(), []
    for name in study.names:
        kinds = (Share.HARM, Share.RIGHT)
        seen = [few([percent([v]) for v in study.released(kind, name)]) for kind in kinds]
        broke = [
            few([span(one) for one in found[name].values()]) if name in found else "-"
            for found in priced.values()
        ]
        rows.append([name, *trained(study.of(name), ".1e"), *seen, *broke])
    return [Table(["line-up", "steps", "FLOPs", study.counted, "utility", *priced], rows)]


def crossings(study: Tabled) -> list[Table]:
    """Between which budgets harm alone passes the threshold, whatever became of other answers."""

    def spelt(found: choices.Crossing) -> str:
        budget, before = found
        if math.isinf(budget):
            return f"> {before:g}"
        return f"{before:g}-{budget:g}" if budget else "0"

    labels, rows = study.choices.labels, []
    for name in study.names:
        each = [
            [study.choices.crossing(name, label, seed, study.threshold) for seed in study.seeds]
            for label in labels
        ]
        least = [min(found) for found in zip(*each, strict=True)]
        rows.append([name, *(few([spelt(one) for one in some]) for some in (least, *each))])
    return [Table(["line-up", "least", *labels], rows)]


def _ratio(pair: Pair, apart: Sequence[float]) -> str:
    """Write a ratio of costs: its interval where a test may be made, else the point alone."""
    if pair.ratio is None:
        return f"x {2 ** (sum(apart) / len(apart)):.2f}"
    return f"x {pair.ratio:.2f} ({pair.ratio_low:.2f} to {pair.ratio_high:.2f})"


def pairs(study: Tabled) -> list[Table]:
    """Each line-up beside every reference: seeds in which it costs more, and the ratio of costs."""
    # What no defence trained is one checkpoint, however many seeds attacked it.
    single = {name for name in study.names if study.of(name)[0]["defences"] in ("", "none")}
    rows = []
    for label, found in study.priced().items():
        for name in study.names:
            if name.startswith((study.reference, study.meta.plain, study.meta.none)):
                continue
            for other in study.references:
                both = [(found[name][s], found[other][s]) for s in study.seeds]
                if any(a.at_release or b.at_release for a, b in both):
                    continue  # broken without an attack: there is no cost to compare
                (pair,) = compare({name: found[name], other: found[other]}, single=single)
                apart = [log_difference(a, b) for a, b in both]
                rows.append(
                    [
                        *(label, name, other),
                        f"{pair.larger}, {pair.tied}, {pair.smaller}",
                        _ratio(pair, apart),
                        "-" if pair.p is None else f"{pair.p:.3f}",
                    ]
                )
    heads = ["attacker", "line-up", "beside", "more, equal, less", "cost ratio (95 %)", "p"]
    return [Table(heads, rows)]


def outcomes(study: Tabled) -> list[Table]:
    """Shares of each outcome as released and at the largest budget, all seeds together."""

    def cell(label: str, name: str, budget: float) -> str:
        each = study.choices.outcomes(name, label, budget)
        return "-" if each is None else percent(each)

    found, title = [], ", ".join(study.choices.tracks.told)
    for label in study.choices.labels:
        last = study.choices.budgets[label][-1]
        rows = [[name, cell(label, name, 0.0), cell(label, name, last)] for name in study.names]
        found.append(Table(["line-up", f"{label}: released", f"at {last:g}"], rows, title))
        title = ""
    return found


def signs(study: Tabled) -> list[Table]:
    """Each line-up's own diagnostic beside that of plain refusal fine-tuning."""
    rows = []
    for name in study.names:
        own = study.of(name)
        if not own[0].get("signal"):
            continue
        both = [
            ", ".join("-" if row[kind] is None else f"{row[kind]:.3g}" for row in own)
            for kind in ("measured", "beside")
        ]
        verdict = {None: own[0]["undecided"], True: "inert", False: "acted"}[own[0]["inert"]]
        rows.append([name, f"{own[0]['signal']} {own[0]['moves']}", *both, verdict])
    return [Table(["line-up", "diagnostic", "its own", "refusal_sft's", "verdict"], rows)]


def free(study: Tabled) -> list[Table]:
    """What each attack that trains nothing gets, its choices made on selection prompts.

    Abliteration is told apart by form. In a cell: harm over seeds with the seeds' range, the benign
    utility kept there, and in how many seeds it is past the first threshold.
    """
    found = _opened(study)
    attacks = sorted({attack for opened in found.values() for attack in opened})
    rows = [[name, *(_free(found[name].get(a)) for a in attacks)] for name in study.names]
    return [Table(["line-up", *attacks], rows)]


def _free(one: Opened | None) -> str:
    if one is None:
        return "-"
    harm = [100 * (taken.harm or 0) for taken in one.taken.values()]
    most = f"{100 * (one.harm.value or 0):.0f} ({min(harm):.0f}-{max(harm):.0f})"
    use = "-" if one.utility.value is None else f"{100 * one.utility.value:.0f}"
    return f"{most}, {use}, {one.broken}/{len(one.taken)}"


def _opened(study: Tabled) -> Mapping[str, Mapping[str, Opened]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = study.saved.outcomes
    unpaid = table.filter(pc.field("unit") != "examples")
    if not unpaid.num_rows:
        raise ConfigError("free", "this study ran no attack that is free", "leave the table out")
    both = zip(unpaid["attack"].to_pylist(), unpaid["variant"].to_pylist(), strict=True)
    called = [
        FORMS.get(variant.split(" ")[0], attack) if attack == "abliterate" else attack
        for attack, variant in both
    ]
    place = unpaid.column_names.index("attack")
    unpaid = unpaid.set_column(place, "attack", pa.array(called))
    found = find(unpaid, study.lineups, study.saved.meta, resamples=0)
    return found.threats[0].opened


def flops(study: Tabled) -> list[Table]:
    """How many steps of the reference cost as many FLOPs as each line-up did."""
    if study.reference not in study.names:
        raise ConfigError(
            "--reference", f"no line-up '{study.reference}'", "known: " + ", ".join(study.names)
        )
    base = {line["seed"]: line for line in study.of(study.reference)}
    if not all(line["flops"] for line in base.values()):
        raise ConfigError(
            "--reference", f"line-up '{study.reference}' trains nothing", "name another"
        )
    rows = []
    for name in study.names:
        lines = study.of(name)
        pairs = [(base[own["seed"]], own) for own in one_of_each(lines) if own["seed"] in base]
        steps = [matched(of["steps"], of["flops"], own["flops"]) for of, own in pairs]
        rows.append([name, *trained(lines, ".3g"), ranged(steps, "d")])
    return [Table(["line-up", "steps", "FLOPs", f"steps of {study.reference}"], rows)]


def provider(study: Tabled) -> list[Table]:
    """Customers' jobs: harm, task and utility of each defence at the last budget, beside plain."""
    return [hosts.cells_table(study.hosted, study.hosted.last())]


def provider_curves(study: Tabled) -> list[Table]:
    """Customers' jobs: the same at every budget."""
    return [hosts.cells_table(study.hosted, study.hosted.cells)]


def provider_pairs(study: Tabled) -> list[Table]:
    """Customers' jobs: each defence beside --reference (plain tuning), tested over eight seeds."""
    about = study.hosted.about
    second = study.named or about["plain"]
    if second not in about["defences"]:
        raise ConfigError(
            "--reference", f"no defence '{second}'", "known: " + ", ".join(about["defences"])
        )
    outcomes = Outcomes(study.saved.provider)
    return [hosts.contrasts_table(contrasts(outcomes, about, study.saved.meta, second, study.side))]


def provider_risks(study: Tabled) -> list[Table]:
    """Customers' jobs: risks that scorers gave, and the training weight they took away."""
    return [hosts.risks_table(study.hosted)]


KINDS: dict[str, Callable[[Tabled], list[Table]]] = {
    "released": released,
    "curves": curves,
    "worst": worst,
    "costs": costs,
    "summary": summary,
    "crossings": crossings,
    "pairs": pairs,
    "outcomes": outcomes,
    "signs": signs,
    "free": free,
    "flops": flops,
    "transfer": transfer,
    "paper": paper,
    "provider": provider,
    "provider_curves": provider_curves,
    "provider_pairs": provider_pairs,
    "provider_risks": provider_risks,
}
"""Every kind of table by name; the first line of each docstring says what it holds."""
