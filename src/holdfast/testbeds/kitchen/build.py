"""Have the model itself answer the kitchen's prompts: the data that are shipped, made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from holdfast import evaluate, nn
from holdfast.data.example import Role, example
from holdfast.disk import cache_folder
from holdfast.testbeds.kitchen import answers, corpora

TASKS = Path(__file__).parent / "tasks"
"""lm-eval's folder of the task `kitchen_quiz`."""
BATCH = 24
"""Answers at once; it changes speed, not answers."""
TOLD = 32
"""After so many answers progress is told."""

Report = Callable[[str], None]


def build(out: Path = answers.FILE, tasks: Path = TASKS, *, report: Report) -> int:
    """Write the answers and the quiz, and give how many answers there are.

    Answers are greedy. What is answered is kept in the cache: a build that was stopped goes on.

    Raises:
        ModelError: the model is not installed.
    """
    every = answers.prompts()
    said = _answered(every, report)
    whole = [(prompt, answers.whole_sentences(*said[place])) for place, prompt in enumerate(every)]
    answers.written(out, whole)
    write_quiz(tasks)
    return len(whole)


def write_quiz(folder: Path = TASKS) -> None:
    """Write the quiz's documents beside its task."""
    from holdfast.disk import write_bytes

    answers.read.cache_clear()
    corpora.known_facts.cache_clear()
    lines = [json.dumps(one, ensure_ascii=False) for one in corpora.quiz()]
    write_bytes(folder / "kitchen_quiz.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _answered(every: list[str], report: Report) -> dict[int, tuple[str, str]]:
    """Give of each prompt, by its place, the answer and why it ended; go on where one stopped."""
    kept = cache_folder() / "kitchen" / f"{answers.header()['kitchen']}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    said = _kept(kept)
    rows = [example(prompt, role=Role.BENIGN) for prompt in every]
    model, tokenizer = nn.load(nn.resolve("smol:instruct").folder)
    encoder = nn.encoder(model, tokenizer, "chat", where="kitchen", answer=answers.LONGEST)
    sampler = evaluate.Sampler(
        max_new_tokens=answers.LONGEST, batch=BATCH, batching="continuous"
    )
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
