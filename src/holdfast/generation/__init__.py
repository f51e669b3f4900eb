"""Batched generation: left-padded, cut by token index, greedy or sampled."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"engine": ["Completion", "generate"], "sampler": ["Sampler"]},
)
