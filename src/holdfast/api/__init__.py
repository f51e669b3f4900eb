"""What a method's author needs: the kinds of method, their fields, their terms, their errors."""

from holdfast.api.attack import (
    ALL,
    PAID,
    Attack,
    Chain,
    FineTuning,
    PromptAttack,
    TrainedAttack,
    WeightAttack,
    everything,
    spelt,
)
from holdfast.api.defence import (
    Defence,
    GradientDefence,
    LossDefence,
    TrainedDefence,
    TuneDefence,
    WeightDefence,
)
from holdfast.api.effort import CONSTANT, TRAINED, Blocks, Effort, Rows, passed, to_outputs
from holdfast.api.evalset import EvalPurpose, EvalSet, Match, Scorer
from holdfast.api.fields import LATER, NO_EFFECT, AsTuple, Fields
from holdfast.api.judge import (
    MOST_UNSCORED,
    Exchange,
    Judge,
    Labelled,
    Outcome,
    Reason,
    Scale,
    Verdict,
)
from holdfast.api.known import Known
from holdfast.api.lazy import torch
from holdfast.api.loop import (
    Count,
    Layer,
    Loop,
    LoRA,
    NotNegative,
    Positive,
    Precision,
    Share,
)
from holdfast.api.machine import environment, set_threads
from holdfast.api.method import Control, Method, Stage
from holdfast.api.risk import Risk
from holdfast.api.seeds import Purpose, seed
from holdfast.api.source import Declared, Source, Told
from holdfast.api.terms import Batch, Enough, Fit, Loss, Run, State, Step, Term
from holdfast.api.trainable import Trainable

__all__ = [
    "ALL",
    "LATER",
    "MOST_UNSCORED",
    "NO_EFFECT",
    "PAID",
    "AsTuple",
    "Attack",
    "Batch",
    "Chain",
    "Control",
    "Count",
    "Defence",
    "EvalPurpose",
    "EvalSet",
    "Exchange",
    "Fields",
    "FineTuning",
    "Fit",
    "GradientDefence",
    "Judge",
    "Known",
    "Labelled",
    "Layer",
    "LoRA",
    "Loop",
    "Loss",
    "LossDefence",
    "Match",
    "Method",
    "NotNegative",
    "Outcome",
    "Positive",
    "Precision",
    "PromptAttack",
    "Purpose",
    "Reason",
    "Risk",
    "Run",
    "Scale",
    "Scorer",
    "Share",
    "Source",
    "Stage",
    "State",
    "Step",
    "Term",
    "Trainable",
    "TrainedAttack",
    "TrainedDefence",
    "TuneDefence",
    "Verdict",
    "WeightAttack",
    "WeightDefence",
    "environment",
    "everything",
    "seed",
    "set_threads",
    "spelt",
    "torch",
    "CONSTANT",
    "TRAINED",
    "Blocks",
    "Effort",
    "Enough",
    "Rows",
    "passed",
    "to_outputs",
    "Declared",
    "Told",
]
