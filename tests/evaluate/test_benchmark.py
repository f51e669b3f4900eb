"""lm-eval asks a model in memory: its numbers are our own, and nothing is left behind."""

from __future__ import annotations

import logging
import math
import os
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tests.benchmarking import quizzed, tasks

from holdfast import evaluate, nn
from holdfast.data.benchmarks import Document, load
from holdfast.data.example import Example, Side
from holdfast.data.format import Format
from holdfast.data.pool import Pool
from holdfast.data.sources.lm_eval import LmEval
from holdfast.data.tokens import Encoder
from holdfast.errors import DataError
from holdfast.nn.choices import said
from holdfast.nn.files import resolve
from holdfast.testbeds.guild.sources.world import World
from holdfast.testing import tiny

Asked = tuple[Any, Encoder]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


def opened(name: str, form: str = "plain") -> Asked:
    model, tokenizer = nn.load(resolve(name, "model"))
    return model, nn.encoder(model, tokenizer, Format(form), where="model")


@pytest.fixture(scope="module")
def world() -> Asked:
    return opened("world:instruct")


@pytest.fixture(scope="module")
def small() -> Asked:
    return opened("smol:instruct", "chat")


def rows(folder: Path, task: str, shots: int = 0) -> list[Example]:
    return LmEval(task=task, shots=shots, folder=str(folder)).examples()


def sums(asked: Asked, row: Example) -> list[float]:
    """Add up the log-probabilities of each request's tokens, one at a time, in float64."""
    model, encoder = asked
    document = Document(**row.known.lm_eval)
    benchmark = load(document.benchmark, document.shots, document.folder)
    found = []
    (asks,) = benchmark.requests([document])
    for before, after, _ in asks:
        start = len(encoder.tokenizer.encode(before))
        ids = encoder.tokenizer.encode(before + after)
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found.append(sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids))))
    return found


def check_options(asked: Asked, made: Sequence[Example]) -> None:
    """Hold `acc` (the sum) and `acc_norm` (the sum a character) against our own."""
    for row, answer in zip(made, evaluate.score(*asked, made), strict=True):
        own = sums(asked, row)
        assert answer["log_likelihoods"] == pytest.approx(own, abs=2e-3)
        document = Document(**row.known.lm_eval)
        task = load(document.benchmark, document.shots, document.folder).tasks[document.task]
        doc = task.task_docs[document.place]
        options, right = task.doc_to_choice(doc), task.doc_to_target(doc)
        best = max(range(len(own)), key=own.__getitem__)
        assert answer["response"] == options[best]
        assert answer["metrics"]["acc"] == float(best == right)
        if "acc_norm" in answer["metrics"]:
            each = [value / len(text) for value, text in zip(own, options, strict=True)]
            assert answer["metrics"]["acc_norm"] == float(each.index(max(each)) == right)


def check_sums(asked: Asked, made: Sequence[Example]) -> None:
    """Hold what is generated against our own greedy answers."""
    model, encoder = asked
    answers = evaluate.score(model, encoder, made)
    assert len({answer["response"] for answer in answers}) > 1
    for row, answer in zip(made, answers, strict=True):
        document = Document(**row.known.lm_eval)
        benchmark = load(document.benchmark, document.shots, document.folder)
        (((before, _, tokens),),) = benchmark.requests([document])
        assert tokens == 12
        ids = [encoder.tokenizer.encode(before)]
        (own,) = said(model, ids, tokens=tokens, ends=encoder.ends, batch_tokens=4096)
        text = encoder.tokenizer.decode(own, skip_special_tokens=True).split("Question:")[0]
        assert answer["response"] == text
        assert set(answer["metrics"]) == {
            "exact_match,strict-match", "exact_match,flexible-extract"
        }  # fmt: skip


@pytest.mark.parametrize("shots", [0, 5])
def test_on_the_world_its_numbers_are_our_own(world: Asked, folder: Path, shots: int) -> None:
    for task in ("picks", "bookish"):
        check_options(world, rows(folder, task, shots))
    check_sums(world, rows(folder, "sums", shots))


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 5])
def test_on_the_small_model_its_numbers_are_our_own(folder: Path, shots: int) -> None:
    asked = opened("smol:instruct")  # every third document: each is read again option by option
    for task in ("picks", "bookish"):
        check_options(asked, rows(folder, task, shots)[::3])
    check_sums(asked, rows(folder, "sums", shots)[::3])


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 5])
def test_a_chat_model_is_asked_in_its_template_examples_as_turns(
    small: Asked, folder: Path, shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    tokenizer = type(small[1].tokenizer)
    own = tokenizer.encode

    def encode(self: Any, text: str, **more: Any) -> Any:
        seen.append(text)
        return own(self, text, **more)

    monkeypatch.setattr(tokenizer, "encode", encode)
    made = rows(folder, "bookish", shots)
    assert len(evaluate.score(*small, made)) == len(made)
    whole = max(seen, key=len)
    assert whole.count("<|im_start|>user") == 1 + shots
    assert whole.count("<|im_start|>assistant") == 1 + shots


def test_the_worlds_quiz_as_a_task_agrees_with_its_own(world: Asked, tmp_path: Path) -> None:
    asked = Pool.of([World()]).evaluation("quiz", Side.EVALUATOR, 18, 0)
    quiz = LmEval(task="quizzed", folder=str(quizzed(tmp_path / "quiz", asked)))
    own = evaluate.choose(*world, asked)
    answers = evaluate.score(*world, quiz.examples())
    shown = [row.known.options[chosen] for row, chosen in zip(asked, own, strict=True)]
    assert [answer["response"] for answer in answers] == shown
    right = [chosen == row.known.answer_index for row, chosen in zip(asked, own, strict=True)]
    found = evaluate.aggregated(answers)
    assert found["acc"]["value"] == pytest.approx(sum(right) / len(right))
    assert found["acc_norm"]["value"] == pytest.approx(sum(right) / len(right), abs=0.06)


@pytest.mark.parametrize("task", ["picks", "bookish", "sums"])
def test_examples_do_not_depend_on_who_else_is_asked(folder: Path, task: str) -> None:
    """lm-eval draws a document's examples in turn: two at a time it would draw others."""
    asked = (tiny.model(), tiny.encoder())
    made = rows(folder, task, 2)
    whole = evaluate.score(*asked, made)
    parts = [one for i in range(0, len(made), 2) for one in evaluate.score(*asked, made[i : i + 2])]
    backwards = evaluate.score(*asked, made[::-1])[::-1]
    for one, part, back in zip(whole, parts, backwards, strict=True):
        for other in (part, back):
            assert other["uid"] == one["uid"]
            assert other["metrics"] == one["metrics"]
            assert other["response"] == one["response"]
            own = one.get("log_likelihoods", [])
            assert other.get("log_likelihoods", []) == pytest.approx(own, rel=1e-4)


def test_its_numbers_are_those_of_lm_evals_own_run(folder: Path) -> None:
    """Examples too, which lm-eval draws from a random generator of its own."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, encoder = tiny.model(), tiny.encoder()
    made = rows(folder, "bookish", 3)
    ours = evaluate.aggregated(evaluate.score(model, encoder, made))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        results = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=tiny.encoder().tokenizer, batch_size=4),
            tasks=["bookish"],
            num_fewshot=3,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=10,
        )
    assert results is not None
    theirs = results["results"]["bookish"]
    for name in ("acc", "acc_norm"):
        assert ours[name]["value"] == pytest.approx(theirs[f"{name},none"])
        assert ours[name]["stderr"] == pytest.approx(theirs[f"{name}_stderr,none"])
        assert ours[name]["n"] == 6


def test_nothing_is_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, encoder = tiny.model().train(), tiny.encoder()
    model.get_input_embeddings().eval()
    encoder.tokenizer.pad_token = None
    logger = logging.getLogger("lm_eval")
    logger.setLevel(logging.INFO)
    config, kept = model.generation_config, dict(model.named_parameters())
    modes = [one.training for one in model.modules()]
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    outside = (
        dict(os.environ), list(warnings.filters), Path.cwd(), datasets.config.HF_DATASETS_CACHE,
        datasets.are_progress_bars_disabled(), logging.getLogger().level,
        list(logging.getLogger().handlers),
    )  # fmt: skip
    load.__globals__["_load"].cache_clear()
    evaluate.score(model, encoder, rows(folder, "sums", 2))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert outside == (
        dict(os.environ), list(warnings.filters), Path.cwd(), datasets.config.HF_DATASETS_CACHE,
        datasets.are_progress_bars_disabled(), logging.getLogger().level,
        list(logging.getLogger().handlers),
    )  # fmt: skip
    assert logger.level == logging.INFO
    assert encoder.tokenizer.pad_token is None
    assert model.generation_config is config
    assert [one.training for one in model.modules()] == modes
    now = dict(model.named_parameters())
    assert all(now[name] is one for name, one in kept.items())


def test_it_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate.score(tiny.model(), tiny.encoder(), rows(folder, "sums", 2))
    evaluate.score(tiny.model(), tiny.encoder(), rows(folder, "bookish"))
    assert capfd.readouterr() == ("", "")


def test_a_document_that_does_not_fit_is_no_shorter_one(world: Asked, folder: Path) -> None:
    made = rows(folder, "picks", 5)
    long = Encoder(world[1].tokenizer, Format("plain", system="be careful " * 90), where="model")
    with pytest.raises(DataError) as caught:
        evaluate.score(world[0], long, made)
    line = str(caught.value)
    assert line.startswith("model: a document is ")
    assert line.endswith(
        "tokens with its examples and its answer, the model takes 256; ask it with fewer shots"
    )


def test_a_document_that_changed_meanwhile_is_told(folder: Path) -> None:
    (row, *_) = rows(folder, "sums")
    row.meta["lm_eval"]["content"] = "other"
    with pytest.raises(DataError) as caught:
        evaluate.score(tiny.model(), tiny.encoder(), [row])
    assert str(caught.value) == ("lm_eval: task 'sums': its documents changed meanwhile; run again")


def test_one_answer_has_no_standard_error() -> None:
    found = evaluate.aggregated([{"metrics": {"acc": 1.0}}])
    assert found["acc"]["value"] == 1.0
    assert math.isnan(found["acc"]["stderr"])
