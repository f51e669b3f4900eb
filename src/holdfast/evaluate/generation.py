"""Answers from transformers' own `generate`, in length-sorted left-padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from holdfast.api import seed as seed_of
from holdfast.data.example import Example
from holdfast.data.tokens import Encoder, collate
from holdfast.evaluate.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, StoppingCriteriaList
    from transformers.modeling_utils import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: its text without special tokens, why it ended, and its tokens."""

    text: str
    finish_reason: str
    tokens: int


def generate(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Sequence[Example],
    sampler: Sampler,
    *,
    seed: int = 0,
    prefills: Sequence[str] = (),
) -> list[Completion]:
    """Answer each row's prompt, in the order given.

    Prompts are encoded as training encodes them and answers cut by token index, so no prompt tail
    can leak into an answer. `finish_reason` is `stop` at an end token (the format's end of a turn,
    the tokenizer's, or any the checkpoint's generation config names) or at one of the sampler's
    stop texts, which is cut off, else `length`. Under sampling the draw of a batch depends on the
    seed and the batch's first row.

    Args:
        prefills: the first words of each row's answer, which the text given back includes; `tokens`
            counts what the model added.
    """
    begun = prefills or [""] * len(rows)
    coded = [encoder.begun(row, first) for row, first in zip(rows, begun, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: (len(coded[i].ids), i))
    done: dict[int, Completion] = {}
    device = next(model.parameters()).device
    was_training, own = model.training, model.generation_config
    ends = _ends(own, encoder)
    model.eval()
    model.generation_config = _bare()  # else a checkpoint's penalties and limits would join in
    try:
        for first in range(0, len(order), sampler.batch):
            chosen = order[first : first + sampler.batch]
            tokens = collate([coded[i] for i in chosen], encoder.pad_id, left=True)
            torch.manual_seed(seed_of(seed, "sampling", rows[chosen[0]].uid))
            with torch.no_grad():
                out = model.generate(
                    input_ids=tokens.ids.to(device),
                    attention_mask=tokens.mask.to(device),
                    generation_config=_config(sampler, encoder, ends),
                    stopping_criteria=_stopping(sampler, encoder, tokens.ids.shape[1]),
                )
            for i, ids in zip(chosen, out[:, tokens.ids.shape[1] :].cpu(), strict=True):
                done[i] = _completion(ids, coded[i].ids[coded[i].start :], encoder, sampler, ends)
    finally:
        model.generation_config = own
        model.train(was_training)
    return [done[i] for i in range(len(rows))]


def _bare() -> GenerationConfig:
    from transformers import GenerationConfig

    return GenerationConfig()


def _ends(own: GenerationConfig, encoder: Encoder) -> list[int]:
    """Give every token that ends an answer: the format's, the tokenizer's, the checkpoint's own."""
    named = getattr(own, "eos_token_id", None)
    more = named if isinstance(named, list | tuple) else [named]
    return list(dict.fromkeys([*encoder.ends, *(int(one) for one in more if one is not None)]))


def _config(sampler: Sampler, encoder: Encoder, ends: list[int]) -> GenerationConfig:
    from transformers import GenerationConfig

    chance = (
        {"do_sample": True, "temperature": sampler.temperature, "top_p": sampler.top_p, "top_k": 0}
        if sampler.temperature > 0
        else {"do_sample": False}
    )
    return GenerationConfig(
        max_new_tokens=sampler.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=encoder.pad_id,
        use_cache=True,
        **chance,
    )


def _stopping(sampler: Sampler, encoder: Encoder, start: int) -> StoppingCriteriaList:
    """Give what ends a row at its first stop text; the columns before `start` are the prompt."""
    from transformers import StoppingCriteriaList

    def stopped(ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        told = [_cut(row[start:], encoder, sampler) is not None for row in ids]
        return torch.tensor(told, device=ids.device)

    return StoppingCriteriaList([stopped] if sampler.stop else [])


def _cut(ids: Tensor, encoder: Encoder, sampler: Sampler) -> str | None:
    """Give the text before the first stop text, or None where there is none."""
    text = str(encoder.tokenizer.decode(ids, skip_special_tokens=True))
    found = [place for stop in sampler.stop if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else None


def _completion(
    ids: Tensor, begun: Sequence[int], encoder: Encoder, sampler: Sampler, ends: list[int]
) -> Completion:
    """Cut what was added to `begun` at its first end token or stop text."""
    found = torch.isin(ids, torch.tensor(ends)).nonzero()
    kept = ids[: int(found[0, 0])] if len(found) else ids
    text = encoder.tokenizer.decode([*begun, *kept.tolist()], skip_special_tokens=True)
    if sampler.stop and _cut(kept, encoder, sampler) is not None:
        used = int((kept != encoder.pad_id).sum())  # a row that stopped is filled up with padding
        # Looked for behind the given words, but cut out of the whole: decoded apart, a tokenizer
        # may drop the space between the two.
        given = len(encoder.tokenizer.decode(list(begun), skip_special_tokens=True))
        found = [place for stop in sampler.stop if (place := text.find(stop, given)) >= 0]
        return Completion(text[: min(found, default=len(text))].strip(), "stop", used)
    return Completion(text.strip(), "stop" if len(found) else "length", len(kept))
