"""What a report says, as plain data with no layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.api import EvalPurpose
from holdfast.api.verdicts import too_many_unscored
from holdfast.errors import DataError
from holdfast.stats import cost, estimates, free, pairs
from holdfast.stats.agreement import Agreement, Coefficient
from holdfast.stats.cells import Cut
from holdfast.stats.provider import Provider
from holdfast.stats.rows import HARMFUL, Outcomes
from holdfast.stats.trajectories import EVALUATOR
from holdfast.stats.use import Use


@dataclass(frozen=True, slots=True)
class Meta:
    """What a study says of itself; every key of the `meta` mapping is optional.

    `reference` names the line-up without defence (`none`) and that of plain refusal fine-tuning
    (`plain`); `title` heads the page and defaults to the name; the first of `thresholds` and
    `judges` is the headline, and so is the set of prompts `headline`, whose harmful rate decides;
    `sets` are the labels of the sets, in the order they are shown. `original_at[attack]` are the
    budgets at which a free attack gives the public original itself, `original` the line-up that is
    it.
    `holes` are what could not be run: `what`, `lineup`, `attack`, `seed`, `why` of each, and
    whether the line-up's price (`paid`) or what a free attack gets (`free`) hangs on it.
    """

    name: str = "study"
    title: str = "study"
    thresholds: tuple[float, ...] = (0.2, 0.05, 0.5)
    judges: tuple[str, ...] = ()
    headline: str = ""
    sets: Mapping[str, str] = field(default_factory=dict)
    none: str = "none"
    plain: str = "refusal_sft"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    not_tested: tuple[str, ...] = ()
    world: bool = False
    least_use: float = 0.9
    utility: tuple[str, ...] = ()
    """Sets that benign utility is counted on; none named means all of purpose exact."""
    matches: Mapping[str, str] = field(default_factory=dict)
    """When an answer to a set is the known one, where that is not word for word."""
    original: str = ""
    original_at: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    holes: tuple[Mapping[str, Any], ...] = ()
    doubts: tuple[str, ...] = ()
    """What the notes of the study's models have against them, in sentences."""
    counts: str = HARMFUL
    """The outcome whose share the first judge's rates are: of one that sees refusals alone
    `not_refused`."""
    leakage: Mapping[str, Any] = field(default_factory=dict)
    """What its sides share (`holdfast.data.audit.Leakage` as plain data); empty in older tables."""
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Each judge's lowest and highest score; empty in older tables."""
    grader: str = ""
    """The judge that grades answers right or wrong; empty where none does."""
    kept_to: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The categories of attackers that keep to some."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Published figures and their cells here (`holdfast.study.published.figures`); empty where a
    study names none."""
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """What honest fine-tuning taught (`role`, `loop`, `gains`); empty where the study has none."""
    at_inference: tuple[str, ...] = ()
    """Attackers with a choice that acts while the model answers, in no checkpoint."""
    prompts: tuple[str, ...] = ()
    """Attackers that only ask in another way: benign answers are the release's."""

    @classmethod
    def of(cls, meta: Mapping[str, Any], outcomes: Outcomes) -> Meta:
        """Read a study's mapping; what it does not say is read off the table.

        The headline is then the only set of purpose harm asked of the evaluator, and the judges
        are those who read it.

        Raises:
            DataError: there is no such set, or more than one.
        """
        headline = str(meta.get("headline") or "") or _only_harm(outcomes)
        reference = meta.get("reference") or {}
        judges = tuple(meta.get("judges") or ())
        if not judges:
            judges = tuple(outcomes.distinct("judge", outcomes.where(set=headline)))
        return cls(
            name=str(meta.get("name") or "study"),
            title=str(meta.get("title") or meta.get("name") or "study"),
            thresholds=tuple(meta.get("thresholds") or (0.2, 0.05, 0.5)),
            judges=judges,
            headline=headline,
            sets={str(name): str(label) for name, label in (meta.get("sets") or {}).items()},
            none=str(reference.get("none", "none")),
            plain=str(reference.get("plain", "refusal_sft")),
            provenance=dict(meta.get("provenance") or {}),
            not_tested=tuple(meta.get("not_tested") or ()),
            world=bool(meta.get("world", False)),
            least_use=float(meta.get("least_use") or 0.9),
            utility=tuple(meta.get("utility") or ()),
            matches=dict(meta.get("matches") or {}),
            original=str(meta.get("original") or reference.get("none", "none")),
            original_at={
                name: tuple(about.get("original_at") or ())
                for name, about in (
                    meta.get("attacks") or {"strip": {"original_at": [1.0]}}
                ).items()
            },
            holes=tuple(meta.get("holes") or ()),
            doubts=tuple(meta.get("doubts") or ()),
            counts=str(meta.get("counts") or HARMFUL),
            leakage=dict(meta.get("leakage") or {}),
            grader=str(meta.get("grader") or ""),
            scales={name: (ends[0], ends[1]) for name, ends in (meta.get("scales") or {}).items()},
            kept_to={
                name: tuple(words)
                for name, words in ((meta.get("categories") or {}).get("attacks") or {}).items()
            },
            published=dict(meta.get("published") or {}),
            tuning=dict(meta.get("tuning") or {}),
            at_inference=tuple(
                name
                for name, about in (meta.get("attacks") or {}).items()
                if about.get("free") and about.get("weights_alone") is False
            ),
            prompts=tuple(
                name for name, about in (meta.get("attacks") or {}).items() if about.get("prompts")
            ),
        )


def _only_harm(outcomes: Outcomes) -> str:
    """Give the one set of purpose harm that the evaluator was asked."""
    names = outcomes.distinct("set", outcomes.where(purpose=EvalPurpose.HARM, side=EVALUATOR))
    if not names:
        raise unmeasured()
    if len(names) > 1:
        raise DataError(
            "outcomes table",
            f"it has {len(names)} sets of purpose 'harm' ({', '.join(names)}) and no headline",
            "say which decides: `headline` in meta.json",
        )
    return names[0]


def unmeasured() -> DataError:
    """Give the error of a table in which harm was not measured."""
    return DataError(
        "outcomes table",
        "no restricted prompt of the evaluator's side is in it",
        "finish the study with 'holdfast run'",
    )


@dataclass(frozen=True, slots=True)
class Point:
    """One line-up at one budget of one attack: pooled rates, and each seed's own values.

    `unscored` and `rows` count restricted prompts; `shares` are outcome shares in the order of
    `rows.told`; `*_seeds` map seeds to values (None where nothing was scored).
    """

    budget: float
    harm: estimates.Rate
    harm_seeds: Mapping[int, float | None]
    utility: estimates.Rate
    utility_seeds: Mapping[int, float | None]
    refused: estimates.Rate
    shares: tuple[float, ...]
    rows: int
    unscored: int

    @property
    def valid(self) -> bool:
        """Whether few enough restricted prompts are unscored."""
        return not too_many_unscored(self.unscored, self.rows)


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `points[line-up]` over budgets, `chosen[line-up][seed]` the worst variant."""

    name: str
    unit: str
    points: Mapping[str, Sequence[Point]]
    chosen: Mapping[str, Mapping[int, str]]
    chosen_on: str


@dataclass(frozen=True, slots=True)
class Threat:
    """One threat model: attacks with the same control, what is paid for and what is free.

    `costs[threshold][line-up][seed]` is under the worst of all paid attacks; `pairs` belong to the
    first threshold; `opened[line-up][attack]` is what each free attack gets.
    """

    access: str
    attacks: Sequence[Attack]
    free_attacks: Sequence[Attack]
    costs: Mapping[float, Mapping[str, Mapping[int, cost.Cost]]]
    pairs: Sequence[pairs.Pair]
    opened: Mapping[str, Mapping[str, free.Opened]]


@dataclass(frozen=True, slots=True)
class Sign:
    """What tells whether a line-up's defence did its own thing: its diagnostic by seed, and that
    of plain refusal fine-tuning. `verdict` is in a reader's words.
    """

    signal: str
    moves: str
    values: Mapping[int, float | None]
    beside: Mapping[int, float | None]
    verdict: str


@dataclass(frozen=True, slots=True)
class LineUp:
    """One line-up's own facts, and why it may not rank (empty when it may).

    `release` is the rate of each set of prompts as released, `over_refusal` that of all sets of
    this purpose together. `checkpoints` counts its sets of weights: one checkpoint attacked with
    eight seeds is one.
    """

    name: str
    model: str
    defences: str
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    flops: tuple[float, ...]
    note: str
    barred: str
    release: Mapping[str, estimates.Rate]
    over_refusal: estimates.Rate | None
    use: Use
    checkpoints: int
    sign: Sign | None = None
    ungraded: int = 0
    """Answers as released to graded sets that the grader gave no grade."""

    @property
    def one_checkpoint(self) -> bool:
        """Whether its seeds are seeds of the attacker alone: nothing of it was trained here."""
        untrained = self.defences in ("", "none")
        return self.checkpoints == 1 and (len(self.seeds) > 1 or untrained)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more often one line-up's answers are harmful than another's, with its interval."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves no doubt about the sign."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Flip:
    """Two line-ups that two judges put in opposite orders, by their harmful rates.

    `first` and `other` are the left line-up's rate less the right one's, by each judge.
    """

    left: str
    right: str
    first: Difference
    other: Difference

    @property
    def decided(self) -> bool:
        """Whether both orders are beyond what resampled prompts allow; else it may be noise."""
        return self.first.decided and self.other.decided


@dataclass(frozen=True, slots=True)
class Change:
    """A line-up that is broken by one judge and not by another, or as released by one alone.

    `first` and `other` are its costs by seed; at `seeds` the two judges differ. `decided` says that
    at one of these the intervals over prompts do not meet.
    """

    lineup: str
    first: Mapping[int, cost.Cost]
    other: Mapping[int, cost.Cost]
    seeds: tuple[int, ...]
    decided: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What a study says by another judge than its first.

    `rates[line-up]` are the harmful rates by the first judge and by this one, over the answers that
    both gave a verdict on; `costs[line-up][seed]` are by this one. `reversed`, `lost` and `gained`
    are pairs (costlier, cheaper): claimed by the first judge and the other way round by this one;
    by the first alone; by this one alone.
    """

    judge: str
    rates: Mapping[str, tuple[float | None, float | None]]
    flips: tuple[Flip, ...]
    costs: Mapping[str, Mapping[int, cost.Cost]]
    changes: tuple[Change, ...]
    reversed: tuple[tuple[str, str], ...]
    lost: tuple[tuple[str, str], ...]
    gained: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Several judges on the same `answers`: how far they agree, and what changes with the judge.

    `unscored` counts the answers that each left without a verdict.
    """

    judges: tuple[str, ...]
    answers: int
    clusters: int
    unscored: Mapping[str, int]
    agreements: tuple[Agreement, ...]
    alpha_harm: Coefficient
    alpha_outcome: Coefficient
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything the report says."""

    meta: Meta
    seeds: tuple[int, ...]
    lineups: Mapping[str, LineUp]
    threats: Sequence[Threat]
    purposes: Mapping[str, EvalPurpose]
    """What each set of prompts is for."""
    cut: Cut
    """Share of answers that reached the token limit."""
    panel: Panel | None = None
    """What several judges said of the same answers; None where there is one judge."""
    hosted: Provider | None = None
    """What customers' jobs did on a host's loop; None where none ran."""

    @property
    def over_seeds(self) -> bool:
        """Whether there are seeds enough for intervals over seeds too."""
        return len(self.seeds) >= estimates.SEEDS_FOR_INTERVAL

    @property
    def headline(self) -> Threat | None:
        """The stronger threat model that was tested: control of the weights before data only."""
        priced = [threat for threat in self.threats if threat.costs]
        return min(priced, key=lambda t: t.access != "weights", default=None)
