"""The public original's tensors, in the shape of a model made from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from holdfast.errors import ModelError


def original_of(
    original: Mapping[str, Tensor], name: str, tensor: Tensor, where: str = "original"
) -> Tensor:
    """Give the original's tensor of a name; vocabulary rows added since are those of `tensor`.

    Raises:
        ModelError: the original has no such tensor, or one of another shape.
    """
    if name in original:
        public = original[name].to(tensor.device)
        if public.shape == tensor.shape:
            return public
        if added_rows(public, tensor):
            finer = torch.promote_types(public.dtype, tensor.dtype)
            return torch.cat([public.to(finer), tensor[len(public) :].to(finer)])
    raise ModelError(where, f"the original has no '{name}' of this shape", "name its own base")


def added_rows(public: Tensor, tensor: Tensor) -> int:
    """Count the vocabulary rows a table has got since; 0 where the shapes differ otherwise."""
    if public.ndim != 2 or tensor.ndim != 2 or public.shape[1] != tensor.shape[1]:
        return 0
    return max(0, len(tensor) - len(public))
