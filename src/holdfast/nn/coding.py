"""How a model's rows are coded: within its context and its embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data.format import Format
from holdfast.data.tokens import Encoder
from holdfast.nn.states import context

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    format: Format | str,
    *,
    where: str,
    answer: int = 0,
) -> Encoder:
    """Give an encoder that refuses rows which the model cannot take.

    Args:
        answer: tokens kept free behind a prompt, for the answer to come.
        where: what an error begins with.
    """
    return Encoder(
        tokenizer,
        format,
        max_length=context(model),
        answer=answer,
        embeddings=model.config.get_text_config().vocab_size,
        where=where,
    )
