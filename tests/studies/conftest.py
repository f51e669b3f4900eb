"""A toy plugin, model and study for every test of studies."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _toy() -> ModuleType:
    path = Path(__file__).with_name("toy.py")
    spec = importlib.util.spec_from_file_location("holdfast_test_toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """Give the module that makes the toy world."""
    return _toy()


@pytest.fixture(scope="session")
def toy_model(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a model of random weights."""
    return toy.model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def toy_plugin(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder the toy distribution is installed in."""
    folder = tmp_path_factory.mktemp("site")
    toy.install(folder)
    return folder


@pytest.fixture
def installed(toy_plugin: Path) -> Iterator[Path]:
    """Have this process find the toy plugin, and forget it afterwards."""
    sys.path.insert(0, str(toy_plugin))
    yield toy_plugin
    sys.path.remove(str(toy_plugin))
    for name in ("toy_rows", "toy_judge", "toy_nudge", "toy_tune"):
        sys.modules.pop(name, None)
