"""How risky a customer's row is, from 0 to 1: who says so, and what counts where nobody can."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import JsonValue, model_validator

from holdfast.api.fields import AsTuple, Fields
from holdfast.api.loop import Layer, Positive, Share
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.api.judge import Judge

RiskKind = Literal["judge", "guard", "probe", "given", "hybrid"]
"""Who scores. `judge`: any judge of the package, on the training pair, its scale brought to 0..1.
`guard`: a judge that gives a probability. `probe`: a logistic regression on the reference's state
at the last prompt token. `given`: a table by row id. `hybrid`: several of these."""

READS: dict[str, tuple[str, ...]] = {
    "judge": ("judge",),
    "guard": ("judge",),
    "probe": (),
    "given": ("path",),
    "hybrid": ("of",),
}
"""What each kind cannot do without."""
TAKES: dict[str, tuple[str, ...]] = READS | {"probe": ("path",)}
"""What of `judge`, `path` and `of` each kind takes."""


class RowScorer(Fields):
    """One who says how risky a row is. A row that cannot be scored is as risky as `ceiling`."""

    kind: RiskKind = "probe"
    """Who scores: `judge`, `guard`, `probe`, `given` or `hybrid`. Source of the default: ours; it
    needs no other model."""
    judge: str | dict[str, JsonValue] | None = None
    """The judge of `judge` and `guard`: `name` or `name: {field: value}`."""
    path: str | None = None
    """`given`: a JSONL file of lines {"prompt": ..., "response": ..., "risk": ...}, with `system`
    where the row has one; `probe`: the folder of one that was fitted before, or None to fit one to
    the defender's own rows."""
    ceiling: Share = 1.0
    """Risk of a row whose scorer raises, is late, gives no number or no verdict. Source: ours, so
    that a failure holds a row tighter; the released code has 0.75."""
    timeout: Positive | None = None
    """Seconds a judge may take for one row; None leaves it to the judge."""
    layers: Annotated[tuple[Layer, ...], AsTuple] = (0.25, 0.5, 0.75, 1.0)
    """Layers a probe is tried at, by number or as fractions of depth; source: ours."""
    recall: Share = 0.99
    """Share of held-out risky rows that a probe's operating point reaches; source: ours."""
    l2: Positive = 1.0
    """Inverse strength of a probe's L2 penalty (scikit-learn's C and its default)."""

    @model_validator(mode="after")
    def _has_what_its_kind_reads(self) -> Self:
        for name in ("judge", "path", "of"):
            given = getattr(self, name, None) not in (None, ())
            if given and name not in TAKES[self.kind]:
                raise ConfigError(
                    f"risk.{name}", f"is nothing that kind '{self.kind}' reads", "leave it out"
                )
            if not given and name in READS[self.kind]:
                raise ConfigError(f"risk.{name}", f"kind '{self.kind}' needs it", "add it")
        if self.judge is not None:
            self._check_judge()
        return self

    def _check_judge(self) -> None:
        """Refuse a judge whose verdicts are no risk."""
        judge = self.made_judge()
        if not judge.tells_harm:
            raise ConfigError(
                "risk.judge",
                f"'{judge.name()}' sees refusals alone, and an answer is no risk by itself",
                "name a judge that says which answers are harmful",
            )
        if self.kind == "guard" and (judge.scale.low, judge.scale.high) != (0, 1):
            raise ConfigError(
                "risk.judge",
                f"'{judge.name()}' gives {judge.scale.low:g} to {judge.scale.high:g}, "
                "a guard gives a probability",
                "use kind: judge",
            )

    def made_judge(self) -> Judge:
        """Make the judge that scores.

        Raises:
            ConfigError: there is none of that name, or not with these fields.
        """
        from holdfast.api.judge import Judge
        from holdfast.api.registry import make

        made = make("judge", self.judge, "risk.judge")
        assert isinstance(made, Judge)  # by its kind
        return made

    def key_fields(self) -> dict[str, Any]:
        """Give every field that can change a result: a judge by its identity, a file by its hash.

        So the same table in another place is the same risk.
        """
        plain = super().key_fields()
        if self.judge is not None:
            plain["judge"] = self.made_judge().identity()
        if self.path is not None and (found := content(Path(self.path))):
            plain["path"] = found
        return plain


class Risk(RowScorer):
    """Who says how risky a row is: one scorer, or several in a `hybrid`."""

    of: Annotated[tuple[RowScorer, ...], AsTuple] = ()
    """The scorers of a `hybrid`."""
    combine: Literal["max", "mean"] = "max"
    """What a `hybrid` makes of its scorers: the highest, or the mean of each one's probability as
    calibrated on the defender's held-out rows."""
    step: Share | None = None
    """Risk from which a row counts as wholly risky, all others as not at all; None keeps the risk
    as it is. Source: 0.5 is the released code's hard decision."""

    @model_validator(mode="after")
    def _has_several(self) -> Self:
        if self.kind == "hybrid" and len(self.of) < 2:
            raise ConfigError("risk.of", "a hybrid of one is no hybrid", "name two or more")
        return self

    def scorers(self) -> tuple[RowScorer, ...]:
        """Give those that score: a hybrid's parts, else this one."""
        return self.of or (self,)

    def key_fields(self) -> dict[str, Any]:
        """Give every field that can change a result, a hybrid's scorers as they give their own."""
        return super().key_fields() | {"of": [one.key_fields() for one in self.of]}


def content(path: Path) -> str:
    """Give the hash of a file, or of all files of a folder by name; empty where there is none."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    if not all(one.is_file() for one in files):
        return ""
    found = hashlib.sha256()
    for one in files:
        found.update(f"{one.name if path.is_dir() else ''}\n".encode() + one.read_bytes())
    return found.hexdigest()
