"""Attacks finished models of a study again and watches what moves, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.api import Chain, TrainedAttack, set_threads
from holdfast.data.example import Role, Side
from holdfast.engine.session import folder_of
from holdfast.engine.store import Store
from holdfast.errors import ConfigError, DataError, StoreError, did_you_mean
from holdfast.study.nodes import Track
from holdfast.study.plan import Plan

if TYPE_CHECKING:
    from holdfast.evaluate import Moved


def watched(
    plan: Plan, lineups: Sequence[str], attacker: str, variant: str | None, seeds: int | None
) -> list[Track]:
    """Give the trajectories to watch: one attacker's choice on some line-ups, at the first seeds.

    Raises:
        ConfigError: no such line-up, attacker or choice, or one that leaves no trained weights.
    """
    for name in lineups:
        if name not in plan.lineups:
            raise ConfigError("moves", f"no line-up '{name}'", did_you_mean(name, plan.lineups))
    if attacker not in plan.attacks:
        raise ConfigError(
            "--attacker", f"no attacker '{attacker}'", did_you_mean(attacker, plan.attacks)
        )
    known = plan.variants[attacker]
    chosen = known[0] if variant is None else variant
    if chosen not in known:
        raise ConfigError("--variant", f"no choice '{chosen}'", did_you_mean(chosen, known))
    method = plan.attacks[attacker][known.index(chosen)]
    if not isinstance(method, TrainedAttack | Chain) or not method.weights_alone:
        raise ConfigError(
            "--attacker", f"'{attacker}' does not train the model's own weights",
            "name one that does",
        )  # fmt: skip
    wanted = plan.study.seeds[:seeds]
    found = {
        (track.lineup, track.seed): track
        for track in plan.tracks
        if (track.attacker, track.variant) == (attacker, chosen) and track.seed in wanted
    }
    return [found[name, seed] for name in lineups for seed in wanted]


def watch(
    plan: Plan,
    store: Store,
    track: Track,
    *,
    threads: int = 1,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[float, Moved]:
    """Attack a released model as the study did; give what has moved at 0 and at every budget.

    The prompts are the defender's own selection prompts that have an answer.

    Raises:
        StoreError: the hardened model is not in the store. DataError: there are no such prompts.
    """
    from holdfast import evaluate, nn, train

    last = track.released.last
    if last is not None and not store.has("defend", last.key):
        raise StoreError(
            str(store.folder), f"holds no model of '{track.lineup}' at seed {track.seed}",
            "run the study first, or name its --store",
        )  # fmt: skip
    set_threads(threads)
    side, start = Side.DEFENDER_SELECTION, track.released.start
    name = plan.headline.set.name
    asked = [row for row in plan.pool.evaluation(name, side, None, 0) if row.response]
    if not asked:
        raise DataError(
            f"evaluation set '{name}', side {side.value}", "no prompt has an answer",
            "add a source that brings some",
        )  # fmt: skip
    refusal = plan.pool.draw(Role.REFUSAL, side, 1, 0)[0].response or ""
    model, tokenizer = nn.load(folder_of(track.released, store), device=device)
    encoder = nn.encoder(model, tokenizer, start.attack_format, where="moves")
    asking = nn.encoder(model, tokenizer, start.evaluation_format, where="evaluation")
    seen = evaluate.Watch(model, asking, asked, refusal)
    found = {0.0: seen.look()}
    sources = (
        {"original": nn.tensors(plan.original.files.folder)}
        if plan.original is not None and "original" in track.method.needs
        else {}
    )
    train.attack(
        track.method,
        model,
        encoder,
        plan.attack_pool,
        seed=track.seed,
        points=list(track.method.points()),
        on_point=lambda budget, _: found.update({budget: seen.look()}),
        sources=sources,
        progress=progress,
    )
    return found
