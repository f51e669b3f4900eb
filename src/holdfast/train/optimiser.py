"""AdamW under every precision policy, with all its state open to a checkpoint.

bf16 keeps 8 significant bits: a weight of 0.02 lies 1.2e-4 from its neighbours, so a plain step
of 1e-5 is rounded away for 84 % of N(0, 0.02) weights (docs/fidelity/sgt.md, Precision). The two
policies here keep such steps in two bytes a weight: by remembering what was lost, or by chance.
torch's AdamW, which takes all other steps, has no option for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from holdfast.api import Loop
from holdfast.api import seed as seed_of
from holdfast.nn.adam import moments

_STATES = {"first": "exp_avg", "second": "exp_avg_sq", "lost": "lost"}
"""A checkpoint's words for the state's tensors; `lost` is only kept by `bf16_kahan`."""


class Optimiser:
    """AdamW over named tensors.

    `fp32`, `fp32_master` and `bf16_pure` are torch's own AdamW in the tensors' dtype. Under
    `bf16_kahan` and `bf16_stochastic` every bf16 tensor is stepped in fp32 and stored in bf16, its
    two moments rounded stochastically (to the nearest, a decay of 0.999 would never take hold);
    tensors of other dtypes (a trigger, an adapter) are stepped plainly in their own.

    Args:
        seed: study seed of the rounding; the draw for a tensor hangs on (seed, step, name) alone.
    """

    def __init__(self, params: Mapping[str, Tensor], loop: Loop, seed: int) -> None:
        self._params, self._loop, self._seed = params, loop, seed
        rounds = loop.precision in ("bf16_kahan", "bf16_stochastic")
        self._rounded = {
            name: p for name, p in params.items() if rounds and p.dtype == torch.bfloat16
        }
        plain = [p for name, p in params.items() if name not in self._rounded]
        self._plain: torch.optim.AdamW | None = None
        if plain:
            self._plain = torch.optim.AdamW(
                self._groups(plain),
                lr=loop.lr,
                betas=(loop.beta1, loop.beta2),
                eps=loop.eps,
                # On a GPU one kernel a tensor, without copies of all of them in between.
                fused=plain[0].device.type == "cuda",
                foreach=plain[0].device.type != "cuda",
            )
        self._steps = 0
        self._own = dict.fromkeys(params, 0)
        self._kept: dict[str, dict[str, Tensor]] = {}
        for name, p in self._rounded.items():
            words = ["first", "second", *(["lost"] if loop.precision == "bf16_kahan" else [])]
            self._kept[name] = {
                word: torch.zeros_like(p, memory_format=torch.preserve_format) for word in words
            }

    def _groups(self, plain: list[Tensor]) -> list[dict[str, Any]]:
        """Give the tensors by their decay."""
        by_decay: dict[float, list[Tensor]] = {}
        for p in plain:
            by_decay.setdefault(self._decay(p), []).append(p)
        return [{"params": some, "weight_decay": decay} for decay, some in by_decay.items()]

    def _decay(self, p: Tensor) -> float:
        whole = p.ndim > 1 or self._loop.decay_norms
        return self._loop.weight_decay if whole else 0.0

    def step(self, found: Mapping[str, Tensor], rate: float, step: int) -> None:
        """Change the tensors by step `step` (from 0) along gradient `found` at rate `rate`.

        A tensor that asks for no gradient now is left alone, moments and all: neither decay nor
        momentum moves what a method has frozen, and its own count of steps waits.
        """
        self._steps += 1
        moving = {name for name, p in self._params.items() if p.requires_grad}
        if self._plain is not None:
            for group in self._plain.param_groups:
                group["lr"] = rate
            for name, p in self._params.items():
                if name not in self._rounded and name in moving:
                    p.grad = found[name].to(p.dtype)
            self._plain.step()
            for p in self._params.values():
                p.grad = None
        with torch.no_grad():
            for name, p in self._rounded.items():
                if name not in moving:
                    continue
                self._step_rounded(name, p, found[name].float(), rate, step)
        for name in moving:
            self._own[name] += 1

    def _step_rounded(self, name: str, p: Tensor, g: Tensor, rate: float, step: int) -> None:
        loop, kept, own = self._loop, self._kept[name], self._own[name] + 1
        draw = torch.Generator(p.device).manual_seed(seed_of(self._seed, "rounding", step, name))
        first, second = kept["first"].float(), kept["second"].float()
        moments(first, second, g, loop.beta1, loop.beta2)
        size = first / (1 - loop.beta1**own)
        size.div_((second / (1 - loop.beta2**own)).sqrt_().add_(loop.eps))
        old = p.float()
        change = size.mul_(-rate).sub_(old, alpha=rate * self._decay(p))
        if "lost" in kept:  # Kahan 1965: what rounding took is given back with the next step
            change.add_(kept["lost"].float())
            p.copy_(old + change)
            kept["lost"].copy_(change.sub_(p.float()).add_(old))
        else:
            p.copy_(stochastic(old.add_(change), draw))
        kept["first"].copy_(stochastic(first, draw))
        kept["second"].copy_(stochastic(second, draw))

    def state(self) -> dict[str, Tensor]:
        """Give every tensor that the next step reads, by `<what>/<name>`."""
        found = {}
        for name, p in self._params.items():
            held: Mapping[str, Any] = self._kept.get(name) or self._moments(p)
            for word, own in _STATES.items():
                value = held.get(word if name in self._kept else own)
                if value is not None:
                    found[f"{word}/{name}"] = value
            if self._own[name] != self._steps:
                found[f"steps/{name}"] = torch.tensor(self._own[name])
        return found

    def _moments(self, p: Tensor) -> Mapping[str, Any]:
        return self._plain.state[p] if self._plain is not None else {}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        """Put back what `state` gave after `step` steps."""
        self._steps = step
        for name, p in self._params.items():
            self._own[name] = own = int(state.get(f"steps/{name}", step))
            if own == 0:  # it has never moved and has no moments yet
                continue
            if name in self._kept:
                for word, value in self._kept[name].items():
                    value.copy_(state[f"{word}/{name}"])
            elif self._plain is not None:
                self._plain.state[p] = {
                    "step": torch.tensor(float(own)),
                    "exp_avg": state[f"first/{name}"].to(p.device),
                    "exp_avg_sq": state[f"second/{name}"].to(p.device),
                }


def stochastic(value: Tensor, generator: torch.Generator) -> Tensor:
    """Round fp32 to bf16, up or down with the chance that makes the mean exact.

    Random bits are added to the 16 that bf16 drops, and these are then cut off: sign and size lie
    apart in a float, so this rounds sizes, and the carry into the exponent is right.
    """
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(
        0, 1 << 16, bits.shape, dtype=torch.int32, device=value.device, generator=generator
    )
    return noise.add_(bits).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)
