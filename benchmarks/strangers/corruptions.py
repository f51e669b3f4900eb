"""A file of a finished store, or of one whose run was killed, is corrupted; then the run again."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.strangers.broken import corrupted
from benchmarks.strangers.ending import Ended, fault, ran
from benchmarks.strangers.small import TABLES, Small

from holdfast.engine.store import KINDS, MANIFEST

Tell = Callable[[list[str], Ended], None]

DEATHS = ((3, "torch.optim:AdamW.step"), (15, "torch.optim:AdamW.step"),
          (60, "holdfast.evaluate.generation:of_ids"))  # fmt: skip
"""Where a run is killed to leave a work folder: at which call of which function."""


def unfinished(small: Small, store: Path, calls: int, place: str) -> None:
    """Leave a store as a run leaves it that is killed inside a function."""

    def arm() -> None:
        from tests.studies import killer

        killer.arm(place, calls, "before")

    ended = ran(small.run(store), arm)
    if ended.code != -signal.SIGKILL:
        raise RuntimeError(f"a run was to be killed, and ended with {ended.code}: {ended.err}")


def stores(small: Small) -> list[Path]:
    """Give the stores that are corrupted: one finished, and those that were killed; made once."""
    found = [small.store]
    for number, (calls, place) in enumerate(DEATHS):
        store = small.folder / f"killed{number}"
        if not store.exists():
            unfinished(small, store, calls, place)
        found.append(store)
    return found


def victims(store: Path) -> dict[str, list[Path]]:
    """Give a store's files by their sort: the kind of artefact and the file's own name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.name != "lock":
            kind = path.relative_to(store).parts[0]
            found.setdefault(f"{kind}/{path.name}", []).append(path)
    return found


def corrupt(path: Path, draw: random.Random) -> str:
    """Break a file on the disk; give how: changed, deleted, a folder in its place, or its folder
    gone."""
    way = draw.randrange(20)
    if way == 0:
        path.unlink()
        path.mkdir()
        return "is a folder"
    if way == 1:
        shutil.rmtree(path.parent)
        return "its folder is gone"
    if way == 2:
        path.unlink()
        path.symlink_to("nowhere")
        return "is a link to nowhere"
    before = path.read_bytes()
    after = corrupted(before, draw)
    if after is None:
        path.unlink()
        return "deleted"
    path.write_bytes(after)
    if after == before or (path.name == MANIFEST and _same(before, after)):
        return "as it was"
    return "changed"


def _same(before: bytes, after: bytes) -> bool:
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


def tried(small: Small, folder: Path, draw: random.Random, tell: Tell) -> str | None:
    """Corrupt one file of a copy of a store and run the study again; give what is wrong, or None.

    The run must end with the tables of the clean one, or say what is broken; then `verify --drop`
    and the run again must. A damaged file in `work` may cost nothing but time. What is broken and
    was not needed `verify` must tell.
    """
    source = draw.choice(stores(small)) if draw.random() < 0.4 else small.store
    store = folder / "store"
    shutil.copytree(source, store, symlinks=True)
    sorts = victims(store)
    if draw.random() < 0.5 and any(sort.startswith("work/") for sort in sorts):
        sorts = {sort: found for sort, found in sorts.items() if sort.startswith("work/")}
    sort = draw.choice(sorted(sorts))
    path = draw.choice(sorts[sort])
    how = corrupt(path, draw)
    in_work, kept = sort.startswith("work/"), sort.split("/")[0] in KINDS
    if draw.random() < 0.5 and kept:
        shutil.rmtree(store / small.study.stem, ignore_errors=True)
    name = f"[{sort} {how}, {source.name}]"

    def end(words: list[str]) -> Ended:
        ended = ran(words)
        tell(words, ended)
        return ended

    seen = end(["verify", str(store)])
    whole = how in ("as it was", "its folder is gone")
    if kept and not whole and (seen.code == 0 or path.parent.name not in seen.out):
        return f"silent: verify {name}"
    if wrong := fault(seen, folder):
        return f"{wrong} {name}"
    ended = end(small.run(store))
    if (wrong := fault(ended, folder)) and ended.seconds < 60:
        return f"{wrong} {name}"
    if ended.code == 0:
        return _compared(small, store, name)
    if in_work:
        return f"lost: {ended.line[:150]} {name}"
    if path.parent.name not in ended.err and str(path) not in ended.err:
        return f"silent: names another {ended.line[:150]} {name}"
    end(["verify", str(store), "--drop"])
    if not kept:  # the report's own file, which the line told to look at
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    ended = end(small.run(store))
    if ended.code != 0:
        return f"lost: {ended.line[:150]} {name}"
    return _compared(small, store, name)


def _compared(small: Small, store: Path, name: str) -> str | None:
    """Hold a finished store to the clean one."""
    clean = small.tables(small.store)
    found = small.tables(store)
    wrong = [one for one in TABLES if found.get(one) != clean[one]]
    if wrong:
        return f"silent: another {wrong[0]} {name}"
    if (store / "work").exists() and any((store / "work").iterdir()):
        return f"left behind: {min(path.name for path in (store / 'work').iterdir())} {name}"
    return None
