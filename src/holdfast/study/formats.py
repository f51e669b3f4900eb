"""The formats of a study: what is asked in another than was trained, how a prompt looks."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.data.format import conversation, mismatch, plain
from holdfast.data.rendering import SAMPLE
from holdfast.study.nodes import Start


def flags(starts: Iterable[Start]) -> list[str]:
    """Say where prompts are asked in another format than a model was made or is trained in."""
    told = []
    for start in starts:
        asked = start.evaluation_format
        trained = (("a defence", start.format), ("the attacker", start.attack_format))
        told += [
            f"model '{start.name}': prompts are asked in format '{asked.form}' while {who} trains "
            f"in '{own.form}'"
            for who, own in trained
            if own.form != asked.form
        ]
        made = mismatch(start.files.folder, asked)
        if made is not None:
            told.append(f"model '{start.name}' {made}")
    return told


def samples(starts: Iterable[Start]) -> dict[str, str]:
    """Give the prompt that a neutral question becomes for each model, as it is asked.

    Raises:
        ModelError: a template cannot be rendered.
    """
    found = {}
    for start in starts:
        form = start.evaluation_format
        if form.form == "plain":  # needs no tokenizer, whose library takes a second to import
            found[start.name] = plain(conversation(form, SAMPLE), ask=True)
            continue
        from holdfast.data.tokens import Encoder, load_tokenizer

        where = f"study.models.{start.name}"
        coder = Encoder(load_tokenizer(start.files.folder, where), form, where=where)
        found[start.name] = coder.sample
    return found
