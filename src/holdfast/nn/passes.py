"""How forward passes are run here: packed, recomputed in the backward pass, compiled.

The training loop chooses by its fields; outside one, passes are plain and padded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.nn import Module
from torch.utils.checkpoint import checkpoint


@dataclass
class Passes:
    """The choices, and the compiled blocks, which live as long as this object.

    A block is compiled once, with the hooks it bears then: make a new object after adding an
    adapter.
    """

    packed: bool = False
    checkpointed: bool = False
    compiled: bool = False
    backend: str = "inductor"
    _made: dict[int, Callable[..., Any]] = field(default_factory=dict)

    @contextmanager
    def on(self) -> Generator[None]:
        """Run the passes inside this way."""
        token = _NOW.set(self)
        try:
            yield
        finally:
            _NOW.reset(token)

    def forward_of(self, block: Module) -> Callable[..., Any]:
        """Give a block's forward function, compiled for any length if that is asked for."""
        if not self.compiled:
            return block.forward
        if id(block) not in self._made:
            self._made[id(block)] = torch.compile(block.forward, dynamic=True, backend=self.backend)
        return self._made[id(block)]


_NOW: ContextVar[Passes] = ContextVar("passes", default=Passes())  # noqa: B039  (never changed)


def current() -> Passes:
    """Give the choices that hold here."""
    return _NOW.get()


def packed_passes(on: bool) -> AbstractContextManager[None]:
    """Have `nll`, `log_probs` and methods that ask `pack_for` pack their rows inside."""
    return Passes(packed=on).on()


@contextmanager
def through(
    decoder: Iterable[Module], again: Callable[[], AbstractContextManager[None]]
) -> Generator[None]:
    """Have the blocks run as chosen; hooks on a block stay outside and fire once.

    Args:
        again: what must hold when a block runs once more in the backward pass, where the pass
            itself is over.
    """
    now = current()
    recomputed = now.checkpointed and torch.is_grad_enabled()
    if not (recomputed or now.compiled):
        yield
        return
    before = [(block, block.__dict__.get("forward")) for block in decoder]
    try:
        for block, _ in before:
            inner = now.forward_of(block)
            block.forward = partial(_recomputed, inner, again) if recomputed else inner
        yield
    finally:
        for block, own in before:
            block.__dict__.pop("forward", None)
            if own is not None:
                block.forward = own


def _recomputed(
    inner: Callable[..., Any],
    again: Callable[[], AbstractContextManager[None]],
    *inputs: Any,
    **options: Any,
) -> Any:
    """Run a block and keep only its inputs for the backward pass."""

    def run(*inputs: Any, **options: Any) -> Any:
        with again():
            return inner(*inputs, **options)

    return checkpoint(run, *inputs, use_reentrant=False, **options)
