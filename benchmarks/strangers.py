"""Break inputs and stores on purpose, and count what is told badly.

    PYTHONPATH=src python -m benchmarks.strangers --inputs 5000 --corruptions 500

A mutated input must end in one line and a known exit code, with no traceback, no word of a
restricted prompt, nothing half-written and within `SLOW` processor-seconds. A corrupted artefact
must be told when it is used. Seeds are fixed: two runs of the same size try the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from holdfast.cli import run
from holdfast.engine.store import KINDS, MANIFEST, Store, write_lines
from holdfast.errors import StoreError

SLOW = 10.0
"""Processor-seconds beyond which a command that only refuses its input counts as hanging."""
SECRET = "placeholder zebra prompt"
"""Stands for a restricted prompt: no line may quote it."""
CODES = {0, 1, 2, 3, 4, 5}
HOSTILE = [
    "\x1b[31m", "\u202e", "\ud800", "\0", "=1+1", "9" * 5000, "[" * 3000, "{" * 3000, "-1", "nan",
    "1e999", "null", "~", "'", '"', "&a [*a]", "&a [1]\n- [*a, *a, *a]", "!!python/object:x {}",
    "\t", "\r\n", "a" * 300, "2" + "0" * 19, "2024-99-99", "? []", "%YAML 9.9", "", "\ufeff", "..",
]  # fmt: skip
"""Fragments that broke some program before."""

STUDY = {
    "name": "small",
    "title": SECRET,
    "seeds": [0],
    "models": {"base": {"path": "world:base", "format": "plain"}},
    "sources": ["guild"],
    "lineups": {"none": {"start": "base"}},
    "attacks": {"strip": ["strip"]},
    "original": "base",
    "evaluation": [{"set": "restricted", "n": 2}],
    "judges": ["world_guard"],
}
ROW = {"uid": "a", "prompt": SECRET, "response": SECRET, "system": None, "finish_reason": "eos"}


def mutated(text: str, draw: random.Random) -> bytes:
    """Give a text with one to three places changed, cut, doubled or broken."""
    data = text.encode("utf-8")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.randint(0, 12))
        new = draw.choice(HOSTILE).encode("utf-8", "surrogatepass")
        data = draw.choice(
            [
                data[:at] + new + data[to:],
                data[:at] + data[to:],
                data[:at] + data[at:to] * 2 + data[to:],
                data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :],
            ]
        )
    return data


def study(folder: Path, draw: random.Random) -> list[str]:
    """Give the words of a command on a mutated study file."""
    (folder / "in.yaml").write_bytes(mutated(json.dumps(STUDY, indent=1), draw))
    return ["plan", str(folder / "in.yaml"), "--store", str(folder / "runs")]


def rows(folder: Path, draw: random.Random) -> list[str]:
    """Give the words of a command on mutated answers."""
    text = "".join(json.dumps({**ROW, "uid": str(n)}) + "\n" for n in range(3))
    (folder / "in.jsonl").write_bytes(mutated(text, draw))
    return ["judge", "refusal_keywords", "--exchanges", str(folder / "in.jsonl"), "--out",
            str(folder / "out.jsonl")]  # fmt: skip


def judge(folder: Path, draw: random.Random) -> list[str]:
    """Give the words of a command on a study whose judge alone is mutated."""
    said = mutated('[world_guard: {threshold: 0.5, batch: 8}, "refusal_keywords"]', draw)
    rest = json.dumps({name: value for name, value in STUDY.items() if name != "judges"})
    (folder / "in.yaml").write_bytes(rest[:-1].encode() + b', "judges": ' + said + b"}")
    return ["plan", str(folder / "in.yaml"), "--store", str(folder / "runs")]


def sets(folder: Path, draw: random.Random) -> list[str]:
    """Give the words of a command with a mutated `--set`."""
    text = mutated(draw.choice(["loop.lr=0.001", "loop.steps=3", "loop={steps: 3}"]), draw)
    return ["defend", "refusal_sft", "--set", text.decode("utf-8", "replace").replace("\0", ""),
            "--model", str(folder), "--format", "plain", "--out", str(folder / "out")]  # fmt: skip


def model(folder: Path, draw: random.Random) -> list[str]:
    """Give the words of a command on a mutated model folder."""
    import holdfast

    source = Path(holdfast.__file__).parent / "testbeds/guild/weights/base"
    small = [path for path in source.iterdir() if path.suffix == ".json"]
    here = folder / "model"
    here.mkdir()
    for path in source.iterdir():
        shutil.copyfile(path, here / path.name)
    chosen = here / draw.choice(sorted(small)).name
    chosen.write_bytes(mutated((source / chosen.name).read_text(), draw))
    (folder / "p.jsonl").write_text(json.dumps({"prompt": "placeholder prompt 1"}) + "\n")
    return ["generate", "--model", str(here), "--format", "plain", "--prompts",
            str(folder / "p.jsonl"), "--set", "max_new_tokens=1", "--out",
            str(folder / "out.jsonl")]  # fmt: skip


def report(folder: Path, draw: random.Random) -> list[str]:
    """Give the words of a command on a mutated report folder."""
    here = folder / "report"
    here.mkdir()
    (here / "meta.json").write_bytes(mutated(json.dumps({"name": "x", "seeds": [0]}), draw))
    (here / "outcomes.parquet").write_bytes(mutated("PAR1 placeholder PAR1", draw))
    (here / "lineups.parquet").write_bytes(mutated("PAR1 placeholder PAR1", draw))
    return ["report", str(here), "--store", str(folder / "runs")]


KINDS_OF_INPUT: dict[str, Callable[[Path, random.Random], list[str]]] = {
    "study": study, "rows": rows, "judge": judge, "sets": sets, "model": model, "report": report,
}  # fmt: skip


def fault(words: list[str], folder: Path) -> str | None:
    """Run a command; give what is wrong with how it ends, or None."""
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(words)
        except BaseException as error:  # that one comes out at all is the fault
            return f"raised {type(error).__name__}"
    said = err.getvalue()
    lines = [line for line in said.splitlines() if line.startswith("holdfast: ")]
    if time.process_time() - began > SLOW:
        return "slow"
    if "Traceback" in said or "unforeseen: " in said:
        return next((line[:120] for line in lines if "unforeseen" in line), "traceback")
    if code not in CODES:
        return f"exit code {code}"
    if code in (1, 2) and not lines:
        return "no line"
    if SECRET in said + out.getvalue():
        return "quotes a prompt"
    if any(ord(one) < 32 and one not in "\n\t\r" for one in said) or "\u202e" in said:
        return "raw characters"
    if code in (1, 2) and any(folder.glob("out*")):
        return "half-written"
    return None


def try_inputs(count: int, seed: int = 0) -> Counter[str]:
    """Try so many mutated inputs of every kind in turn; give the faults, counted."""
    from holdfast import nn

    nn.load  # noqa: B018  (the libraries' own import is nobody's hang)
    found: Counter[str] = Counter()
    for number in range(count):
        kind = list(KINDS_OF_INPUT)[number % len(KINDS_OF_INPUT)]
        folder = Path(tempfile.mkdtemp(prefix="strangers-"))
        try:
            words = KINDS_OF_INPUT[kind](folder, random.Random(seed * 10**6 + number))
            if (wrong := fault(words, folder)) is not None:
                found[f"{kind}: {wrong}"] += 1
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def try_corruptions(count: int, seed: int = 0) -> Counter[str]:
    """Corrupt a file of an artefact so many times; give how often that went unseen, counted."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="strangers-") as name:
        for number in range(count):
            draw, store = random.Random(seed * 10**6 + number), Store(Path(name) / str(number))
            kind = draw.choice(KINDS)
            many = [{"uid": str(n), "response": f"placeholder {n}", "score": n} for n in range(9)]
            store.publish(
                kind, "k" * 64, {"result": {"flops": 12.5, "steps": 3}, "config": {"seed": 1}},
                lambda folder, many=many: write_lines(folder / "rows.jsonl", many),
            )  # fmt: skip
            path = store.path(kind, "k" * 64) / draw.choice(["rows.jsonl", MANIFEST])
            before = path.read_bytes()
            after = _corrupted(before, draw)
            path.write_bytes(after)
            try:
                Store(store.folder).checked(kind, "k" * 64)
            except StoreError:
                continue
            if path.name != MANIFEST or json.loads(before) != json.loads(after):
                found[f"{path.name}: not seen"] += 1
    return found


def _corrupted(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    bit = bytes([data[at] ^ (1 << draw.randrange(8))])
    swapped = b"".join(reversed(data.splitlines(keepends=True)))
    cut = [data[:at], data[:at] + bit + data[at + 1 :], swapped, data[:at] + data[at + 1 :], b""]
    return draw.choice(cut)


def main() -> None:
    """Print the figures."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--inputs", type=int, default=5000)
    asked.add_argument("--corruptions", type=int, default=500)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    for name, count, tried in (
        ("mutated inputs", given.inputs, try_inputs),
        ("corrupted artefacts", given.corruptions, try_corruptions),
    ):
        began = time.monotonic()
        found = tried(count, given.seed)
        print(f"{name}: {count}, faults {found.total()}, {time.monotonic() - began:.0f} s")
        for wrong, times in found.most_common():
            print(f"  {times:>5}  {wrong}")


if __name__ == "__main__":
    main()
