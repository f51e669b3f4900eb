"""The one door through which method files reach torch: importing it is put off to first use.

`lazy_loader.load("torch")` would put a placeholder into `sys.modules["torch"]`, where scipy's
array helpers find it and wake it (docs/adr/0001); this proxy stays out of `sys.modules`. Type
checkers and editors see torch itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class LazyModule:
    """Stand for a module and import it when an attribute is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401  (a module holds anything)
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")
