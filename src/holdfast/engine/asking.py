"""Ask a model at one point: answers, choices, states; each published when whole."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast.api import EvalPurpose, PromptAttack
from holdfast.data.example import Example
from holdfast.data.tokens import Encoder
from holdfast.engine.session import Session, folder_of
from holdfast.engine.states import STATES
from holdfast.engine.store import write_lines
from holdfast.evaluate.sampler import Sampler
from holdfast.study.nodes import Defend, Generate, Look, Point, Released, Start, Way

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def ask(
    session: Session,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    start: Start,
    point: Point,
    spent: Mapping[str, Any],
    by: PromptAttack | None = None,
) -> None:
    """Ask a point's missing prompt sets and keep the states that are wanted of it.

    Training's random numbers stay as they were.
    """
    import torch

    from holdfast import nn

    state = torch.get_rng_state()
    room = session.plan.study.generation.max_new_tokens
    form = start.evaluation_format
    encoder = nn.encoder(model, tokenizer, form, answer=room, where="evaluation")
    try:
        for step in point.asked.values():
            if not session.store.has("generate", step.key):
                _generate(session, model, encoder, step, spent, by)
        for look in point.looks:
            if not session.store.has("analyse", look.key):
                _look(session, model, encoder, point, look, spent)
    finally:
        torch.set_rng_state(state)


def _generate(
    session: Session,
    model: PreTrainedModel,
    encoder: Encoder,
    step: Generate,
    spent: Mapping[str, Any],
    by: PromptAttack | None,
) -> None:
    """Answer one prompt set; where it has options, choose among them; lm-eval asks its own."""
    from holdfast import evaluate

    prompts = session.plan.prompts[step.evaluation]
    sampler = prompts.sampler(session.plan.study.generation)
    changed = by if prompts.set.purpose is EvalPurpose.HARM else None
    began = time.monotonic()

    def answer(rows: Sequence[Example]) -> list[dict[str, Any]]:
        if prompts.chosen:
            return _choices(model, encoder, rows)
        if prompts.benchmarked:
            return evaluate.score(model, encoder, rows)
        return _answers(model, encoder, step, rows, changed or prompts.way, sampler)

    label = f"ask {prompts.set.name}"
    rows = session.chunks(step.key, prompts.rows, answer, label)
    how: dict[str, Any] = {}
    if prompts.sampled:
        how["batching"] = evaluate.way(model, sampler)
    if prompts.benchmarked:
        how["lm_eval"] = evaluate.aggregated(rows)
    session.publish(
        "generate",
        step.key,
        step.config,
        [step.point],
        {**spent, **how},
        began,
        lambda folder: write_lines(folder / "exchanges.jsonl", rows),
    )
    session.store.done(step.key)


def _choices(
    model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example]
) -> list[dict[str, Any]]:
    from holdfast import evaluate

    picked = evaluate.choose(model, encoder, rows)
    return [
        {"uid": row.uid, "choice": choice, "response": row.known.options[choice]}
        for row, choice in zip(rows, picked, strict=True)
    ]


def _answers(
    model: PreTrainedModel,
    encoder: Encoder,
    step: Generate,
    rows: Sequence[Example],
    changed: PromptAttack | Way | None,
    sampler: Sampler,
) -> list[dict[str, Any]]:
    """Generate answers, to what an attack by prompt or a customer makes of the prompts."""
    from holdfast import evaluate

    prefills: list[str] = []
    if isinstance(changed, Way):
        rows = [changed.ask(row) for row in rows]
        prefills = [changed.prefill] * len(rows) if changed.prefill else []
    elif changed is not None:
        asked = [changed.ask(row) for row in rows]
        rows = [replace(row, system=system) for row, (system, _) in zip(rows, asked, strict=True)]
        prefills = [prefill for _, prefill in asked]
    done = evaluate.generate(
        model, encoder, rows, sampler, seed=step.config["seed"], prefills=prefills
    )
    found = []
    for place, one in enumerate(done):
        row, draw = rows[place // step.draws], place % step.draws
        prefill = prefills[place // step.draws] if prefills else ""
        said = one.fields(prefill)
        if isinstance(changed, Way) and changed.job is not None:
            said |= {"response": changed.read(one.text), "written": one.text}
        found.append(
            {
                "uid": row.uid,
                "system": row.system,
                "prompt": row.prompt,
                **said,
                **({"prefill": prefill} if prefill else {}),
                **({"draw": draw} if step.draws > 1 else {}),
            }
        )
    return found


def _goal(
    session: Session, encoder: Encoder, rows: Sequence[Example], step: Defend, layers: Sequence[int]
) -> Tensor:
    """Give the states that a defence trained towards, from the model it began with."""
    from holdfast import nn

    began_with = Released(step.start, step.before)
    source = step.start.files if step.before is None else folder_of(began_with, session.store)
    model, _ = nn.load(source, device=session.device)
    kept = nn.tensors(session.store.checked("defend", step.key) / "state")
    states = step.method.goal_states(model, encoder, rows, layers, kept)
    assert states is not None
    return states


def _look(
    session: Session,
    model: PreTrainedModel,
    encoder: Encoder,
    point: Point,
    look: Look,
    spent: Mapping[str, Any],
) -> None:
    """Keep the states in which the analysis' prompts leave the model."""
    from safetensors.torch import save_file

    from holdfast import nn

    assert session.plan.looking is not None
    began = time.monotonic()
    rows = session.plan.looking.rows
    if look.goal is None:
        states = nn.opening_states(model, encoder, rows, look.layers)
    else:
        states = _goal(session, encoder, rows, look.goal, look.layers)
    session.publish(
        "analyse",
        look.key,
        look.config,
        [point.key],
        spent,
        began,
        lambda folder: save_file({"states": states}, folder / STATES),
    )
