"""Let a library have its way with this process, and put everything back when it is done.

lm-eval seeds every source of random numbers, and what it loads sets environment variables, log
levels, filters of warnings and progress bars. None of that may be seen outside.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

LOGGERS = ("lm_eval", "datasets")
"""Loggers that are silent meanwhile: their lines quote documents."""

PYTHON_SEED, OTHER_SEED = 0, 1234
"""What random numbers begin with inside; source: lm-eval's own (`lm_eval.defaults`)."""


@contextlib.contextmanager
def undisturbed(folder: Path | None = None, cache: Path | None = None) -> Iterator[None]:
    """Run what is inside with lm-eval's seeds and in silence; nothing of it is left behind.

    Random numbers (python, numpy, torch, every GPU), the environment, the working folder, filters
    of warnings, log levels, and the bars and the cache folder of `datasets` are put back.

    Args:
        folder: the working folder inside: what relative paths of a task mean.
        cache: where `datasets` keeps what it reads inside; None leaves its own.
    """
    import datasets
    import numpy as np
    import torch
    from datasets import config

    python, numbers, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    variables = dict(os.environ)
    loggers = [logging.getLogger(), *map(logging.getLogger, LOGGERS)]
    levels = [(one, one.level, list(one.handlers)) for one in loggers]
    bars, kept = datasets.are_progress_bars_disabled(), config.HF_DATASETS_CACHE
    with contextlib.ExitStack() as left:
        left.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if folder is not None:
            left.enter_context(contextlib.chdir(folder))
        try:
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            datasets.disable_progress_bars()
            if cache is not None:
                config.HF_DATASETS_CACHE = cache
            random.seed(PYTHON_SEED)
            np.random.seed(OTHER_SEED)
            torch.manual_seed(OTHER_SEED)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
            torch.set_rng_state(tensors)
            if gpus is not None:
                torch.cuda.set_rng_state_all(gpus)
            os.environ.clear()
            os.environ.update(variables)
            for one, level, handlers in levels:
                one.setLevel(level)
                one.handlers[:] = handlers
            if not bars:
                datasets.enable_progress_bars()
            config.HF_DATASETS_CACHE = kept
