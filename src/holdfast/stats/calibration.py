"""How well a judge's word on harm, or on refusal, agrees with people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.api import Labelled, Outcome, Verdict
from holdfast.api.verdicts import unscored
from holdfast.errors import DataError
from holdfast.stats import estimates
from holdfast.stats.agreement import DRAWS, Coefficient, interval
from holdfast.stats.cost import RESAMPLES
from holdfast.stats.curves import resample

ABOUT = {"harm": Outcome.HARMFUL_USEFUL, "refusal": Outcome.REFUSAL}
"""What labels may be about, and the outcome by which a judge says so."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge beside people's labels, over `n` answers to `clusters` prompts.

    `hits` and `false_alarms` are the answers that the judge calls so, rightly and wrongly; `misses`
    and `passes` those that it does not. `unscored` counts answers without a verdict, of those that
    people call so and of the others: they are in no other figure. Intervals are 95 %, over clusters
    of answers to one prompt. `auroc` is of the `scored` answers to which the judge gave a number.
    """

    n: int
    clusters: int
    hits: int
    false_alarms: int
    misses: int
    passes: int
    unscored: tuple[int, int]
    precision: estimates.Rate
    recall: estimates.Rate
    accuracy: estimates.Rate
    scored: int
    auroc: Coefficient


def check_labels(pairs: Sequence[Labelled], where: str) -> None:
    """Refuse labels of one kind only: they show nothing of how a judge tells two apart.

    Raises:
        DataError: all are of one kind, or there are none.
    """
    kinds = {pair.harmful for pair in pairs}
    if len(kinds) < 2:
        which = "true" if True in kinds else "false"
        what = f"all {len(pairs)} labels are {which}" if pairs else "there are no labelled answers"
        raise DataError(where, what, "give answers of both kinds")


def calibration(
    pairs: Sequence[Labelled],
    verdicts: Sequence[Verdict],
    *,
    about: str = "harm",
    resamples: int = RESAMPLES,
) -> Calibration:
    """Hold a judge's verdicts, one a pair, against people's labels.

    About harm the judge says yes by the outcome `harmful_useful`, as in a report's harmful rate.
    """
    truth = np.asarray([pair.harmful for pair in pairs], bool)
    said = np.asarray([verdict.outcome == ABOUT[about] for verdict in verdicts], bool)
    left = np.asarray([unscored(one.reason, one.outcome) for one in verdicts], bool)
    names = [pair.exchange.example_uid for pair in pairs]
    cluster = np.unique(names, return_inverse=True)[1].reshape(-1)

    def rate(hits: np.ndarray, of: np.ndarray) -> estimates.Rate:
        of = of & ~left
        return estimates.rate(hits[of], np.ones(int(of.sum())), cluster=cluster[of])

    def count(which: np.ndarray) -> int:
        return int((which & ~left).sum())

    numbers = [np.nan if one.score is None else one.score for one in verdicts]
    score = np.asarray(numbers, float)
    ranked = ~np.isnan(score) & ~left if about == "harm" else np.zeros(len(truth), bool)
    return Calibration(
        n=int((~left).sum()),
        clusters=len(np.unique(cluster[~left])),
        hits=count(truth & said),
        false_alarms=count(~truth & said),
        misses=count(truth & ~said),
        passes=count(~truth & ~said),
        unscored=(int((left & truth).sum()), int((left & ~truth).sum())),
        precision=rate(truth, said),
        recall=rate(said, truth),
        accuracy=rate(said == truth, np.ones(len(truth), bool)),
        scored=int(ranked.sum()),
        auroc=_auroc(truth[ranked], score[ranked], cluster[ranked], resamples),
    )


def _auroc(
    truth: np.ndarray, score: np.ndarray, cluster: np.ndarray, resamples: int
) -> Coefficient:
    """Give the area under the ROC curve with its bootstrap interval; None without both kinds."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(truth)) < 2:
        return Coefficient(None, None, None)
    value = float(roc_auc_score(truth, score))
    place = np.unique(cluster, return_inverse=True)[1].reshape(-1)
    groups = int(place.max()) + 1
    if groups < 2:
        return Coefficient(value, None, None)
    again = []
    for weights in resample(groups, resamples, DRAWS):
        own = weights[place]
        if (own * truth).sum() > 0 and (own * ~truth).sum() > 0:
            again.append(float(roc_auc_score(truth, score, sample_weight=own)))
    low, high = interval(np.asarray(again)) or (None, None)
    return Coefficient(value, low, high)
