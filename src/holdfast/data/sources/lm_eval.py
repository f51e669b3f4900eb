"""A benchmark of lm-eval: any task or group by its name, asked and scored by lm-eval itself."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.api import Count, Declared, EvalPurpose, EvalSet, Scorer, Source, Told
from holdfast.data.benchmarks import Benchmark, Document, load
from holdfast.data.example import Example, Role, Side, example
from holdfast.errors import ConfigError, did_you_mean

PUBLISHED = {"mmlu": (14_042, 95, 1), "openbookqa": (500, 20, 4)}
"""Documents of a task's test split, about how many tokens one asks, and how many passes it takes:
MMLU's options are letters, which one pass compares. The lengths are guesses."""


class LmEval(Source):
    """One row a document, all the evaluator's; of a group, a row's category is its task.

    lm-eval writes the prompts: without a chat template where the model's format is `plain`, else
    with it, examples as turns. docs/utility.md says with which published numbers that compares.
    """

    status: ClassVar[str] = "tested"
    asked_alone: ClassVar[bool] = True

    task: Annotated[str, Field(min_length=1)]
    """A task or a group of lm-eval, by its name: `mmlu`, `openbookqa`, `gsm8k`."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Examples before each question: those that lm-eval shows in a run over the whole task."""
    set: str | None = None
    """Name of its evaluation set; None is the task's, with `_N_shot` where there are examples."""
    folder: str | None = None
    """A folder of tasks: YAML files with their data, whose relative paths begin there. None means
    lm-eval's own tasks, whose data come from the hub."""
    metric: str | None = None
    """What counts as right, of those lm-eval gives: `acc`, `acc_norm`, `exact_match,strict-match`.
    None is the task's first. All are kept."""
    limit: Count | None = None
    """The first so many documents of each task; None means all. `n` of a study draws among them."""

    def set_name(self) -> str:
        """Give the name of its evaluation set."""
        return self.set or self.task + (f"_{self.shots}_shot" if self.shots else "")

    def _benchmark(self) -> Benchmark:
        return load(self.task, self.shots, self.folder)

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set, headed by the task, the examples and the metric.

        Raises:
            ConfigError: no such metric.
            DataError: as `examples`.
        """
        known = self._benchmark().metrics
        chosen = known[0] if self.metric is None else self.metric
        if chosen not in known:
            raise ConfigError(
                f"{self.name()}.metric",
                f"task '{self.task}' has no metric '{chosen}'",
                did_you_mean(chosen, known),
            )
        label = self._label(chosen)
        return (
            EvalSet(self.set_name(), EvalPurpose.LM_EVAL, Scorer.LM_EVAL, label, metric=chosen),
        )

    def at_hand(self) -> bool:
        """Say whether an estimate may load it: its own folder, or a task nobody declared."""
        return self.folder is not None or self.task not in PUBLISHED

    def declared(self) -> Declared | None:
        """Give the documents of a task that many ask, and about how long they are."""
        if self.task not in PUBLISHED:
            return None
        rows, prompt, passes = PUBLISHED[self.task]
        told = Told(
            "benign",
            min(rows, self.limit or rows),
            side="evaluator",
            asked_in=self.set_name(),
            options=passes,
        )
        whole = prompt * (1 + self.shots)
        return Declared((told,), whole, 1.0, 2 * whole, "a guess: nobody published them")

    def declared_sets(self) -> tuple[EvalSet, ...]:
        """Give its set without a look at the task."""
        metric = self.metric or "acc"
        label = self._label(metric)
        return (
            EvalSet(self.set_name(), EvalPurpose.LM_EVAL, Scorer.LM_EVAL, label, metric=metric),
        )

    def _label(self, metric: str) -> str:
        shots = f", {self.shots}-shot" if self.shots else ""
        return f"{self.set or self.task}{shots} ({metric})"

    def content(self) -> str:
        """Give the hash of its documents and of all their scores hang on."""
        found = hashlib.sha256()
        for document, _ in self._benchmark().documents(self.limit):
            found.update(document.asked.encode())
        return found.hexdigest()

    def examples(self) -> list[Example]:
        """Give a row for every document.

        Raises:
            ConfigError: lm-eval is not installed.
            DataError: no such task, nothing of its data, or a task that studies cannot ask.
        """
        benchmark = self._benchmark()
        several = len(benchmark.tasks) > 1
        return [
            self._row(document, text, several) for document, text in benchmark.documents(self.limit)
        ]

    def _row(self, document: Document, text: str, several: bool) -> Example:
        """Make a document's row; its place makes it one of its own among equal ones."""
        own = f"{document.task}/{document.place}/{document.content}"
        row = example(
            text,
            role=Role.BENIGN,
            side=Side.EVALUATOR,
            group=own,
            category=document.task if several else "",
            source=f"lm-eval {document.task}",
            meta={
                "set": self.set_name(), "style": "as given", "phrasing": 0,
                "lm_eval": document.to_meta(),
            },
        )  # fmt: skip
        return replace(row, uid=hashlib.sha256(own.encode()).hexdigest()[:16])
