"""Have lm-eval ask a model in memory some documents, and leave model and process as they were."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from holdfast.data.benchmarks import Benchmark, Document, compiled_once, load, metric
from holdfast.data.example import Example
from holdfast.data.templates import Template
from holdfast.data.tokens import Encoder
from holdfast.data.undisturbed import undisturbed
from holdfast.errors import DataError, HoldfastError, raised

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers.modeling_utils import PreTrainedModel

LOGITS = 2**31
"""Bytes of log-probabilities that a batch may hold, which lm-eval takes at every token; ours."""
BATCH = 64
"""Requests in a batch at most; source: the bound of lm-eval's own search (`max_batch_size`)."""
GENERATED = "lm_eval"
"""Why an answer ended, as far as lm-eval tells: it does not."""

Answer = dict[str, Any]


def score(model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example]) -> list[Answer]:
    """Ask documents of one benchmark; give of each what lm-eval found, in the order given.

    An answer has `metrics` (each of lm-eval's numbers for the document), `response` (the option
    likeliest as a whole, or what was generated) and, where options were compared, their
    `log_likelihoods`. It does not depend on which documents are asked together, within rounding.

    Under a chat template a conversation is asked in it, examples as turns, and lm-eval leaves out
    the space before an answer; under `plain` the task's text stands alone. Greedy generation reads
    the checkpoint's end tokens and nothing else of its generation config.

    Raises:
        DataError: a document changed since the rows were made, or does not fit into the context
            with its examples; or a task fails.
    """
    documents = [Document(**row.known.lm_eval) for row in rows]
    if not documents:
        return []
    first = documents[0]
    benchmark = load(first.benchmark, first.shots, first.folder)
    places: dict[str, list[int]] = {}
    for one in documents:
        places.setdefault(one.task, []).append(one.place)
    places = {task: sorted(some) for task, some in places.items()}
    with _as_it_was(model), undisturbed(), compiled_once():
        found = _evaluated(benchmark, places, _wrapped(model, encoder), encoder)
    answers = []
    for row, one in zip(rows, documents, strict=True):
        said = found[one.task, one.place]
        if said.pop("content") != one.content:
            raise DataError(
                f"lm_eval: task '{one.task}'", "its documents changed meanwhile", "run again"
            )
        answers.append({"uid": row.uid, **said})
    return answers


def aggregated(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Give each metric's mean over answers, and its standard error as lm-eval gives one.

    That is the sample's deviation over the root of n, without clusters; NaN where n is 1.
    """
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    found = {}
    for name in names:
        values = [row["metrics"][name] for row in rows if name in row["metrics"]]
        mean, n = sum(values) / len(values), len(values)
        spread = sum((value - mean) ** 2 for value in values)
        error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
        found[name] = {"value": mean, "stderr": error, "n": n}
    return found


def _evaluated(
    benchmark: Benchmark, places: Mapping[str, list[int]], lm: LM, encoder: Encoder
) -> dict[tuple[str, int], Answer]:
    """Run lm-eval's own loop over some documents of each task."""
    from lm_eval import evaluator
    from lm_eval.api import model as asking
    from lm_eval.api import task as building

    form = encoder.format
    tasks = {name: benchmark.tasks[name] for name in places}
    with contextlib.ExitStack() as shown:
        for name, some in places.items():
            shown.enter_context(benchmark.showing(name, some))
        for module in (building, asking):
            shown.enter_context(mock.patch.object(module, "tqdm", lambda some, **_: some))
        try:
            results = evaluator.evaluate(
                lm,
                {"tasks": tasks, "groups": {}, "group_map": {}},
                samples=dict(places),
                bootstrap_iters=0,
                system_instruction=form.system,
                apply_chat_template=form.form != "plain",
                fewshot_as_multiturn=True,
            )
        except HoldfastError:
            raise
        except Exception as error:  # a task is a program of somebody else's
            raise DataError(
                f"lm_eval: task '{benchmark.name}'",
                f"it fails ({raised(error)})",
                "choose another task",
            ) from None
    assert results is not None
    found: dict[tuple[str, int], Answer] = {}
    for name, samples in results["samples"].items():
        for one in samples:
            said = found.setdefault((name, one["doc_id"]), _said(benchmark, name, one))
            for own in one["metrics"]:
                value = one[own]
                if isinstance(value, int | float):
                    said["metrics"][metric(own, one["filter"])] = float(value)
    return found


def _said(benchmark: Benchmark, task: str, sample: Mapping[str, Any]) -> Answer:
    """Give what a model said to one document, as lm-eval keeps it."""
    of = benchmark.tasks[task]
    begun: Answer = {"content": sample["doc_hash"], "metrics": {}}
    if of.OUTPUT_TYPE == "generate_until":
        return begun | {"response": str(sample["resps"][0][0]), "finish_reason": GENERATED}
    values = [float(one[0]) for one in sample["filtered_resps"]]
    options = of.doc_to_choice(sample["doc"]) if of.OUTPUT_TYPE == "multiple_choice" else []
    if not options:
        return begun | {"response": str(sample["target"]), "log_likelihoods": values}
    values = values[: len(options)]
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    return begun | {"response": str(options[best]), "log_likelihoods": values}


def _wrapped(model: PreTrainedModel, encoder: Encoder) -> LM:
    """Give a model as lm-eval takes one, with a tokenizer of its own."""
    from lm_eval.models.huggingface import HFLM

    where = encoder.where

    class InMemory(HFLM):
        """A model that is loaded; it refuses what lm-eval would cut."""

        def _loglikelihood_tokens(self, requests: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
            longest = max(len(before) + len(after) for _, before, after in requests)
            self._hold(longest)
            self.batch_size_per_gpu = self._batch(longest)
            return super()._loglikelihood_tokens(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:  # noqa: ANN401
            longest = 0
            for one in requests:
                room = int(one.args[1].get("max_gen_toks", self.max_gen_toks))
                longest = max(longest, len(self.tok_encode(one.args[0])) + room)
            self._hold(longest)
            self.batch_size_per_gpu = self._batch(longest)
            return super().generate_until(requests, disable_tqdm=True)

        def _hold(self, longest: int) -> None:
            if longest > self.max_length:
                raise DataError(
                    where,
                    f"a document is {longest} tokens with its examples and its answer, the model "
                    f"takes {self.max_length}",
                    "ask it with fewer shots",
                )

        def _batch(self, longest: int) -> int:
            size = longest * self.model.config.get_text_config().vocab_size * 8
            return max(1, min(BATCH, LOGITS // size))

    return InMemory(
        pretrained=model,
        backend="causal",
        tokenizer=_tokenizer(encoder),
        chat_template_args=dict(encoder.format.variables),
    )


def _tokenizer(encoder: Encoder) -> Any:  # noqa: ANN401  (a fast one: the encoder takes no other)
    """Give a copy of the tokenizer, with the format's template: lm-eval sets its padding."""
    made = copy.deepcopy(encoder.tokenizer)
    if encoder.format.form != "plain":
        made.chat_template = Template(made, encoder.format, encoder.where).text
    return made


@contextlib.contextmanager
def _as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Put a model's mode and generation config back."""
    from transformers import GenerationConfig

    training, own = {one: one.training for one in model.modules()}, model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=getattr(own, "eos_token_id", None))
    try:
        with torch.no_grad():
            yield
    finally:
        model.generation_config = own
        for one, was in training.items():
            one.training = was
