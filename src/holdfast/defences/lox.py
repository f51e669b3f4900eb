"""LoX (Perin et al., COLM 2025): extrapolate the alignment delta along its top directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast.api import Count, NotNegative, Run, WeightDefence
from holdfast.api.lazy import torch
from holdfast.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel


def top_rank(delta: Tensor, rank: int | None) -> Tensor:
    """Give the best approximation of `delta [..., out, in]` of rank `rank`; None gives all of it.

    The truncated singular value decomposition, in the dtype given; stacked matrices each their own.
    """
    if rank is None:
        return delta
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]


def extrapolate(aligned: Tensor, original: Tensor, rank: int | None, coefficient: float) -> Tensor:
    """Give W_aligned + c * top_k(W_aligned - W_original), [..., out, in], in fp32."""
    delta = aligned.float() - original.float()
    return aligned.float() + coefficient * top_rank(delta, rank)


class LoX(WeightDefence):
    """Push aligned weights further from the public original: no data, no training."""

    needs: ClassVar[tuple[str, ...]] = ("original",)
    starts_from: ClassVar[Literal["base", "aligned"]] = "aligned"
    paper: ClassVar[str] = "arXiv 2506.15606"
    equation: ClassVar[str] = "W <- W_aligned + coefficient * SVD_rank(W_aligned - W_original)"
    cost: ClassVar[str] = "one singular value decomposition a matrix"
    fidelity: ClassVar[str] = (
        "formula read, rank and coefficient unverified; an exact decomposition, embeddings "
        "included as released; published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"coefficient": 0.0}
    signal: ClassVar[str] = "top_norm"
    moves: ClassVar[Literal["up", "down"]] = "up"

    rank: Count | None = 6
    """Singular directions kept; None keeps all (the original's `k=0`). Source: the paper's 6 for
    Llama-2-7B, from memory, unverified."""
    coefficient: NotNegative = 1.25
    """How far to extrapolate; source: the paper's 1.25 for Llama-2-7B, from memory, unverified."""
    embeddings: bool = True
    """Whether embeddings and head are edited too; the released code does."""

    def edit(self, run: Run) -> dict[str, Tensor]:
        """Give every edited matrix, fp32.

        Raises:
            ModelError: the model equals the original (nothing to extrapolate).
            ConfigError: the rank is larger than the smallest edited matrix.
        """
        start, original = run.models["start"], run.models["original"]
        skipped = self._skipped(run.model)
        edited: dict[str, Tensor] = {}
        moved = False
        for name, tensor in start.items():
            if tensor.ndim < 2 or name in skipped:
                continue
            if name not in original or original[name].shape != tensor.shape:
                raise ModelError(
                    run.where, f"the original has no '{name}' of this shape", "name its own base"
                )
            if self.rank is not None and self.rank > min(tensor.shape[-2:]):
                raise ConfigError(
                    f"{run.where}.rank",
                    f"{self.rank} is larger than {name} {tuple(tensor.shape)}",
                    f"use at most {min(tensor.shape[-2:])}",
                )
            base = original[name].to(tensor.device)
            moved = moved or not torch.equal(tensor, base.to(tensor.dtype))
            edited[name] = extrapolate(tensor, base, self.rank, self.coefficient)
        if not moved:
            raise ModelError(
                run.where,
                "the model equals the original, so there is nothing to extrapolate",
                "put an aligning defence such as refusal_sft before it",
            )
        return edited

    def _skipped(self, model: PreTrainedModel) -> set[str]:
        """Name the tensors of embeddings and head where these are left as they are."""
        if self.embeddings:
            return set()
        parts = (model.get_input_embeddings(), model.get_output_embeddings())
        own = {id(p) for part in parts if part is not None for p in part.parameters()}
        return {name for name, p in model.named_parameters() if id(p) in own}

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure the spectrum of the delta to the original over the matrices that are edited.

        `top_norm`, the L2 norm of the deltas' top directions beside that of the original; LoX
        multiplies it by 1 + coefficient. `delta_norm`, that of the whole deltas; `top_share`, the
        share of their squared norm in the top directions. Read from the model and the original
        alone; empty without an original of these shapes.
        """
        original = run.models.get("original")
        if original is None:
            return {}
        kept = whole = size = 0.0
        skipped = self._skipped(run.model)
        with torch.no_grad():
            for name, p in run.model.named_parameters():
                if p.ndim < 2 or name in skipped or name not in original:
                    continue
                base = original[name].to(p.device).float()
                if base.shape != p.shape:
                    continue
                squares = torch.linalg.svdvals(p.float() - base).double().square()
                kept += float(squares[..., : self.rank].sum())
                whole += float(squares.sum())
                size += float(base.double().square().sum())
        if not size:
            return {}
        share = kept / whole if whole else 0.0
        norms = {"top_norm": (kept / size) ** 0.5, "delta_norm": (whole / size) ** 0.5}
        return norms | {"top_share": share}
