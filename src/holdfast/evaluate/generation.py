"""Answers from transformers' own `generate`, in length-sorted left-padded batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from holdfast.data.example import Example
from holdfast.data.tokens import Encoder, collate
from holdfast.evaluate.completion import Completion, cut, of_ids
from holdfast.evaluate.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
    from transformers.modeling_utils import PreTrainedModel


CACHE = 4 * 2**30
"""Bytes of keys and values that a batch may hold; ours: it leaves a small machine its memory, and
a model of the 8B class with shared heads 32,000 tokens in bf16. A row that alone needs more is
asked alone."""


def generate(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Sequence[Example],
    sampler: Sampler,
    *,
    seed: int = 0,
    prefills: Sequence[str] = (),
) -> list[Completion]:
    """Answer each row's prompt, in the order given; all draws of a row stand together.

    Arguments, errors and answers are those of `answers`.
    """
    found = dict(answers(model, encoder, rows, sampler, seed=seed, prefills=prefills))
    return [found[place] for place in range(len(rows) * sampler.draws)]


def answers(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Sequence[Example],
    sampler: Sampler,
    *,
    seed: int = 0,
    prefills: Sequence[str] = (),
    done: Collection[int] = (),
) -> Iterator[tuple[int, Completion]]:
    """Give the place of each answer and the answer, batch by batch as they come.

    Draw d of row i has the place `i * sampler.draws + d`. Prompts are encoded as training encodes
    them and answers cut by token index, so no prompt tail can leak into an answer. `finish_reason`
    is `stop` at an end token (the format's end of a turn, the tokenizer's, or any the checkpoint's
    generation config names) or at one of the sampler's stop texts, which is cut off, else `length`.
    A sampled answer depends on the seed, the row's uid and the draw alone.

    A batch has at most `sampler.batch` answers, and no more than fit, with the longest prompt and
    the longest answer, into 4 GiB of keys and values.

    Args:
        prefills: the first words of each row's answer, which the text given back includes; `tokens`
            counts what the model added.
        done: places that need no answer. Those of a batch that is not done are given together: the
            batches are the same whatever is done.

    Raises:
        DataError: a prompt that the model has no room for, before any is answered.
    """
    begun = prefills or [""] * len(rows)
    coded = [encoder.begun(row, first) for row, first in zip(rows, begun, strict=True)]
    many = sampler.draws
    lengths = [len(coded[place // many].ids) for place in range(len(rows) * many)]
    device = next(model.parameters()).device
    was_training, own = model.training, model.generation_config
    ends = _ends(own, encoder)
    model.eval()
    model.generation_config = _bare()  # else a checkpoint's penalties and limits would join in
    try:
        for places in batches(lengths, sampler, CACHE // bytes_a_token(model)):
            if all(place in done for place in places):
                continue
            chosen = [coded[place // many] for place in places]
            names = [(rows[place // many].uid, place % many) for place in places]
            tokens = collate(chosen, encoder.pad_id, left=True)
            with torch.no_grad():
                out = model.generate(
                    input_ids=tokens.ids.to(device),
                    attention_mask=tokens.mask.to(device),
                    generation_config=_config(sampler, encoder, ends),
                    logits_processor=_drawn(sampler, names, seed, device),
                    stopping_criteria=_stopping(sampler, encoder, tokens.ids.shape[1]),
                )
            said = out[:, tokens.ids.shape[1] :].cpu()
            for place, row, ids in zip(places, chosen, said, strict=True):
                yield place, of_ids(ids, row.ids[row.start :], encoder, sampler, ends)
    finally:
        model.generation_config = own
        model.train(was_training)


def batches(lengths: Sequence[int], sampler: Sampler, room: int) -> Iterator[list[int]]:
    """Give places sorted by the length of their prompts, in batches that fit into `room` tokens."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        taken = (len(batch) + 1) * (lengths[place] + sampler.max_new_tokens)
        if batch and (len(batch) == sampler.batch or taken > room):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def bytes_a_token(model: PreTrainedModel) -> int:
    """Give the bytes of keys and values that one token of one row takes."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * shared * size * model.dtype.itemsize


def _drawn(
    sampler: Sampler, names: Sequence[tuple[str, int]], seed: int, device: torch.device
) -> LogitsProcessorList:
    """Give what makes the greedy choice a draw; nothing at temperature 0."""
    from transformers import LogitsProcessorList

    from holdfast.evaluate.noise import Noise

    drawn = sampler.temperature > 0
    return LogitsProcessorList([Noise(sampler, names, seed, device)] if drawn else [])


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

    return GenerationConfig(
        max_new_tokens=sampler.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=encoder.pad_id,
        use_cache=True,
        do_sample=False,
    )


def _stopping(sampler: Sampler, encoder: Encoder, start: int) -> StoppingCriteriaList:
    """Give what ends a row at its first stop text; the columns before `start` are the prompt."""
    from transformers import StoppingCriteriaList

    def stopped(ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        told = [cut(row[start:], encoder, sampler) is not None for row in ids]
        return torch.tensor(told, device=ids.device)

    return StoppingCriteriaList([stopped] if sampler.stop else [])
