"""Greedy answers by transformers' continuous batching: a row that ends makes room for the next."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from holdfast.errors import one_line

if TYPE_CHECKING:
    from transformers import GenerationConfig
    from transformers.modeling_utils import PreTrainedModel

STEP = 1024
"""Tokens that one pass may take, prompts and answers together; ours: it bounds the attention mask,
which has a row for each of them and a column for each token that is held."""
GROUP = 8
"""Batches that are asked together, before their answers are given; ours."""

ATTENTION = "_attn_implementation"
"""The field of a config that says how attention is computed; it has no public name."""

log = logging.getLogger(__name__)
_unfit: WeakSet[Any] = WeakSet()


def fits(model: PreTrainedModel) -> bool:
    """Say whether continuous batching may be tried on a model.

    Its blocks must attend alike, since a mixture takes a cache whose size we cannot bound; and it
    never failed on this model.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return len(kinds) < 2 and model not in _unfit and hasattr(model, "generate_batch")


def continuous(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    batch: int,
    room: int,
) -> list[list[int]] | None:
    """Give the tokens added to each prompt, up to and with its end token; None where it fails.

    A model on which it failed is not tried again: `fits` then says no. The library logs its errors
    and gives fewer answers, or answers with an error, so both are looked for.

    Args:
        config: greedy, with the end tokens and the longest answer.
        batch: prompts that are held at once, at most.
        room: tokens whose keys and values may be held at once.
    """
    attention = getattr(model.config, ATTENTION)
    try:
        found = model.generate_batch(
            inputs=[list(ids) for ids in prompts],
            generation_config=config,
            continuous_batching_config=_bounded(prompts, config, batch, room),
        )
        said = [list(one.generated_tokens) for one in found.values()]
        wrong = [one.error for one in found.values() if one.error]
        if wrong or len(said) != len(prompts):
            raise RuntimeError(f"{len(prompts) - len(said) + len(wrong)} prompts got no answer")
    except Exception as error:  # whatever an architecture or a version does not know
        log.warning(
            "continuous batching does not work for %s here (%s): padded batches are used",
            type(model).__name__, one_line(error),
        )  # fmt: skip
        _unfit.add(model)
        return None
    finally:
        if getattr(model.config, ATTENTION) != attention:
            model.set_attn_implementation(attention)
    return said


def _bounded(
    prompts: Sequence[Sequence[int]], config: GenerationConfig, batch: int, room: int
) -> Any:  # noqa: ANN401  (transformers names it differently from version to version)
    """Give bounds of memory; without them the library takes nine tenths of what is free."""
    from transformers import ContinuousBatchingConfig

    made: Any = ContinuousBatchingConfig
    known, plain = {one.name for one in fields(made)}, made()
    page = plain.page_size if "page_size" in known else plain.block_size
    longest = config.max_new_tokens or 0
    pages = sorted((math.ceil((len(ids) + longest) / page) for ids in prompts), reverse=True)
    wanted = {
        "num_blocks": max(min(sum(pages[:batch]), room // page), pages[0]) + 1,
        "max_batch_tokens": STEP,
        "max_requests_per_batch": batch,
        "auto_switch_to_flash": False,  # other rounding, and a kernel fetched from the hub
    }
    return made(**{n: v for n, v in wanted.items() if n in known})
