"""The files of a published split in a folder of downloaded ones: all of them, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.data.hub import Split
from holdfast.data.records import ENDINGS, is_rows
from holdfast.errors import DataError


def find(folder: Path, split: Split, splits: Sequence[Split], where: str) -> tuple[Path, ...]:
    """Give the files of a split in a folder of downloaded ones.

    These are tried: its published files, with or without their folders; the hub's layout
    (`CONFIG/SPLIT-00000-of-00001.parquet`), whole; one file called like the split; and, where only
    one split is read, the folder's only file of rows.

    Raises:
        DataError: no such folder, no such file, several that could be meant, or a part of several
            files is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{where}: folder {folder}", "no such folder", "check the path")
    place, name = f"{where}: folder {folder}", split.split or split.name
    found: list[tuple[Path, ...]] = []
    for names in (split.files, tuple(Path(one).name for one in split.files)):
        found.append(_whole(tuple(folder / one for one in names), place))
    for inside in (folder / (split.config or "."), folder / "data", folder):
        found.append(_shards(inside, name, place))
    rows = sorted(path for path in folder.iterdir() if path.is_file() and is_rows(path.name))
    parts = {path for paths in found for path in paths}
    found += [(path,) for path in rows if path.stem in (split.name, name) and path not in parts]
    called = list(dict.fromkeys(filter(None, found)))
    if not called and len(splits) == 1:
        called = [(path,) for path in rows]
    if len(called) == 1:
        return called[0]
    several = f"{len(called)} files could be" if called else "no file is"
    published = f" or {' and '.join(split.files)}" if split.files else ""
    raise DataError(
        place,
        f"{several} split '{split.name}'",
        f"name one {split.name}{ENDINGS[-1]} (or another of {', '.join(ENDINGS[:-1])}){published}",
    )


def _shards(folder: Path, name: str, where: str) -> tuple[Path, ...]:
    """Give the files `NAME-00000-of-00002.parquet` and so on of a folder, if it has any."""
    there = sorted(folder.glob(f"{name}-*-of-*.parquet"))
    ends = sorted({path.stem.rpartition("-of-")[2] for path in there})
    if len(ends) > 1:
        cause = f"{name}-* is of {' and of '.join(ends)} files"
        raise DataError(where, cause, "keep the files of one download")
    count = int(ends[0]) if ends and ends[0].isdecimal() else 0
    return _whole(
        tuple(folder / f"{name}-{i:05}-of-{count:05}.parquet" for i in range(count)), where
    )


def _whole(paths: tuple[Path, ...], where: str) -> tuple[Path, ...]:
    """Give paths of which every one is a file, none where none is; refuse a part of them."""
    missing = [path.name for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        cause = f"{len(paths) - len(missing)} of {len(paths)} files, without {missing[0]}{more}"
        raise DataError(where, cause, "add what is missing")
    return () if missing else paths
