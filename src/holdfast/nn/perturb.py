"""Perturbed layer outputs: what Vaccine and its kin add inside the model while it learns.

Symbols: L blocks, B rows, T padded length, N packed tokens, H width. A layer's output is [B, T, H]
padded or [1, N, H] packed; a perturbation has the shape of the output it is added to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import Module

from holdfast.api import Loss, Term
from holdfast.api import seed as seed_of
from holdfast.data.tokens import IGNORE, Tokens
from holdfast.errors import ModelError, TrainingError
from holdfast.nn.head import nll
from holdfast.nn.passes import add_flops, pack_for
from holdfast.nn.reference import constant_weights
from holdfast.nn.states import blocks
from holdfast.nn.vectors import SURVIVES, ParamVector, grad

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder

Site = Literal["attention", "block"]
"""Whose output is perturbed: the attention module's, before it joins the residual stream, or the
whole block's."""

TINY = 1e-7
"""Added to the norm before dividing; source: the released Vaccine script."""

Output = Tensor | tuple[Tensor, ...]
"""What a module gives: a tensor, or several, of which the first counts."""

Shifts = Mapping[int, Tensor]
"""Perturbations by the number of their layer, from 0."""


def attentions(model: PreTrainedModel) -> list[Module]:
    """Give each block's attention module: its one child whose name ends in attn or attention.

    Raises:
        ModelError: a block has none, or several.
    """
    found = []
    for number, block in enumerate(blocks(model)):
        own = [m for name, m in block.named_children() if name.endswith(("attn", "attention"))]
        if len(own) != 1:
            raise ModelError(
                f"block {number}", f"{len(own)} attention modules in it", "use another architecture"
            )
        found.append(own[0])
    return found


def sites(model: PreTrainedModel, site: Site) -> list[Module]:
    """Give the L modules whose outputs are perturbed."""
    return attentions(model) if site == "attention" else list(blocks(model))


def worst_case(gradients: Shifts, rho: float) -> dict[int, Tensor]:
    """Give eps_l = rho g_l / (|(g_1, ..., g_L)|_2 + 1e-7); the norm is over everything at once.

    Shapes are kept. The norm is taken in fp32; the gradients' memory becomes the perturbations'.
    """
    size = total_norm(gradients.values())
    scale = rho / (size + TINY)  # Eq. of the inner maximum, first order (Huang et al. 2024)
    return {number: g.mul_(scale) for number, g in gradients.items()}


def total_norm(parts: Iterable[Tensor]) -> Tensor:
    """Give the L2 norm over all entries of all tensors, [] in fp32 (fp64 of fp64)."""
    each = [
        torch.linalg.vector_norm(part, dtype=torch.promote_types(part.dtype, torch.float32))
        for part in parts
    ]
    return torch.linalg.vector_norm(torch.stack(each))


def output_gradients(
    model: PreTrainedModel,
    tokens: Tokens,
    layers: Sequence[int] | None = None,
    site: Site = "attention",
) -> tuple[dict[int, Tensor], Tensor, int]:
    """Give d CE / d e_l at the chosen layers' outputs, and the summed CE and its token count.

    CE is the mean over the batch's response tokens. No weight's gradient is formed: the pass goes
    back only as far as the first chosen layer, through inputs alone. Prompt positions are in it;
    at padding and behind the last token that emits a label the gradient is 0 of itself, and no row
    reaches another.

    Args:
        layers: numbers of the layers, from 0; None takes all.
    """
    modules = sites(model, site)
    chosen = range(len(modules)) if layers is None else sorted(layers)
    caught: dict[int, Tensor] = {}

    def catch(number: int, output: Tensor) -> None:
        # The first chosen output is where the graph begins. A block run again in the backward pass
        # must build the same graph, but it is the first pass's output that is asked about.
        if not output.requires_grad:
            output.requires_grad_(True)
        caught.setdefault(number, output)

    hooked = {number: modules[number] for number in chosen}
    with torch.enable_grad(), constant_weights(model), _hooked(hooked, catch):
        value, count = nll(model, tokens)
        asked = [caught[number] for number in chosen]
        found = torch.autograd.grad(
            value / max(count, 1), asked, allow_unused=True, materialize_grads=True
        )
    _count_inputs_only(model, tokens, chosen[0], modules[chosen[0]])
    return dict(zip(chosen, _apart(found), strict=True)), value.detach(), count


def _apart(found: Sequence[Tensor]) -> list[Tensor]:
    """Give tensors that share no memory, so that each may be changed in place."""
    seen: set[int] = set()
    own = []
    for g in found:
        own.append(g.clone() if g.data_ptr() in seen or not g.is_contiguous() else g)
        seen.add(g.data_ptr())
    return own


def _count_inputs_only(model: PreTrainedModel, tokens: Tokens, first: int, module: Module) -> None:
    """Count the backward pass through inputs from the head's side to a layer's output."""
    behind = sum(p.numel() for block in list(blocks(model))[first:] for p in block.parameters())
    passed = behind - sum(p.numel() for p in module.parameters())
    add_flops(2.0 * passed * sum(len(row.ids) for row in tokens.rows))


@contextmanager
def _hooked(
    modules: Mapping[int, Module], act: Callable[[int, Tensor], Tensor | None]
) -> Generator[None]:
    """Call `act` with each module's number and output; what it gives replaces the output."""

    def hook(number: int) -> Callable[..., Output | None]:
        def run(_module: Module, _inputs: object, output: Output) -> Output | None:
            many = isinstance(output, tuple)
            new = act(number, output[0] if many else output)
            return (new, *output[1:]) if many and new is not None else new

        return run

    handles = [m.register_forward_hook(hook(number)) for number, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Shifting:
    """What is added now, `by` layer, and how much of it survives the addition's rounding."""

    by: Shifts = field(default_factory=dict)
    sums: Tensor | None = None

    def add(self, output: Tensor, eps: Tensor, kind: torch.dtype) -> Tensor:
        """Give output + eps in `kind`, a constant for the gradient, and note what became of it."""
        before = output.to(torch.promote_types(output.dtype, kind))
        after = before + eps.to(before.dtype)
        with torch.no_grad():
            wide = torch.promote_types(before.dtype, torch.float32)
            real = (after.to(wide) - before.to(wide)).flatten()
            meant = eps.to(wide).flatten()
            seen = torch.stack([real @ meant, meant @ meant, real @ real]).double()
            self.sums = seen if self.sums is None else self.sums + seen
        return after

    def realised(self, where: str) -> dict[str, float]:
        """Give the cosine and norm ratio of what was added against what was meant.

        Empty where nothing was to be added.

        Raises:
            TrainingError: either is below 0.9: rounding has eaten the perturbation.
        """
        if self.sums is None:
            return {}
        dot, want, got = self.sums.tolist()
        if want == 0.0:
            return {}
        cosine = dot / (want * got) ** 0.5 if got > 0 else 0.0
        ratio = (got / want) ** 0.5
        if cosine < SURVIVES or ratio < SURVIVES:
            raise TrainingError(
                where,
                f"lost to rounding (cosine {cosine:.2f}, norm ratio {ratio:.2f})",
                "use precision: fp32 or a larger rho",
            )
        return {"cosine": cosine, "norm_ratio": ratio}


@contextmanager
def shifting(model: PreTrainedModel, site: Site = "attention") -> Generator[Shifting]:
    """Add what the yielded object's `by` holds to the layers' outputs, as long as this is open.

    The sum is formed in the weights' dtype where that is finer than the output's (under autocast
    the residual stream is). Stay inside for the backward pass: a block that runs again there must
    see the same perturbation.
    """
    now = Shifting()
    modules = sites(model, site)
    kinds = [next(module.parameters()).dtype for module in modules]

    def act(number: int, output: Tensor) -> Tensor | None:
        eps = now.by.get(number)
        return None if eps is None else now.add(output, eps, kinds[number])

    with _hooked(dict(enumerate(modules)), act):
        yield now


def gaussian(model: PreTrainedModel, tokens: Tokens, seed: int, step: int) -> dict[int, Tensor]:
    """Give standard normal noise for every layer's output, 0 at padding.

    A row's noise hangs on (seed, step, the row's ids) alone, so no split or order changes it.
    """
    depth = len(blocks(model))
    width = model.config.get_text_config().hidden_size
    like = next(blocks(model).parameters())
    drawn = []
    for row in tokens.rows:
        draw = torch.Generator(like.device).manual_seed(seed_of(seed, "noise", step, *row.ids))
        shape = (depth, len(row.ids), width)
        drawn.append(torch.randn(shape, generator=draw, device=like.device, dtype=like.dtype))
    if pack_for(model):
        return dict(enumerate(torch.cat(drawn, dim=1)[:, None]))
    noise = like.new_zeros(depth, len(drawn), tokens.ids.shape[1], width, requires_grad=False)
    for number, (own, offset) in enumerate(zip(drawn, tokens.offsets, strict=True)):
        noise[:, number, offset : offset + own.shape[1]] = own
    return dict(enumerate(noise))


Perturb = Callable[[Tokens], tuple[Shifts, Loss]]
"""A micro-batch -> what to add to its layers, and terms worth logging."""


def perturbed_grad(
    model: PreTrainedModel,
    params: Mapping[str, Tensor],
    parts: Sequence[Tokens],
    perturb: Perturb,
    *,
    where: str,
    site: Site = "attention",
) -> tuple[ParamVector, Loss]:
    """Give the gradient of a step's CE with each micro-batch's perturbation held constant.

    CE is the mean over the response tokens of the whole step. Terms: `refusal`, the perturbed CE;
    what `perturb` tells, with weight 0; `cosine` and `norm_ratio` of the realised perturbation.

    Raises:
        TrainingError: the perturbation is lost to rounding.
    """
    told: Loss = {}
    with shifting(model, site) as now:

        def loss(part: Tokens) -> Loss:
            now.by = {}  # the last micro-batch's are not for this one's first pass
            now.by, terms = perturb(part)
            for name, term in terms.items():
                seen = told.get(name)
                told[name] = Term(
                    term.sum + (seen.sum if seen else 0.0),
                    term.count + (seen.count if seen else 0.0),
                    0.0,
                    term.unit,
                )
            value, count = nll(model, part)
            return {"refusal": Term(value, count, 1.0, "tokens")}

        def counts(part: Tokens) -> dict[str, float]:
            return {"refusal": float((part.labels != IGNORE).sum())}

        found, terms = grad(params, loss, parts, counts)
    for name, value in now.realised(where).items():
        told[name] = Term(torch.tensor(value), 1.0, 0.0)
    return found, terms | told


def perturbed_loss(
    model: PreTrainedModel,
    parts: Sequence[Tokens],
    perturb: Perturb,
    *,
    site: Site = "attention",
) -> tuple[float, float]:
    """Give the mean CE of response tokens as it is and under each batch's own perturbation."""
    plain = shifted = tokens = 0.0
    with torch.no_grad(), shifting(model, site) as now:
        for part in parts:
            value, count = nll(model, part)
            plain += float(value)
            now.by, _ = perturb(part)
            value, _ = nll(model, part)
            shifted += float(value)
            tokens += count
            now.by = {}
    return plain / max(tokens, 1), shifted / max(tokens, 1)


def equal_batches(encoder: Encoder, rows: Sequence[Example], size: int) -> list[Tokens]:
    """Give rows as batches of `size`, the rest left out; all of them as one where they are fewer.

    A perturbation's length is a whole batch's, so a smaller one would be hit harder.
    """
    last = max(1, len(rows) // size) * size
    return [encoder.batch(rows[i : i + size]) for i in range(0, min(last, len(rows)), size)]
