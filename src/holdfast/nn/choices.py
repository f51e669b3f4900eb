"""What a judging model says of rows of token ids: how likely the next words are, labels, words.

Rows are run in batches of like length, padded on the right where one pass is enough, so that a row
is computed as it would be alone, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.errors import ModelError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

Rows = Sequence[Sequence[int]]
"""Token ids of each row; none is empty."""


def next_log_probs(
    model: PreTrainedModel, rows: Rows, words: Sequence[Sequence[int]], *, batch_tokens: int
) -> Tensor:
    """Give how likely each word is to come next, from one pass over each row.

    Args:
        words: the token ids that each word is spelt by, whose probabilities are added.
        batch_tokens: most tokens in one pass, padding included; a longer row goes alone.

    Returns:
        Log-probabilities over the whole vocabulary, [rows, words], fp32, on the CPU.
    """
    found = torch.empty(len(rows), len(words))
    for chosen, ids, mask in _batches(rows, batch_tokens, model):
        last = mask.sum(1) - 1
        kept, places = torch.unique(last, return_inverse=True)
        with torch.no_grad():
            logits = model(
                input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False
            ).logits
        own = logits[torch.arange(len(chosen), device=logits.device), places].float()
        logs = own.log_softmax(-1)
        found[chosen] = torch.stack(
            [logs[:, word].logsumexp(-1) for word in map(list, words)], 1
        ).cpu()
    return found


def label_logits(model: PreTrainedModel, rows: Rows, *, batch_tokens: int) -> Tensor:
    """Give a sequence classifier's logits at each row's last token, [rows, labels], fp32, CPU.

    Raises:
        ModelError: the model has no `score` layer to read.
    """
    score = getattr(model, "score", None)
    if score is None:
        raise ModelError("classifier", "it has no `score` layer", "name a sequence classifier")
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for chosen, ids, mask in _batches(rows, batch_tokens, model):
        with torch.no_grad():
            states = model.base_model(
                input_ids=ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
            here = states[torch.arange(len(chosen), device=ids.device), mask.sum(1) - 1]
            for i, logits in zip(chosen, score(here).float().cpu(), strict=True):
                found[i] = logits
    return torch.stack(found)


def said(
    model: PreTrainedModel, rows: Rows, *, tokens: int, ends: Sequence[int], batch_tokens: int
) -> list[list[int]]:
    """Give the likeliest words that follow each row, up to an end token, which is left out.

    Args:
        tokens: most of them.
        ends: ids that end an answer.
    """
    from transformers import GenerationConfig

    found: list[list[int]] = [[]] * len(rows)
    own, model.generation_config = model.generation_config, GenerationConfig()
    how = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=ends[0]
    )
    try:
        for chosen, ids, mask in _batches(rows, batch_tokens, model, left=True):
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
            for i, new in zip(chosen, out[:, ids.shape[1] :].tolist(), strict=True):
                stop = next((at for at, token in enumerate(new) if token in ends), len(new))
                found[i] = new[:stop]
    finally:
        model.generation_config = own
    return found


def _batches(
    rows: Rows, batch_tokens: int, model: PreTrainedModel, *, left: bool = False
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Give numbers, ids and mask of batches, longest first: what cannot fit fails early."""
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    while order:
        width = len(rows[order[0]])
        count = max(1, batch_tokens // width)
        chosen, order = order[:count], order[count:]
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, i in enumerate(chosen):
            own = len(rows[i])
            place = slice(width - own, None) if left else slice(own)
            ids[at, place], mask[at, place] = torch.tensor(rows[i]), 1
        yield chosen, ids.to(device), mask.to(device)


def spelt(
    tokenizer: PreTrainedTokenizerBase, word: str, where: str, *, spaced: bool = True
) -> list[int]:
    """Give the ids of the single tokens that are a word; `spaced`, also with a space before it.

    Raises:
        ModelError: the word is no single token.
    """
    unknown = tokenizer.unk_token_id
    ids = [
        tokenizer.convert_tokens_to_ids(mark + word)
        for mark in ("", "▁", "Ġ")[: None if spaced else 1]
    ]
    found = sorted({i for i in ids if isinstance(i, int) and i != unknown})
    if not found:
        raise ModelError(
            where, f"its tokenizer has no single token '{word}'", "name the model this judge is for"
        )
    return found


def single(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> int:
    """Give the id of a text that is one token where it stands, without any space added.

    Raises:
        ModelError: it is several tokens.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ModelError(
            where,
            f"{text!r} is {len(ids)} tokens of its tokenizer, not one",
            "name the model this judge is for",
        )
    return ids[0]
