"""What an analysis says of states that are kept: how far they moved, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from holdfast.engine.store import REMEDY, Store
from holdfast.errors import StoreError
from holdfast.study.looking import Looked, Looking
from holdfast.study.nodes import Look
from holdfast.study.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATES = "states.safetensors"
Row = dict[str, Any]


def table(plan: Plan, store: Store) -> list[Row]:
    """Give the analysis table: a row per line-up, seed, budget and layer, against the release.

    A line-up and seed whose states could not all be taken is left out. `cka` and `knn` are 1
    and `drift` 0 where nothing has moved; `knn_chance` is what strangers would keep.
    """
    from torch import from_numpy

    from holdfast import evaluate

    looking = plan.looking
    if looking is None:
        return []
    k, n = looking.said.k, looking.said.n
    rows = []
    for looked in _whole(looking, store):
        before = _states(store, looked.released)
        for budget, look in looked.points:
            after = _states(store, look)
            for i, layer in enumerate(looked.layers):
                x, y = before[i], after[i]
                rows.append(
                    {
                        **_where(looked, budget),
                        "layer": layer,
                        "depth": looked.depth,
                        "prompts": n,
                        "k": k,
                        "cka": evaluate.linear_cka(from_numpy(x), from_numpy(y)),
                        "knn": evaluate.knn_overlap(x, y, k),
                        "knn_chance": k / (n - 1),
                        "drift": evaluate.drift(x, y),
                    }
                )
    return rows


def scatter(plan: Plan, store: Store) -> list[Row]:
    """Give the points of the PCA figure: the deepest layer, undefended, released and attacked.

    The plane is that of all a line-up's states at a seed; attacked means the largest budget.
    """
    from holdfast import evaluate

    looking = plan.looking
    if looking is None:
        return []
    rows = []
    for looked in _whole(looking, store):
        budget, last = looked.points[-1]
        sets = {
            "undefended": looked.start, "goal": looked.goal, "released": looked.released,
            "attacked": last,
        }  # fmt: skip
        kept = {name: _states(store, look)[-1] for name, look in sets.items() if look is not None}
        found = evaluate.plane(kept)
        for state, at in found.at.items():
            for example, (x, y) in zip(looking.rows, at.tolist(), strict=True):
                rows.append(
                    {
                        **_where(looked, budget if state == "attacked" else 0.0),
                        "layer": looked.layers[-1],
                        "depth": looked.depth,
                        "state": state,
                        "uid": example.uid,
                        "x": x,
                        "y": y,
                        "share_x": found.shares[0],
                        "share_y": found.shares[1],
                    }
                )
    return rows


def _whole(looking: Looking, store: Store) -> Iterator[Looked]:
    """Give the line-ups and seeds all of whose states are there."""
    have = store.keys("analyse")
    for looked in looking.looked:
        looks = [looked.released, *(look for _, look in looked.points)]
        looks += [one for one in (looked.start, looked.goal) if one is not None]
        if all(look.key in have for look in looks):
            yield looked


def _where(looked: Looked, budget: float) -> Row:
    track = looked.track
    return {
        "lineup": track.lineup,
        "attack": track.attacker,
        "variant": track.variant,
        "seed": track.seed,
        "budget": budget,
        "unit": track.method.unit,
    }


def _states(store: Store, look: Look) -> NDArray[Any]:
    """Read kept states, [layers, N, H]."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = store.checked("analyse", look.key) / STATES
    try:
        return load_file(path)["states"]
    except (OSError, KeyError, SafetensorError) as error:
        raise StoreError(str(path), f"cannot be read ({type(error).__name__})", REMEDY) from None
