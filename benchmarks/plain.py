"""The defences as one would first write them: padded, every logit, every state, every copy.

Each function gives a whole step's loss and gradients, as the published code computes them with its
mistakes mended. They take the same rows, noise and draws as ours, and stand still: what is
compared with them may change, they may not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cosine_similarity, cross_entropy, logsigmoid

from holdfast import nn
from holdfast.api import seed as seed_of
from holdfast.data.example import Role
from holdfast.data.tokens import IGNORE, Tokens, collate

Batch = Mapping[Role, Tokens]
Gradient = dict[str, Tensor]
Found = tuple[float, Gradient]


# ---- what all use


def run(model: Any, tokens: Tokens, states: bool = False) -> Any:
    """Run a padded batch whole, head included."""
    device = next(model.parameters()).device
    return model(
        tokens.ids.to(device),
        attention_mask=tokens.mask.to(device),
        output_hidden_states=states,
        use_cache=False,
    )


def mean_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the mean cross-entropy of the labelled tokens from all logits [B, T, V]."""
    wanted = labels[:, 1:].flatten().to(logits.device)
    return cross_entropy(logits[:, :-1].float().flatten(0, 1), wanted, ignore_index=IGNORE)


def answer_ce(model: Any, tokens: Tokens) -> Tensor:
    """Give a batch's mean cross-entropy."""
    return mean_ce(run(model, tokens).logits, tokens.labels)


def pulled(model: Any, loss: Tensor) -> Found:
    """Go back through everything; give the loss and the gradients, and clear them."""
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), found


def norm(gradient: Gradient) -> float:
    """Give the L2 norm over everything."""
    return float(torch.stack([g.double().norm() for g in gradient.values()]).norm())


@contextmanager
def moved(model: Any, direction: Mapping[str, Tensor], scale: float) -> Generator[None]:
    """Hold the weights at w + scale x direction and put a copy back."""
    params = dict(model.named_parameters())
    saved = {name: params[name].detach().clone() for name in direction}
    with torch.no_grad():
        for name, d in direction.items():
            params[name].add_(d, alpha=scale)
    yield
    with torch.no_grad():
        for name, old in saved.items():
            params[name].copy_(old)


@contextmanager
def hooked(
    modules: Mapping[int, Module], act: Callable[[int, Tensor], Tensor | None]
) -> Generator[None]:
    """Show each module's output, and put what comes back in its place."""

    def hook(number: int) -> Any:
        def call(_module: Module, _inputs: Any, output: Any) -> Any:
            many = isinstance(output, tuple)
            new = act(number, output[0] if many else output)
            return (new, *output[1:]) if many and new is not None else new

        return call

    handles = [m.register_forward_hook(hook(number)) for number, m in modules.items()]
    yield
    for handle in handles:
        handle.remove()


def answers(tokens: Tokens, device: Any) -> Tensor:
    """Give 1 where a response token stands, [B, T]."""
    return (tokens.labels != IGNORE).float().to(device)


# ---- the methods


def sdd(_method: Any, model: Any, batch: Batch, _state: Any) -> Found:
    """Fine-tune on irrelevant answers."""
    return pulled(model, answer_ce(model, batch[Role.REFUSAL]))


def attention(model: Any, numbers: Sequence[int]) -> dict[int, Module]:
    """Name the attention modules of some layers."""
    return {number: model.model.layers[number].self_attn for number in numbers}


def vaccine(method: Any, model: Any, batch: Batch, state: Any) -> Found:
    """Two whole passes; the first one's weight gradients are thrown away."""
    tokens = batch[Role.REFUSAL]
    every = range(len(model.model.layers))
    places = attention(model, getattr(state, "chosen", None) or every)
    caught: dict[int, Tensor] = {}

    def catch(number: int, output: Tensor) -> None:
        output.retain_grad()
        caught[number] = output

    with hooked(places, catch):
        pulled(model, answer_ce(model, tokens))
    slopes = {number: output.grad for number, output in caught.items()}
    size = torch.stack([g.float().norm() for g in slopes.values()]).norm()
    eps = {number: method.rho * g / (size + 1e-7) for number, g in slopes.items()}
    with hooked(places, lambda number, output: output + eps[number]):
        return pulled(model, answer_ce(model, tokens))


def random_vaccine(method: Any, model: Any, batch: Batch, state: Any) -> Found:
    """Make one whole pass with noise of the same draws as ours."""
    tokens = batch[Role.REFUSAL]
    noise = nn.gaussian(model, tokens, state.seed, state.step)
    size = torch.stack([z.float().norm() for z in noise.values()]).norm()
    eps = {number: method.rho * z / size for number, z in noise.items()}
    with hooked(attention(model, range(len(eps))), lambda number, output: output + eps[number]):
        return pulled(model, answer_ce(model, tokens))


def expanded_distance(x: Tensor, z: Tensor) -> Tensor:
    """Give MMD^2 of two sets of rows, [R, D] each, over all pairs' differences [2R, 2R, D]."""
    both = torch.cat([x, z])
    apart = (both[:, None] - both[None]).square().sum(-1)
    count = len(both)
    width = apart.detach().sum() / (count * count - count) / 4
    kernel = sum(torch.exp(-apart / (width * 2**i)) for i in range(5))
    cut = len(x)
    return kernel[:cut, :cut].mean() + kernel[cut:, cut:].mean() - 2 * kernel[:cut, cut:].mean()


def rep_noise(method: Any, model: Any, batch: Batch, state: Any) -> Found:
    """All heads at all positions of a padded batch, distances expanded; refusals by themselves."""
    tokens = batch[Role.HARMFUL]
    device = next(model.parameters()).device
    caught: dict[int, Tensor] = {}
    mlps = {number: block.mlp for number, block in enumerate(model.model.layers)}
    with hooked(mlps, lambda number, output: caught.update({number: output})):
        out = run(model, tokens, states=True)
    rows, columns = (tokens.labels != IGNORE).nonzero(as_tuple=True)
    slots = columns - torch.tensor([row.start for row in tokens.rows])[rows]
    rows, columns, slots = rows.to(device), columns.to(device), slots.to(device)
    width = int(slots.max()) + 1
    words = [i for row in tokens.rows for i in row.ids]
    draws = torch.Generator(device).manual_seed(seed_of(state.seed, "noise", state.step, *words))
    distances = []
    for a in caught.values():
        z = torch.randn(len(rows), a.shape[-1], generator=draws, device=device)
        x_rows, z_rows = (torch.zeros(len(tokens), width, a.shape[-1], device=device) for _ in "xz")
        x_rows[rows, slots] = a[rows, columns].float()
        z_rows[rows, slots] = z
        distances.append(expanded_distance(x_rows.flatten(1), z_rows.flatten(1)))
    losses = [
        mean_ce(model.lm_head(model.model.norm(h)), tokens.labels) for h in out.hidden_states[1:-1]
    ]
    losses.append(mean_ce(out.logits, tokens.labels))
    loss = answer_ce(model, batch[Role.REFUSAL])
    loss = loss + method.noise_weight * torch.stack(distances).mean()
    loss = loss - method.ascent_weight * torch.log1p(torch.stack(losses).mean())
    return pulled(model, loss)


def booster(method: Any, model: Any, batch: Batch, _state: Any) -> Found:
    """Three whole passes, two gradients stored beside the one being made."""
    harm, stored = pulled(model, answer_ce(model, batch[Role.HARMFUL]))
    with moved(model, stored, -method.alpha / norm(stored)):
        after, perturbed = pulled(model, answer_ce(model, batch[Role.HARMFUL]))
    align, found = pulled(model, answer_ce(model, batch[Role.REFUSAL]))
    for name, g in found.items():
        g += method.lam * (stored[name] - perturbed[name])
    return align + method.lam * (harm - after), found


def ctrap(method: Any, model: Any, batch: Batch, state: int) -> Found:
    """Make three whole passes, the first two gradients stored."""
    _, stored = pulled(model, answer_ce(model, batch[Role.HARMFUL]))
    length = method.alpha / norm(stored) if method.normalise else method.alpha
    benign = batch[Role.BENIGN]
    asked = torch.where(benign.labels == IGNORE, IGNORE, state)
    with moved(model, stored, -length):
        collapse, perturbed = pulled(model, mean_ce(run(model, benign).logits, asked))
    align, found = pulled(model, answer_ce(model, batch[Role.REFUSAL]))
    for name, g in found.items():
        g += method.lam * perturbed[name]
    return align + method.lam * collapse, found


def seam(method: Any, model: Any, batch: Batch, _state: Any) -> Found:
    """Six whole passes, every gradient and direction stored; the head at all positions of all."""
    harmful, benign = batch[Role.HARMFUL], batch[Role.BENIGN]
    _, a = pulled(model, answer_ce(model, harmful))
    _, b = pulled(model, answer_ce(model, benign))
    size_a, size_b = norm(a), norm(b)
    u_a, u_b = ({k: g / size for k, g in v.items()} for v, size in ((a, size_a), (b, size_b)))
    cosine = float(torch.stack([(u_a[k].double() * u_b[k].double()).sum() for k in a]).sum())
    along_a = {k: u_b[k] - cosine * u_a[k] for k in a}
    along_b = {k: u_a[k] - cosine * u_b[k] for k in a}
    with moved(model, along_a, method.eps):
        _, moved_a = pulled(model, answer_ce(model, harmful))
    with moved(model, along_b, method.eps):
        _, moved_b = pulled(model, answer_ce(model, benign))
    out = run(model, harmful, states=True)
    losses = [
        mean_ce(model.lm_head(model.model.norm(h)), harmful.labels) for h in out.hidden_states[1:-1]
    ]
    losses.append(mean_ce(out.logits, harmful.labels))
    up, found = pulled(model, -torch.log1p(torch.stack(losses).mean()) * method.ascent_weight)
    align, retained = pulled(model, method.retain_weight * answer_ce(model, batch[Role.REFUSAL]))
    for k, g in found.items():
        curve_a = (moved_a[k] - a[k]) / method.eps
        curve_b = (moved_b[k] - b[k]) / method.eps
        g += retained[k] + method.couple_weight * (curve_a / size_a + curve_b / size_b)
    return up + align + method.couple_weight * cosine, found


def circuit_breakers(method: Any, model: Any, batch: Batch, state: Any) -> Found:
    """All states of both models, head included, one padded batch a role."""
    reroute = retain = places = 0.0
    for role, tokens in ((r, batch[r]) for r in (Role.HARMFUL, Role.BENIGN, Role.REFUSAL)):
        with torch.no_grad():
            old = run(state.teacher, tokens, states=True).hidden_states
        new = run(model, tokens, states=True).hidden_states
        if role is Role.HARMFUL:
            mask, turned = answers(tokens, new[0].device), []
            for k in state.layers:
                h_0 = old[k].float()
                away = state.directions[k].to(h_0.device)
                h_0 = h_0 + method.turn * h_0.norm(dim=-1, keepdim=True) * away
                turned.append(torch.relu(cosine_similarity(new[k].float(), h_0, dim=-1)) * mask)
            reroute = torch.stack(turned).sum() / mask.sum() / len(state.layers)
        else:
            mask = tokens.mask.to(new[0].device)
            apart = [(new[k].float() - old[k].float()).norm(dim=-1) for k in state.retained]
            retain = retain + (torch.stack(apart) * mask).sum()
            places += float(mask.sum()) * len(state.retained)
    return pulled(model, state.c_s * reroute + state.c_r * retain / places)


def triplet(method: Any, model: Any, batch: Batch, state: Any) -> Found:
    """All states and logits of both models, one padded batch a role."""
    depth, bad = len(model.model.layers), Role.HARMFUL
    seen = {}
    safe = (Role.BENIGN, Role.REFUSAL)
    for role in (bad, *safe):
        for name, some in (("old", state.teacher), ("new", model)):
            raw: list[Tensor] = []
            end = {depth: some.model.layers[-1]}
            catch = hooked(end, lambda _n, output, raw=raw: raw.append(output))
            with catch, torch.set_grad_enabled(name == "new"):
                out = run(some, batch[role], states=True)
            layers = (*out.hidden_states[:-1], raw[0])
            seen[role, name] = (layers, out.logits)

    def apart(x: Tensor, y: Tensor) -> Tensor:
        return 1 - cosine_similarity(x.float(), y.float(), dim=-1)

    masks = {role: answers(batch[role], model.device) for role in (bad, *safe)}
    harmful, held = 0.0, 0.0
    for k in state.layers:
        old = {role: seen[role, "old"][0][k] for role in masks}
        new = {role: seen[role, "new"][0][k] for role in masks}
        mask = masks[bad]
        centre = (new[bad].float() * mask[..., None]).sum((0, 1)) / mask.sum()
        near = apart(new[bad], centre.expand_as(new[bad])) - apart(new[bad], old[bad])
        harmful = harmful + (torch.relu(near + method.harmful_margin) * mask).sum()
        for b in safe:
            far = apart(old[b], new[b]) - apart(new[b], centre.expand_as(new[b]))
            held = held + (torch.relu(far + method.benign_margin) * masks[b]).sum()
    p, q = (seen[Role.BENIGN, name][1][:, :-1].float().log_softmax(-1) for name in ("old", "new"))
    mask = masks[Role.BENIGN]
    kl = ((p.exp() * (p - q)).sum(-1) * mask[:, 1:]).sum() / mask.sum()
    harmful = harmful / masks[bad].sum() / len(state.harmful)
    held = held / sum(masks[b].sum() for b in safe) / len(state.benign)
    return pulled(
        model,
        method.harmful_weight * harmful + method.benign_weight * held + method.kl_weight * kl,
    )


def row_chances(model: Any, tokens: Tokens) -> Tensor:
    """Give each row's log p(response | prompt), [B], from all logits."""
    said = run(model, tokens).logits[:, :-1].float().log_softmax(-1)
    labels = tokens.labels[:, 1:].to(said.device)
    each = said.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (each * (labels != IGNORE)).sum(-1)


def tar(method: Any, model: Any, batch: Batch, state: Any) -> Found:
    """Weights copied out and back, torch's AdamW, the reference asked anew at each judgement."""
    how = method.attack
    draws = random.Random(seed_of(state.seed, "sampling", "attack", state.step, 0))
    rate = draws.choice(how.rates)
    params = nn.trainable(model)
    saved = {name: p.detach().clone() for name, p in params.items()}
    harmful = batch[Role.HARMFUL]
    refusal = collate([state.refusal[row.ids] for row in harmful.rows], 0)
    whole, stored = 0.0, {name: torch.zeros_like(p) for name, p in params.items()}
    adam = torch.optim.AdamW(params.values(), lr=rate, weight_decay=how.weight_decay)
    for k, rows in enumerate(method.batches(state.harmful, state.benign, draws)):
        answer_ce(model, rows).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        if (how.steps - 1 - k) % how.every:
            continue
        with torch.no_grad():
            margin = row_chances(state.reference, refusal) - row_chances(state.reference, harmful)
        gap = row_chances(model, refusal) - row_chances(model, harmful) - margin
        weight = method.tamper_weight * 2.718281828459045 ** (how.decay * (k - how.steps + 1))
        value, found = pulled(model, -weight * logsigmoid(method.beta * gap).mean())
        whole += value
        for name, g in found.items():
            stored[name] += g
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(saved[name])
    benign = batch[Role.BENIGN]
    out = run(model, benign, states=True)
    with torch.no_grad():
        goal = run(state.reference, benign, states=True).hidden_states
    mask = benign.mask.to(out.logits.device)
    apart = [
        ((h.float() - h_0.float()).norm(dim=-1) * mask).sum() / mask.sum()
        for h, h_0 in zip(out.hidden_states[1:], goal[1:], strict=True)
    ]
    loss = mean_ce(out.logits, benign.labels) + method.hidden_weight * torch.stack(apart).mean()
    value, found = pulled(model, method.retain_weight * loss)
    for name, g in found.items():
        g += stored[name]
    return whole + value, found


FORMS: dict[str, Callable[[Any, Any, Batch, Any], Found]] = {
    "sdd": sdd,
    "vaccine": vaccine,
    "t_vaccine": vaccine,
    "random_vaccine": random_vaccine,
    "rep_noise": rep_noise,
    "booster": booster,
    "ctrap": ctrap,
    "seam": seam,
    "circuit_breakers": circuit_breakers,
    "triplet": triplet,
    "tar": tar,
}
"""T-Vaccine's is Vaccine's over the layers drawn, with the others asking for no gradient."""
