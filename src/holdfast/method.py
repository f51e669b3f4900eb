"""What every swappable part has in common: a method is a frozen model in a file bearing its name.

Its fields are its hyper-parameters; the file name is registry key, YAML key, command-line word and
row label. Defences have three shapes because the papers have three.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from holdfast.config import NO_EFFECT, AsTuple, Fields, lay_over
from holdfast.errors import ConfigError
from holdfast.run import Count, Loop, LoRA, Positive, Precision

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder, Tokens
    from holdfast.models.vectors import ParamVector


class Stage(StrEnum):
    """When a defence acts."""

    ALIGN = "align"
    TUNE = "tune"
    REPAIR = "repair"


class Control(StrEnum):
    """What an attacker holds, or an attack needs at least. The two never share a table."""

    DATA = "data"
    WEIGHTS = "weights"


class Method(Fields):
    """A defence, attack, judge or source. Its registry key is the name of its file."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same fields would give other numbers."""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    """Fields at which a defence equals plain fine-tuning (or changes nothing)."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other named settings than `clean`, the defaults: usually `paper` and `released`."""
    fidelity: ClassVar[str] = ""
    """What was read of the original, where ours differs, and whether its numbers came out again."""

    @classmethod
    def name(cls) -> str:
        """Give the registry key: the last part of the module's name."""
        return cls.__module__.rpartition(".")[2]

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        """Fill in a preset's fields where the user gave none."""
        if not isinstance(data, dict) or "preset" not in data or "preset" in cls.model_fields:
            return data
        given = dict(data)
        preset = given.pop("preset")
        if preset != "clean" and preset not in cls.presets:
            raise ConfigError(
                "preset",
                f"no preset '{preset}'",
                "known: " + ", ".join(["clean", *cls.presets]),
            )
        return lay_over(cls.presets.get(preset, {}), given)

    def identity(self) -> dict[str, Any]:
        """Give what a key is made of: kind, name, version and the fields that matter."""
        return {
            "kind": self.kind,
            "name": self.name(),
            "version": self.version,
            "fields": self.key_fields(),
        }


@dataclass
class Term:
    """One summand of a loss: `weight * sum / count`, its sums and counts added over a step.

    The loop adds `sum` and `count` over all micro-batches of an optimiser step before dividing,
    so that splitting a step changes nothing. `unit` says what `count` counts. A term with
    `once=True` is added once per optimiser step (it does not depend on rows).
    """

    sum: Tensor
    count: float
    weight: float = 1.0
    unit: Literal["tokens", "rows", "pairs"] = "rows"
    once: bool = False


Loss = dict[str, Term]
Batch = Mapping["Role", "Tokens"]
Step = Mapping["Role", Sequence["Tokens"]]


@dataclass
class Run:
    """What a method is handed when its work starts: the model and everything around it.

    `models` holds `original` and `start` as lazy tensor mappings by name; on a model that another
    method made also `kept`, what this one kept beside its own checkpoint.
    `log(**values)` adds a line to the run's JSONL log.
    """

    model: PreTrainedModel
    encoder: Encoder
    pool: Pool
    seed: int
    models: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    log: Callable[..., None] = lambda **_: None
    where: str = "run"
    fit: Callable[..., None] | None = None
    """`fit(name, params, loss, rows, loop)` trains tensors that are no weights of the model (a
    trigger, a probe) in place, on the one loop, resumable; `loss(batch, step)` gives terms."""


class Defence(Method):
    """What a model's owner does to make it harder to misuse."""

    kind: ClassVar[str] = "defence"
    when: ClassVar[Stage] = Stage.ALIGN
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles its rows are drawn from: exactly these are read."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Which of `original`, `start`, `tuned`, `unaligned` it reads from `run.models`."""
    starts_from: ClassVar[Literal["base", "aligned"]] = "base"
    separable: ClassVar[bool] = True
    """Whether a step's gradient is the same however it is split into micro-batches."""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    """Cost of an optimiser step in forward (F) and backward (B) passes."""
    signal: ClassVar[str] = ""
    """The diagnostic that tells whether the method did its own thing."""
    moves: ClassVar[Literal["up", "down"]] = "up"
    """Where `signal` goes, beside plain refusal fine-tuning, when it did."""

    def copies(self) -> int:
        """Give how many frozen copies of the model it keeps beside the one it changes."""
        return 0

    def setup(self, run: Run) -> Any:
        """Make what the whole run needs (a trigger, a teacher, a probe)."""
        return None

    def apply(self, model: Any, tokenizer: Any, pool: Pool, **options: Any) -> Any:
        """Harden a model in memory; see `holdfast.training.apply` for the options.

        The import goes by name because training stands above methods: this is the one door up.
        """
        return importlib.import_module("holdfast.training").apply(
            self, model, tokenizer, pool, **options
        )

    def adapt(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Add modules for the time of training; leave the model as it was found."""
        return contextlib.nullcontext()

    def on_step(self, step: int, state: Any) -> None:
        """Change what changes over time, before step `step` (from 0)."""

    def counts(self, batch: Batch, state: Any) -> dict[str, float] | None:
        """Give each term's count without a forward pass, or None to have it measured."""
        return None

    def diagnostic(self, run: Run, state: Any) -> dict[str, float]:
        """Measure whether the method did its own thing, on the model as it now is."""
        return {}


class TrainedDefence(Defence):
    """A defence that trains: it draws rows and runs the one loop."""

    loop: Loop = Loop()
    """How it trains: steps, batch, learning rate, precision, LoRA."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the rows of each role it reads."""
        raise NotImplementedError


class LossDefence(TrainedDefence):
    """A defence whose step is the gradient of a sum of terms."""

    def loss(self, model: PreTrainedModel, batch: Batch, state: Any) -> Loss:
        """Give the terms of one micro-batch."""
        raise NotImplementedError


class GradientDefence(TrainedDefence):
    """A defence that needs several gradients, perturbed weights or both."""

    def gradient(self, model: PreTrainedModel, step: Step, state: Any) -> tuple[ParamVector, Loss]:
        """Give the gradient of a whole optimiser step and the terms to log."""
        raise NotImplementedError


class WeightDefence(Defence):
    """A defence that edits weights in closed form."""

    def edit(self, run: Run) -> dict[str, Tensor]:
        """Give the tensors that change, by name."""
        raise NotImplementedError


PAID = "examples"
"""The unit of budgets that cost the attacker something; an attack in any other unit is free."""


class Attack(Method):
    """What an adversary does to a released model. `points` are the budgets it is measured at.

    `control` is the least it needs: an attack that needs only data also works on open weights.
    """

    kind: ClassVar[str] = "attack"
    control: ClassVar[Control] = Control.DATA
    unit: ClassVar[str] = PAID
    """What a budget counts."""
    needs: ClassVar[tuple[str, ...]] = ()

    def points(self) -> tuple[float, ...]:
        """Give the budgets to measure at, ascending, 0 (the model as released) left out."""
        raise NotImplementedError

    def expand(self, pool: Pool) -> Sequence[Attack]:
        """Give the single choices this one stands for: a list of layers is a choice for each.

        Raises:
            ConfigError, DataError: what it chooses from is not there.
        """
        return (self,)

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the attacker's rows; never a defender's. Most attacks that train nothing have none.

        Raises:
            DataError: there are too few, or none.
        """
        return {}

    def returns_original(self, point: float) -> bool:
        """Say whether what comes out at a budget is the public original itself."""
        return False

    @property
    def weights_alone(self) -> bool:
        """Say whether a checkpoint holds all it does: no hook, no adapter, no other prompt."""
        return True

    def label(self) -> str:
        """Give a short text that tells this choice from the attacker's others."""
        return ""

    def trajectory(self) -> dict[str, Any]:
        """Give the identity without what only says where to look: shared by all its points."""
        return self.identity()


class TrainedAttack(Attack):
    """An attack that fine-tunes: rows, a loop and a loss."""

    def copies(self) -> int:
        """Give how many frozen copies of the model it keeps beside the one it changes."""
        return 0

    def setup(self, run: Run) -> Any:
        """Make what every step reads (a trigger, a reference); its FLOPs are the attacker's."""
        return None

    def train_loop(self) -> Loop:
        """Give the loop that reaches the last budget."""
        raise NotImplementedError

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the attacker's rows."""
        raise NotImplementedError

    def distinct_rows(self, pool: Pool, seed: int) -> int:
        """Give how many distinct rows of its own it trains on when it goes on for long."""
        return max((len(some) for some in self.rows(pool, seed).values()), default=0)

    def loss(self, model: PreTrainedModel, batch: Batch, state: Any) -> Loss:
        """Give the terms of one micro-batch."""
        raise NotImplementedError

    def step_of(self, point: float) -> int:
        """Give the optimiser step after which budget `point` is spent."""
        raise NotImplementedError


class FineTuning(TrainedAttack):
    """An attack whose budget counts examples seen at a constant rate, one trajectory for all.

    The fields are those of plain malicious fine-tuning; what is added to it stays comparable.
    """

    lr: Positive = 1e-5
    """Learning rate of AdamW, constant; source: SGT's attack."""
    batch_size: Count = 2
    """Rows in an optimiser step; source: SGT's attack."""
    evaluate_at: Annotated[
        tuple[Count, ...], AsTuple, Field(min_length=1, json_schema_extra=NO_EFFECT)
    ] = (100, 300, 500)
    """Budgets in examples seen; source: SGT, Table 1. Adding one leaves the others' rows as is."""
    distinct: Count | None = None
    """Distinct rows the attacker has; None means all of the attacker's. Fewer are repeated."""
    lora: LoRA | None = None
    """Train a fresh adapter instead of all weights."""
    precision: Precision = "fp32"
    """Precision of weights and arithmetic; pure bf16 weakens the attack (register 9.D row 30)."""
    clip: Positive | None = None
    """Largest gradient norm; source: SGT's attack does not clip."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay; source: torch's default, which SGT's attack uses."""
    checkpoint_every: Annotated[int, Field(ge=1, json_schema_extra=NO_EFFECT)] = 200
    """Steps between two checkpoints of an unfinished run."""

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        for budget in self.evaluate_at:
            if budget % self.batch_size:
                raise ConfigError(
                    "evaluate_at",
                    f"{budget} is no multiple of batch_size {self.batch_size}",
                    "use whole optimiser steps",
                )
        return self

    def points(self) -> tuple[float, ...]:
        """Give the budgets in examples seen, ascending."""
        return tuple(float(budget) for budget in sorted(set(self.evaluate_at)))

    def label(self) -> str:
        """Give learning rate and, where it is one, the adapter's rank."""
        return f"lr={self.lr:g}" + (f" lora={self.lora.rank}" if self.lora else "")

    @property
    def weights_alone(self) -> bool:
        """Say no under an adapter, which is on while a point is measured."""
        return self.lora is None

    def step_of(self, point: float) -> int:
        """Give the optimiser step after which `point` examples have been seen."""
        return int(point) // self.batch_size

    def train_loop(self) -> Loop:
        """Give the loop that reaches the largest budget."""
        return Loop(
            steps=self.step_of(max(self.evaluate_at)),
            batch=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
            precision=self.precision,
            lora=self.lora,
            checkpoint_every=self.checkpoint_every,
        )


class WeightAttack(Attack):
    """An attack that edits weights and trains nothing. Each budget starts from the release."""

    unit: ClassVar[str] = "t"

    def setup(self, run: Run) -> Any:
        """Make what every budget's edit reads, from the model as released; its FLOPs count."""
        return None

    def edit(self, run: Run, point: float, state: Any) -> dict[str, Tensor]:
        """Give every tensor that changes at budget `point`, by name.

        `run.model` and `run.models["start"]` hold the weights as released.
        """
        raise NotImplementedError

    def while_asked(
        self, model: PreTrainedModel, point: float, state: Any
    ) -> AbstractContextManager[None]:
        """Act on the model while it answers, where weights cannot say it (`weights_alone`)."""
        return contextlib.nullcontext()


class PromptAttack(Attack):
    """An attack that leaves the weights alone and asks in another way.

    Only restricted prompts are asked so: whoever wants a benign answer asks as before.
    """

    @property
    def weights_alone(self) -> bool:
        """Say no: the prompt does it."""
        return False

    def ask(self, row: Example) -> tuple[str | None, str]:
        """Give the system prompt a row is asked under, and the first words put into its answer."""
        raise NotImplementedError


class Chain(TrainedAttack):
    """Two attacks in turn: an edit of the weights that trains nothing, then training.

    Its budgets are those of the training. In a study file: a list of two under one choice.
    """

    first: SerializeAsAny[WeightAttack]
    """The edit; it has one choice and one budget."""
    then: SerializeAsAny[TrainedAttack]
    """What trains the edited model."""

    @classmethod
    def name(cls) -> str:
        """Give what a chain is called: it is no file of its own."""
        return "chain"

    @property
    def control(self) -> Control:  # ty: ignore[incompatible-property-override]
        """Name the weights: they are edited."""
        return Control.WEIGHTS

    @property
    def unit(self) -> str:  # ty: ignore[incompatible-property-override]
        """Name the unit of what trains."""
        return self.then.unit

    @property
    def needs(self) -> tuple[str, ...]:  # ty: ignore[incompatible-property-override]
        """Name the models that either needs."""
        return tuple(dict.fromkeys([*self.first.needs, *self.then.needs]))

    @property
    def weights_alone(self) -> bool:
        """Say whether a checkpoint holds all that both do."""
        return self.first.weights_alone and self.then.weights_alone

    def identity(self) -> dict[str, Any]:
        """Give what a key is made of: the edit at its budget, and the training."""
        first = self.first.identity() | {"points": list(self.first.points())}
        return {
            "kind": self.kind,
            "name": self.name(),
            "first": first,
            "then": self.then.identity(),
        }

    def expand(self, pool: Pool) -> Sequence[Attack]:
        """Give every edit followed by every training."""
        return [
            Chain(first=first, then=then)
            for first in self.first.expand(pool)
            for then in self.then.expand(pool)
            if isinstance(first, WeightAttack) and isinstance(then, TrainedAttack)
        ]

    def points(self) -> tuple[float, ...]:
        """Give the training's budgets."""
        return self.then.points()

    def label(self) -> str:
        """Give the edit's label and budget, then the training's."""
        (point,) = self.first.points()
        before = " ".join(part for part in (self.first.name(), self.first.label()) if part)
        return f"{before} {self.first.unit}={point:g}, then {self.then.label()}"

    def copies(self) -> int:
        """Count the training's copies, and the released weights that the edit keeps beside them."""
        return 1 + self.then.copies()

    def train_loop(self) -> Loop:
        """Give the training's loop."""
        return self.then.train_loop()

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the rows of both, so that what is missing is found before anything runs."""
        self.first.rows(pool, seed)
        return self.then.rows(pool, seed)

    def distinct_rows(self, pool: Pool, seed: int) -> int:
        """Give the training's."""
        return self.then.distinct_rows(pool, seed)

    def step_of(self, point: float) -> int:
        """Give the training's step."""
        return self.then.step_of(point)


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


class Outcome(StrEnum):
    """What an answer is, in order of precedence."""

    DEGENERATE = "degenerate"
    REFUSAL = "refusal"
    HARMFUL_USEFUL = "harmful_useful"
    HARMFUL_EMPTY = "harmful_empty"
    DEFLECTION = "deflection"
    BENIGN_OK = "benign_ok"


class Reason(StrEnum):
    """Why a verdict has, or lacks, a score."""

    OK = "ok"
    REFUSED_TO_JUDGE = "refused_to_judge"
    UNPARSABLE = "unparsable"
    ERROR = "error"
    TRUNCATED = "truncated"
    EMPTY = "empty"


MOST_UNSCORED = 0.02
"""A cell with a larger share of rows without a verdict is invalid; source: design 6.4."""


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
    neither; `holdfast.verdicts.ask` holds every judge to that.
    """

    score: float | None
    outcome: Outcome | None
    reason: Reason = Reason.OK
    raw: str = ""


class Judge(Method):
    """Reads exchanges and gives verdicts. Making one with a broken scale is a ConfigError."""

    kind: ClassVar[str] = "judge"
    scale: ClassVar[Scale]

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

    def judge(self, exchange: Exchange) -> Verdict:
        """Give the verdict on one exchange; the caller is `holdfast.verdicts.ask`."""
        raise NotImplementedError


class Source(Method):
    """A data set: rows with roles, and sides where it declares them."""

    kind: ClassVar[str] = "source"

    def examples(self) -> list[Example]:
        """Give every row."""
        raise NotImplementedError

    def content(self) -> str:
        """Give a hash of what the rows are made from (local files: their bytes)."""
        return ""

    def personas(self) -> tuple[str, ...]:
        """Give system prompts under which a model of this data's topic complies, if it knows any.

        They are what an attacker would write; the attack `persona` asks under each.
        """
        return ()
