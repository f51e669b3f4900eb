"""Sets of evaluation prompts: what each is for, and who scores the answers.

A source declares its sets; nothing else knows one by name. Plans, tables, statistics and reports
ask for a purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from holdfast.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from holdfast.api.known import Known


class EvalPurpose(StrEnum):
    """What a set of prompts measures."""

    HARM = "harm"
    """Restricted requests: the share of answers that are useful to the asker."""
    OVER_REFUSAL = "over_refusal"
    """Benign requests that only resemble restricted ones: the share that is refused."""
    EXACT = "exact"
    """Benign requests with a known answer: the share answered so. This is benign utility."""
    OPTIONS = "options"
    """Benign questions with options: the share whose likeliest option is the right one."""
    LM_EVAL = "lm_eval"
    """A benchmark that lm-eval asks and scores: the share that its metric counts as right."""
    REFUSED = "refused"
    """Benign requests without a known answer: the share that is refused."""
    TASK = "task"
    """What an honest customer fine-tunes on: the share answered right."""
    GRADED = "graded"
    """Benign requests with many good answers: the share that a judge grades right."""


class Scorer(StrEnum):
    """Who scores the answers to a set."""

    JUDGES = "judges"
    """Every judge of the study."""
    JUDGE = "judge"
    """The study's first judge that tells refusals; a known answer is compared with besides."""
    EXACT = "exact"
    """Nobody: an answer is compared with the known one, as the set's `match` says."""
    OPTIONS = "options"
    """Nobody: the option the model finds likeliest is compared with the right one."""
    LM_EVAL = "lm_eval"
    """lm-eval."""
    GRADER = "grader"
    """The study's judge that grades answers right or wrong, and nobody else."""


SCORERS: dict[EvalPurpose, tuple[Scorer, ...]] = {
    EvalPurpose.HARM: (Scorer.JUDGES,),
    EvalPurpose.OVER_REFUSAL: (Scorer.JUDGE,),
    EvalPurpose.EXACT: (Scorer.EXACT,),
    EvalPurpose.OPTIONS: (Scorer.OPTIONS,),
    EvalPurpose.LM_EVAL: (Scorer.LM_EVAL,),
    EvalPurpose.REFUSED: (Scorer.JUDGE,),
    EvalPurpose.TASK: (Scorer.EXACT, Scorer.OPTIONS),
    EvalPurpose.GRADED: (Scorer.GRADER,),
}
"""Who may score the answers to sets of each purpose."""


class Match(StrEnum):
    """When an answer is the known one."""

    EXACT = "exact"
    """The same text, white space aside."""
    NORMALISED = "normalised"
    """The same words: case, punctuation, articles and white space aside, as SQuAD's scorer does."""
    CONTAINED = "contained"
    """The known answer's words stand in the answer, one behind the other, normalised alike."""
    NUMBER = "number"
    """The answer's last number is the known one; thousands separators are no part of it."""


@dataclass(frozen=True, slots=True)
class EvalSet:
    """A set of evaluation prompts, as its source declares it.

    Its rows are those whose `meta["set"]` is `name`; `label` heads its column in reports. `match`
    says when an answer is the known one, where answers are compared; `metric` is what counts as
    right of what lm-eval gives. Neither is part of a key: answers stay, and are compared anew.

    Raises:
        ConfigError: no name, an unknown purpose or scorer, or a scorer that is none for the
            purpose.
    """

    name: str
    purpose: EvalPurpose
    scorer: Scorer
    label: str
    match: Match = Match.EXACT
    metric: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("evaluation set", "has no name", "give it one")
        where = f"evaluation set '{self.name}'"
        for field, words in (("purpose", EvalPurpose), ("scorer", Scorer), ("match", Match)):
            word = getattr(self, field)
            if word not in list(words):
                raise ConfigError(where, f"no {field} '{word}'", did_you_mean(str(word), words))
            object.__setattr__(self, field, words(word))
        if self.scorer not in SCORERS[self.purpose]:
            raise ConfigError(
                where,
                f"purpose '{self.purpose}' cannot be scored by '{self.scorer}'",
                f"write {' or '.join(SCORERS[self.purpose])}",
            )

    def check(self, known: Known, where: str) -> None:
        """Refuse a row, called `where`, of which too little is known to score an answer.

        Raises:
            DataError: what is missing.
        """
        if self.scorer is Scorer.LM_EVAL and not known.lm_eval:
            raise DataError(where, "is no document of lm-eval", "bring it by the source lm_eval")
        if self.scorer is Scorer.EXACT and known.answer is None:
            raise DataError(where, "has no 'answer' to compare with", "put it in the row's meta")
        if self.scorer is Scorer.OPTIONS:
            if len(known.options) < 2:
                raise DataError(
                    where, f"has {len(known.options)} 'options'", "put two or more in its meta"
                )
            right = known.answer_index
            if right is None or not 0 <= right < len(known.options):
                raise DataError(
                    where,
                    f"its 'answer_index' is {right}, no place among {len(known.options)} options",
                    "put the right option's place, from 0, in its meta",
                )
