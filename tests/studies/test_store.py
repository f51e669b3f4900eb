"""What exists in the store is finished, and one run holds it at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli import run
from holdfast.engine.store import Store, write_lines
from holdfast.errors import StoreError

KEY = "0123456789abcdef" * 4


def test_an_artefact_appears_whole_with_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has("judge", KEY)

    store.publish("judge", KEY, {"inputs": []}, lambda f: (f / "a.txt").write_text("a") and None)

    assert store.has("judge", KEY)
    assert store.keys("judge") == {KEY}
    assert store.manifest("judge", KEY) == {"kind": "judge", "key": KEY, "inputs": []}
    assert (store.path("judge", KEY) / "a.txt").read_text() == "a"


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fill(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.publish("judge", KEY, {}, fill)

    assert not store.has("judge", KEY)
    assert not list(tmp_path.glob("tmp-*"))


def test_a_file_size_limit_of_the_system_is_one_line(tmp_path: Path) -> None:
    code = (
        "import resource, pathlib; from holdfast.engine.store import Store; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        f"store = Store(pathlib.Path({str(tmp_path)!r})); "
        "fill = lambda folder: (folder / 'a').write_bytes(b'x' * 5000) and None; "
        "store.publish('judge', 'k' * 64, {}, fill)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr.splitlines()[-1] == (
        f"holdfast.errors.StoreError: {tmp_path}/judge/{'k' * 64}: cannot be written (file too "
        "large); free some space and run the same command again"
    )
    assert not list(tmp_path.glob("tmp-*"))


def test_a_second_run_on_one_store_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        Store(tmp_path).held(),
        pytest.raises(StoreError) as caught,
        Store(tmp_path).held(),
    ):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: in use by another run (process {os.getpid()}); wait for it to end, or name "
        "another --store"
    )
    with Store(tmp_path).held():
        pass


def test_a_store_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: cannot be written \(file exists\); name a folder"):
        Store(tmp_path / "file").held().__enter__()


def test_whoever_holds_the_store_sweeps_what_dead_runs_left(tmp_path: Path) -> None:
    for name in ("tmp-1-a", "work/k/tmp-1", "work/k/sft/tmp-1", "work/k/sft/step-2"):
        (tmp_path / name).mkdir(parents=True)

    with Store(tmp_path).held():
        pass

    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == ["lock", "work", "work/k", "work/k/sft", "work/k/sft/step-2"]


def test_a_chunk_is_made_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    def make() -> list[dict[str, int]]:
        made.append(1)
        return [{"a": 1}]

    assert store.chunk(KEY, "rows-0.jsonl", make) == [{"a": 1}]
    assert store.chunk(KEY, "rows-0.jsonl", make) == [{"a": 1}]
    assert len(made) == 1


def test_what_no_study_needs_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("a", "b"):
        store.publish("judge", key, {}, lambda folder: None)
    store.work("c").mkdir(parents=True)

    found = store.unneeded({"judge": {"a"}})

    assert [path.name for path in found] == ["b", "c"]


def test_a_broken_manifest_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish("judge", "a", {}, lambda folder: None)
    (store.path("judge", "a") / "manifest.json").write_text("{")

    with pytest.raises(StoreError, match=r"cannot be read .*; `holdfast verify"):
        store.manifest("judge", "a")


def lines(folder: Path) -> None:
    write_lines(folder / "a.jsonl", [{"uid": name, "say": n} for n, name in enumerate("xyz")])


@pytest.mark.parametrize("name", ["a.jsonl", "manifest.json"])
def test_one_changed_digit_is_found_at_first_use(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    store.publish("judge", KEY, {"result": {"flops": 1}}, lines)
    path = store.path("judge", KEY) / name
    path.write_text(path.read_text().replace('": 1', '": 2', 1))

    for use in (store.lines, lambda kind, key, _name: store.checked(kind, key)):
        with pytest.raises(StoreError) as caught:
            use("judge", KEY, "a.jsonl")
        assert str(caught.value) == (
            f"{path}: is not as it was written; `holdfast verify STORE --drop` removes what is "
            "broken; then run again"
        )


def test_an_artefact_of_an_older_version_is_read_and_joined_by_uid(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.path("judge", KEY)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": "judge", "key": KEY}))
    write_lines(folder / "a.jsonl", [{"uid": "b"}, {"uid": "a"}])

    assert store.checked("judge", KEY) == folder
    assert not store.sealed("judge", KEY)
    assert store.joined("judge", KEY, "a.jsonl", ["a", "b"]) == [{"uid": "a"}, {"uid": "b"}]
    with pytest.raises(StoreError, match="holds other prompts than its key says"):
        store.joined("judge", KEY, "a.jsonl", ["a", "c"])


@pytest.mark.parametrize("damage", [b"{", b"", b'{"a": 2}\n', b"\xff", b"[" * 100_000])
def test_a_damaged_chunk_is_made_again(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    store.chunk(KEY, "rows-0.jsonl", lambda: [{"a": 1}])
    (store.work(KEY) / "rows-0.jsonl").write_bytes(damage)

    assert store.chunk(KEY, "rows-0.jsonl", lambda: [{"a": 3}]) == [{"a": 3}]
    assert store.chunk(KEY, "rows-0.jsonl", lambda: [{"a": 4}]) == [{"a": 3}]


def test_a_folder_in_a_chunks_place_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.work(KEY) / "rows-0.jsonl" / "x").mkdir(parents=True)
    assert store.chunk(KEY, "rows-0.jsonl", lambda: [{"a": 3}]) == [{"a": 3}]
    assert store.chunk(KEY, "rows-0.jsonl", lambda: [{"a": 4}]) == [{"a": 3}]


def test_verify_names_what_is_broken_and_drops_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    for key in ("good", "bad"):
        store.publish("judge", key, {}, lines)
    path = store.path("judge", "bad") / "a.jsonl"
    path.write_bytes(path.read_bytes()[:-1])

    assert run(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{path}: is not as it was written\n1 artefacts whole, 1 broken\n"
    assert said.err == f"holdfast: {tmp_path}: 1 artefacts are broken; add --drop to remove them\n"
    assert run(["verify", str(tmp_path), "--drop"]) == 0
    assert store.keys("judge") == {"good"}
    assert run(["verify", str(tmp_path)]) == 0
    assert run(["verify", str(tmp_path / "none")]) == 2
