"""Small measures of hidden states and first words, for methods that look at what they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import IGNORE, Row, Tokens, collate
from holdfast.nn.states import Place, forward, generation_logits

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Give the linear CKA of two sets of states, [N, H], [N, H'] -> [0, 1], in float64.

    |X'Y|^2 / (|X'X| |Y'Y|) of centred X, Y (Kornblith et al. 2019); 1 for equal sets up to rotation
    and scale; 0 where one of them does not vary. Taken over N x N products, so that H may be large.
    """
    x, y = (h.double() - h.double().mean(0) for h in (first, second))
    k, m = x @ x.T, y @ y.T
    size = float(k.norm() * m.norm())
    return float((k * m).sum()) / size if size > 0 else 0.0


def spread(states: Tensor) -> float:
    """Give the variance of states over N rows as a share of their mean square, [N, H] -> [0, 1].

    Near 0 the states hardly depend on the row.
    """
    h = states.double()
    size = float(h.square().mean())
    return float(h.var(0, unbiased=False).mean()) / size if size > 0 else 0.0


def openings(
    model: PreTrainedModel,
    prompts: Sequence[Row],
    words: int,
    pad_id: int,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
) -> list[tuple[int, ...]]:
    """Give the first `words` tokens of each prompt's greedy answer, [B] tuples of ids.

    Whole passes without a cache: meant for a handful of tokens.
    """
    said: list[tuple[int, ...]] = [() for _ in prompts]
    for _ in range(words):
        # The token to come is a stand-in: nothing before it sees it.
        rows = [
            Row((*row.ids, *more, pad_id), row.start, row.content, row.bos)
            for row, more in zip(prompts, said, strict=True)
        ]
        wide = collate(rows, pad_id)
        labels = torch.full_like(wide.labels, IGNORE)
        for line, row in zip(labels, rows, strict=True):
            line[len(row.ids) - 1] = pad_id
        tokens = Tokens(wide.ids, wide.mask, labels, wide.rows)
        with torch.no_grad():
            last = forward(model, tokens, trigger=trigger, place=place).last
            logits, _ = generation_logits(model, last, tokens)
        best = logits.argmax(-1).tolist()
        said = [(*more, token) for more, token in zip(said, best, strict=True)]
    return said
