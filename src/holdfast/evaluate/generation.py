"""Answers of a model on this machine: in length-sorted left-padded batches, or continuous ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from holdfast.data.example import Example
from holdfast.data.tokens import Encoder, Row, collate
from holdfast.evaluate.completion import Completion, cut, of_ids
from holdfast.evaluate.continuous import GROUP, continuous, fits
from holdfast.evaluate.sampler import CACHE, Sampler

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, StoppingCriteriaList
    from transformers.modeling_utils import PreTrainedModel


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
    was_training, own = model.training, model.generation_config
    ends = _ends(own, encoder)
    work = _Work(model, encoder, sampler, seed, rows, coded, _config(sampler, encoder, ends))
    model.eval()
    model.generation_config = _bare()  # else a checkpoint's penalties and limits would join in
    try:
        plan = batches(lengths, sampler, work.room)
        for places, said in work.answered([one for one in plan if not set(one) <= {*done}]):
            for place, ids in zip(places, said, strict=True):
                row = coded[place // many]
                yield place, of_ids(ids, row.ids[row.start :], encoder, sampler, ends)
    finally:
        model.generation_config = own
        model.train(was_training)


def way(model: PreTrainedModel, sampler: Sampler) -> str:
    """Say how answers are batched: `continuous` or `padded`; see `Sampler.batching`."""
    greedy = sampler.temperature == 0 and not sampler.stop
    wanted = sampler.batching == "continuous"
    return "continuous" if wanted and greedy and fits(model) else "padded"


@dataclass(frozen=True)
class _Work:
    """What is asked of one model, and both ways to have it answered."""

    model: PreTrainedModel
    encoder: Encoder
    sampler: Sampler
    seed: int
    rows: Sequence[Example]
    coded: Sequence[Row]
    config: GenerationConfig

    @property
    def room(self) -> int:
        """Give the tokens whose keys and values may be held at once."""
        return CACHE // bytes_a_token(self.model)

    def answered(self, left: list[list[int]]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Give the places of some answers and the tokens of each, until all batches are done."""
        while left:
            if way(self.model, self.sampler) == "continuous":
                places = [place for batch in left[:GROUP] for place in batch]
                prompts = [self.coded[place].ids for place in places]  # greedy: one draw a row
                said = continuous(self.model, prompts, self.config, self.sampler.batch, self.room)
                if said is not None:
                    yield places, [torch.tensor(ids, dtype=torch.long) for ids in said]
                    left = left[GROUP:]
                    continue
            places, *left = left
            yield places, self._padded(places)

    def _padded(self, places: Sequence[int]) -> list[Tensor]:
        """Answer one batch, padded on the left."""
        from transformers import LogitsProcessorList

        from holdfast.evaluate.noise import Noise

        sampler, many = self.sampler, self.sampler.draws
        tokens = collate(
            [self.coded[place // many] for place in places], self.encoder.pad_id, left=True
        )
        start, device = tokens.ids.shape[1], next(self.model.parameters()).device
        drawn = LogitsProcessorList()
        if sampler.temperature > 0:
            names = [(self.rows[place // many].uid, place % many) for place in places]
            drawn.append(Noise(sampler, names, self.seed, device))
        with torch.no_grad():
            out = self.model.generate(
                input_ids=tokens.ids.to(device),
                attention_mask=tokens.mask.to(device),
                generation_config=self.config,
                logits_processor=drawn,
                stopping_criteria=_stopping(sampler, self.encoder, start),
            )
        return list(out[:, start:].cpu())


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
    """Give the bytes of keys and values that one token of one row takes.

    A model without attention keeps a state of fixed size; its width is counted, as if it had any.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * shared * size * model.dtype.itemsize


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
