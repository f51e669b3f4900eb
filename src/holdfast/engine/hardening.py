"""Harden one model with one defence, and take a defence's own diagnostic."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from holdfast.api.registry import origin
from holdfast.data.format import MARKER
from holdfast.data.tokens import Encoder
from holdfast.engine.session import Session
from holdfast.engine.store import write_json
from holdfast.nn.content import content
from holdfast.nn.history import attacked, history, weights
from holdfast.study.nodes import Defend, Released


def defend(session: Session, key: str) -> None:
    """Harden one model with one defence and publish its checkpoint."""
    from holdfast import nn, train

    step = session.plan.defends[key]
    began = time.monotonic()
    released = Released(step.start, step.before)
    model, tokenizer = session.take(released)
    work = session.store.work(key)
    coder = nn.encoder(model, tokenizer, step.start.format, where=step.label)
    done = train.harden(
        step.method,
        model,
        coder,
        session.plan.pool,
        seed=step.seed,
        work=work,
        sources=session.sources(getattr(step.method, "needs", ())),
        progress=session.progress,
    )

    original = session.plan.original

    def fill(folder: Path) -> None:
        nn.save(done.model, tokenizer, folder, dtype=step.start.dtype)
        marker = _provenance(step, coder) | weights(folder)
        if original is not None and "original" in getattr(step.method, "needs", ()):
            marker["original"] = content(original.files)
        write_json(folder / MARKER, marker)
        write_json(folder / "diagnostics.json", done.diagnostics)
        if (work / "log.jsonl").is_file():
            shutil.copyfile(work / "log.jsonl", folder / "log.jsonl")
        done.save_state(folder)

    result = {"steps": done.steps, "flops": done.flops, "diagnostics": done.diagnostics}
    session.publish("defend", key, step.config, step.inputs, result, began, fill)
    session.store.done(key)


def measure(session: Session, key: str) -> None:
    """Take a defence's diagnostic on the model of plain refusal fine-tuning."""
    from holdfast import nn, train

    step = next(one for one in session.plan.measures.values() if one.key == key)
    began = time.monotonic()
    method, start = step.step.method, step.step.start
    model, tokenizer = session.take(Released(step.beside.start, step.beside))
    found = train.measure(
        method,
        model,
        nn.encoder(model, tokenizer, start.format, where=step.label),
        session.plan.pool,
        seed=step.step.seed,
        sources={
            "start": nn.tensors(step.beside.start.files.folder),
            "kept": nn.tensors(session.store.checked("defend", step.step.key) / "state"),
            **session.sources(getattr(method, "needs", ())),
        },
    )
    session.publish(
        "measure",
        key,
        step.config,
        step.inputs,
        {"diagnostics": found},
        began,
        lambda folder: write_json(folder / "diagnostics.json", found),
    )


def _provenance(step: Defend, coder: Encoder) -> dict[str, Any]:
    chain = Released(step.start, step).chain
    before = history(step.start.files.folder)
    return {
        "made_by": "holdfast",
        "model": step.start.entry.path,
        "content": content(step.start.files),
        "dtype": step.start.dtype,
        "format": coder.format.form,
        "format_identity": coder.format.identity(),
        "sample_prompt": coder.sample,
        "defences": [one.method.identity() for one in chain],
        "from": [origin("defence", one.method.name()) for one in chain],
        "seed": step.seed,
        "key": step.key,
        "attacked": attacked(before),
        "history": before,
    }
