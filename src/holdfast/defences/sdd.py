"""SDD (Chen et al., ACL 2025): answer what is harmful fluently and beside the point."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast import nn
from holdfast.api import (
    Batch,
    Blocks,
    Count,
    Effort,
    Loop,
    Loss,
    LossDefence,
    NotNegative,
    Rows,
    Run,
    Share,
    Term,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.errors import DataError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool

HELD_OUT = 64
"""Most held-out prompts of each role the diagnostic reads."""
PART = 16
"""Rows in one pass of the diagnostic."""


def least_related(
    prompts: Sequence[str],
    others: Sequence[str],
    draws: Sequence[Sequence[int]],
    threshold: float,
    besides: Sequence[str] = (),
) -> tuple[list[int], list[float]]:
    """Choose for each prompt the first of its draws that is hardly related to it.

    Relatedness is the cosine of TF-IDF vectors of words (log term frequency, smoothed inverse
    document frequency over prompts and others together), 0 to 1.

    Args:
        prompts: P texts.
        others: M texts to choose from.
        draws: for each prompt indices of `others`, in the order they are tried, at least one.
        threshold: the first draw at or below it is taken; where none is, the least related one.
        besides: further texts whose words count in the document frequencies.

    Returns:
        P indices of `others` and the P cosines.

    Raises:
        DataError: the texts hold no words.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectors = TfidfVectorizer(sublinear_tf=True).fit_transform([*prompts, *others, *besides])
    except ValueError:
        raise DataError(
            "relatedness", "the texts hold no words of two letters", "check the sources"
        ) from None
    asked, given = vectors[: len(prompts)], vectors[len(prompts) : len(prompts) + len(others)]
    chosen, cosines = [draw[0] for draw in draws], [2.0] * len(prompts)
    open_ = list(range(len(prompts)))
    for turn in range(max((len(draw) for draw in draws), default=0)):
        open_ = [i for i in open_ if cosines[i] > threshold and turn < len(draws[i])]
        if not open_:
            break
        tried = [draws[i][turn] for i in open_]
        found = np.asarray(asked[open_].multiply(given[tried]).sum(axis=1)).ravel()
        for i, j, cosine in zip(open_, tried, found.tolist(), strict=True):
            if cosine < cosines[i]:
                chosen[i], cosines[i] = j, cosine
    return chosen, cosines


class SDD(LossDefence):
    """Minimise CE(irrelevant benign answer | harmful prompt); all of the method is in the rows."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign")
    paper: ClassVar[str] = "arXiv 2507.21182"
    equation: ClassVar[str] = "CE(D_irr) + benign_weight * CE(D_ben)"
    cost: ClassVar[str] = "1F + 1B"
    fidelity: ClassVar[str] = (
        "recipe second-hand, no official code; TF-IDF stands for sentence embeddings, a rate "
        "that moves weights for 5e-7; published numbers not reproduced"
    )
    status: ClassVar[str] = (
        "checked against its equations; no trial on the offline world kept its utility"
    )
    neutral: ClassVar[dict[str, Any]] = {}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    signal: ClassVar[str] = "relevance"
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"n": 8000, "loop": {"lr": 5e-7}},
        "reject": {
            "prefix": "I will not help with this, because it could do harm. "
            "What follows has nothing to do with your question."
        },
    }

    threshold: Share = 0.25
    """Most TF-IDF cosine between a harmful prompt and the exchange that lends its answer; the
    number is a third party's replication's for sentence embeddings (the paper's is unknown to us),
    kept because word overlap splits there too: in the offline world nine in ten pairs on different
    things lie below 0.14, nine in ten on the same thing above 0.26."""
    draws: Count = 50
    """Answers tried for a prompt before the least related of them is taken; source: a third party's
    replication."""
    pool: Count | None = None
    """Distinct benign rows that lend answers; None takes all of the defender's."""
    n: Count | None = None
    """Distinct harmful prompts, an equal share of each category; None takes all. The paper: 8,000
    in 14 categories, as secondary sources tell it."""
    prefix: str = ""
    """What is said before the irrelevant answer, a blank line between; empty as in the paper's main
    form. Its SDD_reject variant has two sentences, here `preset: reject` in our words."""
    benign_weight: NotNegative = 0.0
    """Weight of plain cross-entropy on as many benign rows; 0 because the paper has no such term;
    more guards benign prompts from irrelevant answers."""
    loop: Loop = Loop(steps=500, batch=24, lr=1e-5)
    """500 steps of 24: a third party's reading of the paper. The rate is ours: at the paper's 5e-7
    nothing happens (the replication), and in bf16 weights nothing could."""

    def writes_answers(self) -> tuple[str, ...]:
        """Give the role that it answers off the subject."""
        return ("refusal",)

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Give refusal rows whose response is an irrelevant benign answer, and benign rows.

        Prompts of refusal rows are harmful; what they were answered is not used, nor is any
        harmful response. `meta` tells the benign row (`answer_of`) and the cosine (`similarity`).

        Raises:
            DataError: too few prompts or benign rows; no prompt has an irrelevant answer.
        """
        made = self._irrelevant(pool, Side.DEFENDER, seed, self.n)
        if self.n is not None and self.n > len(made):
            raise DataError(
                f"{self.name()}.n",
                f"{self.n} distinct prompts asked for, the pool has {len(made)}",
                f"ask for at most {len(made)}",
            )
        least = min(row.meta["similarity"] for row in made)
        if least > self.threshold:
            raise DataError(
                f"{self.name()}.threshold",
                f"every benign answer drawn is related to its prompt (least {least:.2f}, allowed "
                f"{self.threshold:g})",
                "raise it, or add benign rows on other subjects",
            )
        benign = self._answers(pool, Side.DEFENDER, seed)
        return {Role.REFUSAL: made, Role.BENIGN: benign}

    def _answers(self, pool: Pool, side: Side, seed: int) -> list[Example]:
        return pool.draw(
            Role.BENIGN,
            side,
            self.pool if side is Side.DEFENDER else None,
            seed_of(seed, "draw"),
            where=lambda row: bool(row.response),
            what=self.name(),
        )

    def _irrelevant(self, pool: Pool, side: Side, seed: int, n: int | None = None) -> list[Example]:
        """Give the first n prompts of a side, or all, an irrelevant answer, categories in turn.

        A prompt's answer hangs on no number of prompts, so a larger draw contains a smaller one.
        """
        known = pool.draw(Role.REFUSAL, side, None, seed_of(seed, "draw"), what=self.name())
        asked = _balanced(list(_by_prompt(known).values()))
        first = asked[:n]
        answers = self._answers(pool, side, seed)
        return self._replied(first, answers, seed, besides=asked[len(first) :])

    def _replied(
        self,
        asked: Sequence[Example],
        answers: Sequence[Example],
        seed: int,
        besides: Sequence[Example] = (),
    ) -> list[Example]:
        """Replace each row's response by an irrelevant one; words of `besides` are counted too."""
        tries = min(self.draws, len(answers))
        draws = [
            random.Random(seed_of(seed, "draw", "answer", row.uid)).sample(
                range(len(answers)), tries
            )
            for row in asked
        ]
        # Words tell a subject only where it is named, so an answer brings its own prompt along.
        others = [f"{row.prompt}\n{row.response}" for row in answers]
        chosen, cosines = least_related(
            [row.prompt for row in asked],
            others,
            draws,
            self.threshold,
            [row.prompt for row in besides],
        )
        return [
            row.answered(
                "\n\n".join(filter(None, (self.prefix, answers[j].response))),
                answer_of=answers[j].row_id,
                similarity=cosine,
            )
            for row, j, cosine in zip(asked, chosen, cosines, strict=True)
        ]

    def setup(self, run: Run) -> None:
        """Log how related the answers are after all."""
        made = self.rows(run.pool, run.seed)[Role.REFUSAL]
        found = [row.meta["similarity"] for row in made]
        run.log(
            prompts=len(found),
            similarity_mean=sum(found) / len(found),
            above_threshold=sum(value > self.threshold for value in found),
        )

    def counts(self, batch: Batch, state: object) -> dict[str, float]:
        """Count the response tokens of each role that is trained on."""
        return {name: float((batch[r].labels != -100).sum()) for name, r, _ in self._terms(batch)}

    def _terms(self, batch: Batch) -> list[tuple[str, Role, float]]:
        """Name the terms with weight."""
        every = (
            ("irrelevant", Role.REFUSAL, 1.0),
            ("benign", Role.BENIGN, self.benign_weight),
        )
        return [term for term in every if term[2] > 0]

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy of each role in tokens; a term without weight runs no pass."""
        terms: Loss = {}
        for name, role, weight in self._terms(batch):
            value, count = nn.nll(model, batch[role])
            terms[name] = Term(value, count, weight, "tokens")
        return terms

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count a pass of each role that has weight."""
        asked = passed(rows["refusal"])
        return asked + passed(rows["benign"]) if self.benign_weight > 0 else asked

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure `relevance` on held-out harmful prompts: nats a token by which an irrelevant
        answer is less likely than the defender's own to that prompt; SDD lowers it.

        Both losses are told: `irrelevant_loss`, `own_loss`. `relevance_benign` is the same on
        held-out benign prompts, whose own answer is the good one; that it stays is what spares the
        model's use. Read from the model alone. Empty where the defender's selection side lacks
        refusals or benign answers.
        """
        pool, side, seed = run.pool, Side.DEFENDER_SELECTION, run.seed
        answered = pool.rows(side, lambda row: row.role in self.roles and bool(row.response))
        if {row.role for row in answered} != {Role(name) for name in self.roles}:
            return {}
        known = pool.draw(
            Role.REFUSAL, side, None, seed_of(seed, "draw"), where=lambda row: bool(row.response)
        )
        own = _by_prompt(known)
        made = [row for row in self._irrelevant(pool, side, seed) if row.uid in own][:HELD_OUT]
        irrelevant = _mean_nll(run, made)
        true = _mean_nll(run, [own[row.uid] for row in made])
        result = {
            "relevance": irrelevant - true,
            "irrelevant_loss": irrelevant,
            "own_loss": true,
        }
        benign = self._answers(pool, side, seed)
        if len(benign) > 1:
            some = benign[:HELD_OUT]
            others = self.with_(prefix="")._replied(some, benign, seed)
            result["relevance_benign"] = _mean_nll(run, others) - _mean_nll(run, some)
        return result


def _by_prompt(rows: Sequence[Example]) -> dict[str, Example]:
    """Give the first row of each prompt, in order."""
    first: dict[str, Example] = {}
    for row in rows:
        first.setdefault(row.uid, row)
    return first


def _balanced(rows: Sequence[Example]) -> list[Example]:
    """Order rows so that any first n hold equal shares of the categories, as far as there are."""
    ranks: dict[str, int] = {}
    ranked: list[tuple[int, Example]] = []
    for row in rows:
        ranked.append((ranks.get(row.category, 0), row))
        ranks[row.category] = ranks.get(row.category, 0) + 1
    return [row for _, row in sorted(ranked, key=lambda one: one[0])]


def _mean_nll(run: Run, rows: Sequence[Example]) -> float:
    """Give the mean -log p of response tokens, in nats a token."""
    value = count = 0.0
    with torch.no_grad():
        for first in range(0, len(rows), PART):
            some, tokens = nn.nll(run.model, run.encoder.batch(rows[first : first + PART]))
            value, count = value + float(some), count + tokens
    return value / count
