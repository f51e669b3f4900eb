"""Have the model itself answer the kitchen's prompts: the data that are shipped, made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from holdfast import evaluate, nn
from holdfast.data.example import Role, example
from holdfast.disk import cache_folder, write_bytes
from holdfast.testbeds.kitchen import answers, corpora

TASKS = Path(__file__).parent / "tasks"
"""lm-eval's folder of the task `kitchen_quiz`."""
BATCH = 24
"""Answers at once; it changes speed, not answers."""
TOLD = 32
"""After so many answers progress is told."""

Report = Callable[[str], None]


def build(*, report: Report) -> int:
    """Write the answers and the quiz in place, and give how many answers there are.

    Raises:
        ModelError: the model is not installed. StoreError: the data cannot be written.
    """
    said = answered(report=report)
    answers.written(answers.FILE, said.items())
    answers.read.cache_clear()
    corpora.known_facts.cache_clear()
    lines = [json.dumps(one, ensure_ascii=False) for one in corpora.quiz()]
    write_bytes(TASKS / "kitchen_quiz.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return len(said)


def same(*, report: Report) -> tuple[int, int]:
    """Answer every prompt again; give how many answers are the shipped ones, and of how many.

    Greedy answers of another machine may part where two tokens are nearly as likely.
    """
    shipped, said = answers.read(), answered(report=report)
    return sum(shipped[prompt] == text for prompt, text in said.items()), len(said)


def answered(*, report: Report) -> dict[str, str]:
    """Give the model's own answer to each prompt, greedy, without what the limit cut off.

    What is answered is kept in the cache: a build that was stopped goes on.
    """
    every = answers.prompts()
    kept = cache_folder() / "kitchen" / f"{answers.header()['kitchen']}.jsonl"
    said = _answered(every, kept, report)
    kept.unlink()
    return {prompt: answers.whole_sentences(*said[place]) for place, prompt in enumerate(every)}


def _answered(every: list[str], kept: Path, report: Report) -> dict[int, tuple[str, str]]:
    """Give of each prompt, by its place, the answer and why it ended; go on where one stopped."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    said = _kept(kept)
    rows = [example(prompt, role=Role.BENIGN) for prompt in every]
    model, tokenizer = nn.load(nn.resolve("smol:instruct").folder)
    encoder = nn.encoder(model, tokenizer, "chat", where="kitchen", answer=answers.LONGEST)
    sampler = evaluate.Sampler(max_new_tokens=answers.LONGEST, batch=BATCH, batching="continuous")
    with kept.open("a", encoding="utf-8") as file:
        for place, one in evaluate.answers(model, encoder, rows, sampler, done=list(said)):
            said[place] = (one.text, one.finish_reason)
            file.write(json.dumps([place, one.text, one.finish_reason]) + "\n")
            file.flush()
            if len(said) % TOLD == 0:
                report(f"{len(said)} of {len(every)} answers")
    return said


def _kept(path: Path) -> dict[int, tuple[str, str]]:
    """Read what an earlier build answered; a line that a crash tore is asked again."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            place, text, finish_reason = json.loads(line)
        except ValueError:
            continue
        found[place] = (text, finish_reason)
    return found
