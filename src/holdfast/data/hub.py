"""Where published data sets lie, and how their rows come here: once for each commit.

What was fetched stays in the user's cache folder, under the repository's name and the commit, and
is read from there from then on, without a network.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.data.example import Side
from holdfast.disk import cache_folder, whole_file, write_bytes
from holdfast.errors import ConfigError, DataError, HoldfastError, install

SHORT = 10.0
"""Seconds that a mere look at a repository may take."""
_COMMIT = "application/vnd.github.sha"
COMMIT = 40
"""Digits of a commit."""
TIMEOUT = 60
"""Seconds that a file of a GitHub repository may keep silent."""


@dataclass(frozen=True, slots=True)
class Place:
    """A repository of rows.

    `gated`: its terms must be accepted first. `through`: whether rows come through the library
    `datasets`, or its files are read as they are.
    """

    repo: str
    host: Literal["hub", "github"] = "hub"
    gated: bool = False
    through: Literal["datasets", "files"] = "datasets"

    @property
    def link(self) -> str:
        """Give the page where a person finds it."""
        if self.host == "github":
            return f"https://github.com/{self.repo}"
        return f"https://huggingface.co/datasets/{self.repo}"


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a published set.

    `name` is what a file of it may be called in a folder; `rows` how many were published; `config`
    and `split` what the hub calls it (by default no config, and `name`); `files` the published
    files; `side` who may see it, where its publisher's split decides that.
    """

    name: str
    rows: int
    config: str | None = None
    split: str = ""
    files: tuple[str, ...] = ()
    side: Side | None = None


def fetch(place: Place, splits: tuple[Split, ...], revision: str | None, where: str) -> Fetched:
    """Give the files of some splits at a commit, and the commit; None is the newest.

    Raises:
        DataError: what could not be had, in one line that says what to do.
        ConfigError: the package `datasets` is missing.
    """
    folder = cache_folder() / "sources" / place.repo.replace("/", "--")
    if revision is None and _offline():
        known = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        todo = f"set `revision` to one that was fetched: {', '.join(known)}" if known else _FOLDER
        raise DataError(where, f"no network (HF_HUB_OFFLINE is set) to ask {place.repo}", todo)
    commit = revision or _newest(place, where)
    found = {split.name: _paths(place, split, folder / commit) for split in splits}
    missing = [one for one in splits if not all(path.is_file() for path in found[one.name])]
    if missing and _offline():
        cause = f"no network (HF_HUB_OFFLINE is set), and {place.repo} at {commit[:12]}"
        raise DataError(where, f"{cause} was not fetched before", _FOLDER)
    with _told(place, commit, where):
        if missing and place.through == "datasets":
            _by_datasets(place, missing, commit, found)
            missing = []
        for split in missing:
            for name, path in zip(split.files, found[split.name], strict=True):
                write_bytes(path, _file(place, name, commit))
    return Fetched(commit, found)


def fetched(place: Place, splits: tuple[Split, ...], revision: str | None) -> bool:
    """Say whether some splits were fetched before at a commit; of the newest nobody knows."""
    if revision is None or not revision.isalnum() or len(revision) != COMMIT:
        return False
    folder = cache_folder() / "sources" / place.repo.replace("/", "--") / revision
    return all(path.is_file() for split in splits for path in _paths(place, split, folder))


def reach(place: Place, revision: str | None) -> tuple[str, str] | None:
    """Say what keeps a set from being fetched here, and what to do; None: nothing.

    Nothing of it is downloaded; None as a commit is the newest.
    """
    if _offline():
        return "there is no network (HF_HUB_OFFLINE is set)", _FOLDER
    try:
        with _told(place, revision or "its newest commit", place.repo):
            if place.host == "github":
                at = f"{place.repo}/commits/{revision or 'HEAD'}"
                _get(f"https://api.github.com/repos/{at}", _COMMIT)
                return None
            from huggingface_hub import HfApi

            HfApi().dataset_info(place.repo, revision=revision, timeout=SHORT)
            HfApi().auth_check(place.repo, repo_type="dataset")
    except HoldfastError as error:
        return error.what, error.todo
    return None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The commit that rows were fetched at, and the files of each split by its name."""

    commit: str
    files: dict[str, tuple[Path, ...]]


_FULL = (errno.ENOSPC, errno.EDQUOT)
_FOLDER = "give `folder`, where the downloaded files lie"


def _paths(place: Place, split: Split, folder: Path) -> tuple[Path, ...]:
    """Give where a split's rows are kept."""
    if place.through == "files":
        return tuple(folder / name for name in split.files)
    return (folder / f"{split.config or 'default'}-{split.split or split.name}.parquet",)


def _by_datasets(
    place: Place, splits: list[Split], commit: str, targets: dict[str, tuple[Path, ...]]
) -> None:
    """Load splits with `datasets` and keep each as one Parquet file.

    Its own cache is a folder that goes away: where the hub fails, `datasets` would take whatever
    commit it holds there. The prefix keeps it from reading a local folder of the same name.
    """
    from datasets import Dataset, load_dataset

    root = cache_folder() / "sources"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as own:
        for split in splits:
            rows = load_dataset(
                f"hf://datasets/{place.repo}",
                split.config,
                split=split.split or split.name,
                revision=commit,
                cache_dir=own,
            )
            assert isinstance(rows, Dataset)
            with whole_file(targets[split.name][0]) as part:
                rows.to_parquet(str(part))


def _file(place: Place, name: str, commit: str) -> bytes:
    """Give the bytes of one file of a repository."""
    if place.host == "github":
        return _get(f"https://raw.githubusercontent.com/{place.repo}/{commit}/{name}")
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(place.repo, name, repo_type="dataset", revision=commit)
    return Path(path).read_bytes()


def _newest(place: Place, where: str) -> str:
    with _told(place, "its newest commit", where):
        if place.host == "github":
            url = f"https://api.github.com/repos/{place.repo}/commits/HEAD"
            return _get(url, _COMMIT).decode().strip()
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(place.repo).sha
        assert commit is not None
        return commit


def _get(url: str, accept: str = "*/*") -> bytes:
    import urllib.request

    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "holdfast"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return answer.read()


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


@contextmanager
def _told(place: Place, commit: str, where: str) -> Generator[None]:
    """Turn what a download raises into one line; nothing of a row or a token stands in it."""
    try:
        yield
    except HoldfastError:
        raise
    except ImportError as error:
        name = error.name or "datasets"
        todo = f"install it: {install('data')}"
        raise ConfigError(where, f"needs the package {name}", todo) from None
    except Exception as error:  # the libraries below raise some thirty classes
        what, todo = _explained(error, place, commit)
        raise DataError(where, what, todo) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _explained(error: Exception, place: Place, commit: str) -> tuple[str, str]:
    """Say what went wrong and what to do about it, the first cause that is known."""
    import urllib.error

    from huggingface_hub import errors as hub

    causes = list(_causes(error))
    name, words = place.repo, " ".join(str(one) for one in causes).lower()
    at = f"{name} at {commit[:12]}"

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in causes)

    status = next((one.code for one in causes if isinstance(one, urllib.error.HTTPError)), 0)
    if any_is(hub.GatedRepoError) or "gated dataset" in words:
        terms = f"accept its terms at {place.link} and set HF_TOKEN to a token of that account"
        return f"{name} is gated", terms
    if any_is(hub.RevisionNotFoundError) or ("revision" in words and "doesn't exist" in words):
        return f"{name} has no commit {commit[:12]}", "set another `revision`, or `newest`"
    if any_is(hub.OfflineModeIsEnabled):
        return f"no network (HF_HUB_OFFLINE is set) to fetch {name}", _FOLDER
    if any_is(hub.RepositoryNotFoundError) or _is(causes, "DatasetNotFoundError"):
        renamed = f"see whether {place.link} was renamed or needs HF_TOKEN, or give `folder`"
        return f"{name} is not on the hub, or not for this account", renamed
    if status == 404 or any_is(hub.EntryNotFoundError) or _is(causes, "DataFilesNotFoundError"):
        return f"{at} has not the file that was published", f"see {place.link}, or give `folder`"
    if "builderconfig" in words or "unknown split" in words:
        part = "config" if "builderconfig" in words else "split"
        moved = f"see {place.link} for what it is called now, or give `folder`"
        return f"{at} has not the {part} that was published", moved
    if any(isinstance(one, OSError) and one.errno in _FULL for one in causes):
        return f"{at} finds no room on the disk", "free some and run the same command again"
    if any_is(ConnectionError, TimeoutError, urllib.error.URLError) or _is(
        causes, "TransportError"
    ):
        return f"{name} cannot be reached", f"check the network, or {_FOLDER}"
    return f"{at} cannot be loaded ({type(error).__name__})", f"see {place.link}, or {_FOLDER}"


def _is(causes: list[BaseException], *names: str) -> bool:
    """Say whether a cause is of a class of a library that need not be installed."""
    return any(cls.__name__ in names for one in causes for cls in type(one).__mro__)
