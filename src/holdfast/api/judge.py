"""What a judge reads and what it says."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import Any, ClassVar, Self

from pydantic import model_validator

from holdfast.api.evalset import EvalPurpose
from holdfast.api.known import Known
from holdfast.api.method import Method
from holdfast.errors import ConfigError, HoldfastError, JudgeError, one_line, raised

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prompt and the answer a model gave to it. `meta` carries what an oracle needs.

    `response` begins with `prefill`, the words an attacker put there, where there are any.
    `finish_reason` is `length` for an answer that reached the token limit.
    """

    example_uid: str
    system: str | None
    prompt: str
    prefill: str
    response: str
    finish_reason: str
    meta: Mapping[str, Any]
    turns: tuple[tuple[str, str], ...] = ()
    """What was said before the prompt, oldest first: (role, text)."""

    @property
    def known(self) -> Known:
        """Give what is known of the prompt: `meta`, read with types."""
        return Known.of(self.meta)


@dataclass(frozen=True, slots=True)
class Labelled:
    """An exchange and what people say of the answer: whether it is `harmful`.

    Exchanges of one `example_uid` are one cluster: several answers to the same prompt.
    """

    exchange: Exchange
    harmful: bool


class Outcome(StrEnum):
    """What an answer is, in order of precedence."""

    DEGENERATE = "degenerate"
    REFUSAL = "refusal"
    HARMFUL_USEFUL = "harmful_useful"
    HARMFUL_EMPTY = "harmful_empty"
    DEFLECTION = "deflection"
    BENIGN_OK = "benign_ok"
    NOT_REFUSED = "not_refused"
    """No refusal, from a judge that sees refusals alone: it says nothing about harm."""
    RIGHT = "right"
    WRONG = "wrong"
    """Right or wrong, from a judge that grades answers: it says nothing about harm or refusals."""


class Reason(StrEnum):
    """Why a verdict has, or lacks, a score."""

    OK = "ok"
    REFUSED_TO_JUDGE = "refused_to_judge"
    UNPARSABLE = "unparsable"
    ERROR = "error"
    TRUNCATED = "truncated"
    EMPTY = "empty"


MOST_UNSCORED = 0.02
"""A cell with a larger share of rows without a verdict is invalid; source: ours,
docs/studies.md, Verdicts."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A judge's range and what counts as harmful on it: low < harmful_from <= high, all finite."""

    low: float
    high: float
    harmful_from: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's word on an exchange. No number ever stands for "no score".

    Under reason `ok` it has an outcome and perhaps a score on the judge's scale, under any other
    neither; `holdfast.api.verdicts.ask` holds every judge to that.
    """

    score: float | None
    outcome: Outcome | None
    reason: Reason = Reason.OK
    raw: str = ""


class Judge(Method):
    """Reads exchanges and gives verdicts. Making one with a broken scale is a ConfigError, and so
    is one that answers two questions.

    A judge writes `judge`, or `judge_many` where it reads many at once. One that loads a model or
    starts a server does it in `open`, keeps it in a private attribute (`_model: Any =
    PrivateAttr(None)`, which is no field and in no key) and lets it go in `close`. A file that it
    reads there is in no key either: give its hash as a field, or raise `version` when it changes.
    """

    kind: ClassVar[str] = "judge"
    scale: ClassVar[Scale]
    tells_refusals: ClassVar[bool] = True
    """Whether it tells a refusal from another harmless answer: the first of a study's judges that
    does reads the sets that count refusals."""
    tells_harm: ClassVar[bool] = True
    """Whether it says which answers are harmful: one that does not reads sets that count refusals
    alone, and is no study's first judge, unless it `counts` what is not refused."""
    tells_right: ClassVar[bool] = False
    """Whether it grades answers `right` or `wrong`, by `known.answer` where there is one: such a
    judge reads the sets of purpose graded, which nobody else does, and no others. It sets
    `tells_harm` and `tells_refusals` to False."""
    caution: ClassVar[str] = ""
    """What a reader must know of its verdicts, in a few words: every report with it says so."""
    around: ClassVar[int] = 0
    """About how many tokens stand around prompt and answer in what it reads: for estimates."""
    writes: ClassVar[int] = 1
    """About how many tokens it writes of each answer: for estimates."""
    reads_purpose: ClassVar[bool] = False
    """Whether a verdict depends on what a prompt's set is for: such a judge finds it in
    `exchange.known.purpose`, and it is in the key of what it says."""

    @model_validator(mode="after")
    def _whole_scale(self) -> Self:
        """Refuse a scale on which no score could be read, before anything is judged."""
        scale: Any = getattr(self, "scale", None)
        ends: list[Any] = [getattr(scale, name, None) for name in ("low", "harmful_from", "high")]
        real = all(isinstance(end, Real) and not isinstance(end, bool) for end in ends)
        # NaN compares as false.
        if not (real and -math.inf < ends[0] < ends[1] <= ends[2] < math.inf):
            raise ConfigError(
                "scale",
                f"got {scale}",
                "mend the judge: finite numbers with low < harmful_from <= high",
            )
        return self

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        """Refuse a judge that grades answers and tells harm or refusals besides."""
        if self.tells_right and (self.tells_harm or self.tells_refusals):
            also = "harm" if self.tells_harm else "refusals"
            raise ConfigError(
                "tells_right",
                f"it grades answers right or wrong, and tells {also} too",
                "mend the judge: two judges for two questions",
            )
        return self

    def counts(self) -> Outcome | None:
        """Give the outcome whose share is the rate of a set of purpose harm; None: it reads none.

        It is `harmful_useful`, or `not_refused` of a judge that sees refusals alone and says so; a
        report names its rates accordingly.
        """
        return Outcome.HARMFUL_USEFUL if self.tells_harm else None

    def needs_known(self, purpose: EvalPurpose) -> tuple[str, ...]:
        """Give the keys of a prompt's `meta` of which it needs one to judge a set of a purpose.

        By default none: it reads any prompt. A study whose prompts lack them is refused when it is
        planned.
        """
        return ()

    def check(self) -> None:
        """Refuse what this machine alone can tell is wrong: no key, a package that is missing.

        It is called before the first step of a study in which this judge has something to read.
        """

    def open(self, device: str) -> None:
        """Load what judging needs onto `device` (`cpu`, `cuda`, `cuda:1`); by default nothing.

        It is called once before the first exchange is read, and not while the study is planned.
        """

    def judge(self, exchange: Exchange) -> Verdict:
        """Give the verdict on one exchange; the caller is `holdfast.api.verdicts.ask`."""
        raise NotImplementedError

    def judge_many(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """Give the verdict on each exchange, in order; by default one by one.

        The caller is `holdfast.api.verdicts.ask`. A batch is this method's to choose.
        """
        return [self.judge(exchange) for exchange in exchanges]

    def close(self) -> None:
        """Let go of what `open` loaded; called once after each `open` that succeeded."""

    @contextmanager
    def opened(self, device: str = "cpu") -> Iterator[Self]:
        """Open this judge for the body of a `with`, and close it however the body ends.

        An error while closing costs no verdict: it is logged.

        Raises:
            JudgeError: it cannot be opened; one of Holdfast's own errors is passed on as it is.
        """
        try:
            self.open(device)
        except (HoldfastError, MemoryError):
            raise
        except Exception as error:  # whatever a plug-in raises
            raise JudgeError(
                f"judge '{self.name()}'",
                f"cannot be opened on {device} ({one_line(error)})",
                "mend what it needs and run again",
            ) from error
        try:
            yield self
        finally:
            try:
                self.close()
            except Exception as error:  # whatever a plug-in raises
                log.warning("judge '%s' cannot be closed (%s)", self.name(), raised(error))
