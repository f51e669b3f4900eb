"""What every test stands on: no network, one thread, the same random numbers each time."""

from __future__ import annotations

import os
import signal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports numpy, torch or transformers: they read these once.
os.environ.update(
    HF_DATASETS_OFFLINE="1",
    HF_HUB_OFFLINE="1",
    MKL_NUM_THREADS="1",
    OMP_NUM_THREADS="1",
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT / "src"), os.getenv("PYTHONPATH")])),
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_OFFLINE="1",
)
os.environ.pop("HF_TOKEN", None)

# A shell's background job has Ctrl-C ignored, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

import ipaddress
import random
import socket
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.planted"]

settings.register_profile(
    "holdfast",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("holdfast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first: at the end, one process would wait for the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Skip a test in which torch's bf16 attention fails: where it may use plain kernels alone.

    On a processor with AMX it calls a vector kernel all the same, which then refuses.
    """
    try:
        return (yield)
    except RuntimeError as error:
        plain = os.environ.get("ATEN_CPU_CAPABILITY") == "default"
        if not plain or "pack_vnni2" not in str(error):
            raise
        pytest.skip("on a processor with AMX torch's bf16 attention fails with plain kernels")


@pytest.fixture(scope="session")
def root() -> Path:
    """Give the checkout's folder."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests make for later use out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def same_numbers() -> Iterator[None]:
    """Seed every generator that is loaded, and put back what a test set in torch."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):
            host = str(address[0])
            try:
                near = ipaddress.ip_address(host).is_loopback
            except ValueError:
                near = host == "localhost"
            if not near:
                raise OSError(f"a test tried to reach {host}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(params=[False, True], ids=["padded", "packed"])
def passes(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Run the test's passes padded and packed."""
    from holdfast import nn

    with nn.packed_passes(request.param):
        yield request.param
