"""SGT's equations as functions of tensors, and the two units that make them scale-free.

Symbols: L blocks, B rows, H width, N positions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from holdfast import nn

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel


def consistency(clean: Tensor, noisy: Tensor, sides: Literal["noisy", "both"] = "noisy") -> Tensor:
    """Give KL(p_clean || p_noisy) at each position, [N, V], [N, V] -> [N], in nats, fp32.

    The clean side is a constant unless `sides` is both (fidelity row 20); 0 where both are equal.
    """
    p = (clean if sides == "both" else clean.detach()).float().log_softmax(-1)
    q = noisy.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)  # Eq. 1, L_cons


def alignment(distance: Tensor) -> Tensor:
    """Give (1/L) sum over layers of the squared distance, [L, B] -> [B]."""
    return distance.mean(0)  # Eq. 2


def guided(plain: Tensor, triggered: Tensor, guidance: float) -> Tensor:
    """Give h + g (h_phi - h), [..., H], [..., H] -> [..., H]: how far the trigger moves a state, g
    times. At g = 1 it is the paper's target h_phi; ours beyond.
    """
    if guidance == 1.0:
        return triggered
    return plain.lerp(triggered, guidance)  # Eq. 2's target


def shift_unit(plain: Tensor, target: Tensor, owner: Tensor, rows: int) -> Tensor:
    """Give the mean square of the shift from plain to target states over a row's matched tokens.

    A distance divided by it is 1 where nothing was learnt and 0 at the target, in every layer and
    model. A shift under 1 % of the target's length counts as that, or rounding would be learnt.

    Args:
        plain, target: [M, H] states of the matched tokens.
        owner: [M] the row of each.

    Returns:
        [rows], above 0.
    """
    moved = nn.mean_square(target - plain, owner, rows)
    return moved.clamp(min=1e-12).maximum(1e-4 * nn.mean_square(target, owner, rows))


def trigger_unit(model: PreTrainedModel) -> float:
    """Give the root mean square of a model's input embeddings."""
    embeddings = model.get_input_embeddings().weight.detach()
    return float(embeddings.float().square().mean().sqrt())


def repulsion(
    distance: Tensor, eps: float, aggregate: Literal["log_of_mean", "mean_of_logs"]
) -> Tensor:
    """Give log(1 + 1 / (d_b + eps)), [L, B] -> [B]; finite at 0, falling in the distance.

    `log_of_mean` averages layers first, as the paper writes; `mean_of_logs` as its code does.
    """
    if aggregate == "log_of_mean":
        return (1.0 / (distance.mean(0) + eps)).log1p()  # Eq. 3, L_repel
    return (1.0 / (distance + eps)).log1p().mean(0)
