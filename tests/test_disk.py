"""Whole or not at all: folders and files that are written under another name first."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import disk
from holdfast.errors import StoreError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HOLDFAST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert disk.cache_folder() == tmp_path / ".cache" / "holdfast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the XDG standard has one ignore
    assert disk.cache_folder() == tmp_path / ".cache" / "holdfast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert disk.cache_folder() == tmp_path / "xdg" / "holdfast"
    monkeypatch.setenv("HOLDFAST_CACHE", "~/own")
    assert disk.cache_folder() == tmp_path / "own"


def test_a_folder_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with disk.whole_folder(target) as folder:
        assert folder.name == f".out.tmp-{os.getpid()}"
        (folder / "a").write_text("a")
        assert not target.exists()
    assert (target / "a").read_text() == "a"
    assert names(target.parent) == ["out"]


def test_an_error_inside_leaves_nothing_and_the_old_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()

    def broken() -> None:
        with disk.whole_folder(target, replace=True) as folder:
            (folder / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert names(tmp_path) == ["out"]
    assert names(target) == ["old"]
    with disk.whole_folder(target, replace=True) as folder:
        (folder / "new").touch()
    assert names(target) == ["new"]


def test_what_a_dead_run_left_beside_it_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp-1").mkdir()
    (tmp_path / ".other.tmp-1").mkdir()
    with disk.whole_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == [".other.tmp-1", "out"]


def test_everything_in_a_folder_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []
    inner = disk.sync

    def seen(path: Path) -> None:
        held.append(path.name)
        inner(path)

    monkeypatch.setattr(disk, "sync", seen)
    with disk.whole_folder(tmp_path / "out", tmp_path / "part") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").touch()
    assert sorted(held[:3]) == ["a", "inner", "part"]
    assert held[3:] == [tmp_path.name]


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    disk.write_bytes(target, b"old")

    def broken() -> None:
        with disk.whole_file(target) as part:
            part.write_bytes(b"half")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        broken()
    assert (names(target.parent), target.read_bytes()) == (["file"], b"old")
    disk.write_bytes(target, b"new")
    assert (names(target.parent), target.read_bytes()) == (["file"], b"new")


def test_a_disk_that_is_full_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(StoreError) as caught:
        disk.write_bytes(tmp_path / "a", b"a")
    assert str(caught.value) == (
        f"{tmp_path / 'a'}: cannot be written (no space left on device); free some space and run "
        "the same command again"
    )
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as caught:
        disk.write_bytes(tmp_path / "file" / "report.html", b"x")
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'report.html'}: cannot be written (file exists); check the folder "
        "and its rights"
    )
    assert names(tmp_path) == ["file"]


def test_one_process_at_a_time_makes_a_thing(tmp_path: Path) -> None:
    target, seen = tmp_path / "deep" / "made", tmp_path / "seen"
    code = (
        "from pathlib import Path; from holdfast.disk import locked; print('now', flush=True)\n"
        f"with locked(Path({str(target)!r})):\n"
        f"    Path({str(seen)!r}).touch()"
    )
    with disk.locked(target):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.read(4) == "now\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
        assert not seen.exists()
    with other:
        assert other.wait(60) == 0
    assert seen.exists()


def test_a_lock_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as caught, disk.locked(tmp_path / "file" / "made"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/file/made: cannot be written (file exists); check the folder and its rights"
    )
