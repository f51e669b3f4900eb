"""Fetching published data sets: once a commit, and one line for everything that can go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from email.message import Message
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from tests.data.hub_server import COMMIT, card, serving

from holdfast.data import hub
from holdfast.data.hub import Place, Split, fetch
from holdfast.data.sources.advbench import AdvBench
from holdfast.data.sources.gsm8k import GSM8K
from holdfast.errors import ConfigError, DataError

FILES = Path(__file__).parent / "published"
PLACE = Place("owner/set")
SPLIT = (Split("train", 1),)
FOLDER = "give `folder`, where the downloaded files lie"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sources"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


CASES = """
import json, sys
from holdfast.api.registry import make
from holdfast.errors import HoldfastError
for name, fields in json.load(sys.stdin):
    try:
        source = make("source", {name: fields}, "study.sources[0]")
        print(json.dumps([len(source.examples()), source.content(), source.origin()]))
    except HoldfastError as error:
        print(json.dumps([str(error)]))
"""


def ask(address: str, folder: Path, cases: list[Any], offline: str = "0") -> list[Any]:
    """Make sources in a process that knows no other hub than the one at `address`."""
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": offline,
        "HF_DATASETS_OFFLINE": offline,
        "HF_TOKEN": "hf_placeholdertoken",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CASES],
        input=json.dumps(cases), env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "placeholdertoken" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_real_client_reads_a_hub_and_says_in_one_line_what_is_wrong_there(
    tmp_path: Path, own_cache: Path
) -> None:
    rows = {n: (FILES / "gsm8k" / f"{n}.jsonl").read_bytes() for n in ("train", "test")}
    split = {f"main/{n}.jsonl": text for n, text in rows.items()}
    repositories = {
        "openai/gsm8k": split
        | {"README.md": card("main", train="main/train.jsonl", test="main/test.jsonl")},
        "allenai/wildguardmix": {"README.md": b"terms"},
        "LLM-Tuning-Safety/HEx-PHI": {"category_1.csv": b"placeholder prompt 1\n"},
        "cais/mmlu": split | {"README.md": card("other", test="main/test.jsonl")},
        "allenai/openbookqa": split | {"README.md": card("main", train="main/train.jsonl")},
        "stanfordnlp/sst2": {"README.md": card("default", train="gone.jsonl")},
    }
    here = {"revision": COMMIT, "rows": "any"}
    cases = [
        ["gsm8k", {"revision": "newest", "rows": "any"}],
        ["gsm8k", here],
        ["gsm8k", {"revision": "d" * 40}],
        ["wildguardmix", here],
        ["hex_phi", here],
        ["beavertails", here],
        ["mmlu", here],
        ["openbookqa", here],
        ["sst2", here],
    ]
    gated = ("allenai/wildguardmix", "LLM-Tuning-Safety/HEx-PHI")
    with serving(repositories, gated) as address:
        newest, pinned, *said = ask(address, tmp_path, cases)
    assert newest == pinned
    told = "3 rows from 4 published (dropped: 1 without a label)"
    local = GSM8K(folder=str(FILES / "gsm8k"), rows="any")
    assert newest == [3, local.content(), f"openai/gsm8k at {COMMIT}: {told}"]
    short, link = COMMIT[:12], "https://huggingface.co/datasets"
    terms = "and set HF_TOKEN to a token of that account"
    assert [line for (line,) in said] == [
        "source 'gsm8k': openai/gsm8k has no commit dddddddddddd; "
        "set another `revision`, or `newest`",
        "source 'wildguardmix': allenai/wildguardmix is gated; "
        f"accept its terms at {link}/allenai/wildguardmix {terms}",
        "source 'hex_phi': LLM-Tuning-Safety/HEx-PHI is gated; "
        f"accept its terms at {link}/LLM-Tuning-Safety/HEx-PHI {terms}",
        "source 'beavertails': PKU-Alignment/BeaverTails is not on the hub, or not for this "
        f"account; see whether {link}/PKU-Alignment/BeaverTails was renamed or needs HF_TOKEN, "
        "or give `folder`",
        f"source 'mmlu': cais/mmlu at {short} has not the config that was published; "
        f"see {link}/cais/mmlu for what it is called now, or give `folder`",
        f"source 'openbookqa': allenai/openbookqa at {short} has not the split that was "
        f"published; see {link}/allenai/openbookqa for what it is called now, or give `folder`",
        f"source 'sst2': stanfordnlp/sst2 at {short} has not the file that was published; "
        f"see {link}/stanfordnlp/sst2, or give `folder`",
    ]
    kept = own_cache / "openai--gsm8k" / COMMIT
    assert sorted(path.name for path in kept.iterdir()) == [
        "main-test.parquet",
        "main-train.parquet",
    ]
    # What was fetched is there without the hub, and only that.
    cases = [["gsm8k", here], ["gsm8k", {"revision": "newest"}], ["gsm8k", {}]]
    pinned, *said = ask(address, tmp_path, cases, offline="1")
    assert pinned == newest
    commit = str(GSM8K.commit)[:12]
    assert [line for (line,) in said] == [
        "source 'gsm8k': no network (HF_HUB_OFFLINE is set) to ask openai/gsm8k; "
        f"set `revision` to one that was fetched: {COMMIT}",
        f"source 'gsm8k': no network (HF_HUB_OFFLINE is set), and openai/gsm8k at {commit} was not "
        f"fetched before; {FOLDER}",
    ]


def raised(kind: str) -> Exception:
    """Make an exception as the libraries raise it."""
    import datasets.exceptions as ours
    from huggingface_hub import errors

    httpx = import_module(errors.HfHubHTTPError.__mro__[1].__module__)  # whichever it stands on
    answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
    made: dict[str, Exception] = {
        "gated": ours.DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub."),
        "gone": ours.DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"),
        "revision": ours.DatasetNotFoundError("Revision 'x' doesn't exist for dataset 'x'"),
        "offline": errors.OfflineModeIsEnabled("offline"),
        "unreachable": ConnectionError("Couldn't reach 'x' on the Hub (ConnectError)"),
        "slow": httpx.ReadTimeout("slow"),
        "files": ours.DataFilesNotFoundError("no files"),
        "config": ValueError("BuilderConfig 'x' not found. Available: ['y']"),
        "split": ValueError("Unknown split \"x\". Should be one of ['y']."),
        "full": OSError(28, "No space left on device"),
        "strange": ours.DatasetGenerationError("words of a row"),
    }
    made["gated"].__cause__ = errors.GatedRepoError("403", response=answer)
    return made[kind]


AT = f"owner/set at {COMMIT[:12]}"
LINK = "https://huggingface.co/datasets/owner/set"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "gated",
            f"owner/set is gated; accept its terms at {LINK} and set HF_TOKEN to a token of that "
            "account",
        ),
        (
            "gone",
            f"owner/set is not on the hub, or not for this account; see whether {LINK} was renamed "
            "or needs HF_TOKEN, or give `folder`",
        ),
        (
            "revision",
            f"owner/set has no commit {COMMIT[:12]}; set another `revision`, or `newest`",
        ),
        ("offline", f"no network (HF_HUB_OFFLINE is set) to fetch owner/set; {FOLDER}"),
        ("unreachable", f"owner/set cannot be reached; check the network, or {FOLDER}"),
        ("slow", f"owner/set cannot be reached; check the network, or {FOLDER}"),
        (
            "files",
            f"{AT} has not the file that was published; see {LINK}, or give `folder`",
        ),
        (
            "config",
            f"{AT} has not the config that was published; see {LINK} for what it is called now, "
            "or give `folder`",
        ),
        (
            "split",
            f"{AT} has not the split that was published; see {LINK} for what it is called now, "
            "or give `folder`",
        ),
        ("full", f"{AT} finds no room on the disk; free some and run the same command again"),
        (
            "strange",
            f"{AT} cannot be loaded (DatasetGenerationError); see {LINK}, or {FOLDER}",
        ),
    ],
)
def test_what_the_library_raises_becomes_one_line_without_words_of_a_row(
    kind: str, line: str, online: None, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    def load_dataset(*args: object, **fields: object) -> None:
        raise raised(kind)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError) as error:
        fetch(PLACE, SPLIT, COMMIT, "source 'set'")
    assert str(error.value) == f"source 'set': {line}"
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_a_missing_package_is_named(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError) as error:
        fetch(PLACE, SPLIT, COMMIT, "source 'set'")
    line = "needs the package datasets; install it: pip install '.[data]' in the clone of holdfast"
    assert str(error.value) == f"source 'set': {line}"


def answering(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes | Exception]) -> list[str]:
    """Let the web have some addresses; give the list of those that were asked for."""
    asked: list[str] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> BytesIO:
        asked.append(request.full_url)
        answer = answers[request.full_url]
        if isinstance(answer, Exception):
            raise answer
        return BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


RAW = "https://raw.githubusercontent.com/llm-attacks/llm-attacks/{}/data/advbench/harmful_behaviors.csv"


def test_a_file_of_a_repository_is_fetched_once_a_commit(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (FILES / "advbench" / "harmful_behaviors.csv").read_bytes()
    newest = "https://api.github.com/repos/llm-attacks/llm-attacks/commits/HEAD"
    pinned = RAW.format(AdvBench.commit)
    answers: dict[str, bytes | Exception] = {
        newest: f"{COMMIT}\n".encode(), RAW.format(COMMIT): text, pinned: text
    }  # fmt: skip
    asked = answering(monkeypatch, answers)
    local = AdvBench(folder=str(FILES / "advbench"), rows="any")
    for _ in range(2):
        assert AdvBench(rows="any").content() == local.content()
        found = AdvBench(rows="any", revision="newest")
        assert found.content() == local.content()
        assert found.origin().startswith(f"llm-attacks/llm-attacks at {COMMIT}: 3 rows")
    assert asked == [pinned, newest, RAW.format(COMMIT), newest]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            urllib.error.HTTPError("u", 404, "Not Found", Message(), None),
            "llm-attacks/llm-attacks at 098262edf85f has not the file that was published; "
            "see https://github.com/llm-attacks/llm-attacks, or give `folder`",
        ),
        (
            urllib.error.URLError("no route"),
            f"llm-attacks/llm-attacks cannot be reached; check the network, or {FOLDER}",
        ),
        (
            TimeoutError("timed out"),
            f"llm-attacks/llm-attacks cannot be reached; check the network, or {FOLDER}",
        ),
    ],
)
def test_a_file_that_cannot_be_had_is_one_line(
    error: Exception, line: str, online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, {RAW.format(AdvBench.commit): error})
    with pytest.raises(DataError) as found:
        AdvBench().examples()
    assert str(found.value) == f"source 'advbench': {line}"


def test_a_folder_of_the_same_name_is_not_taken_for_the_hub(
    online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def load_dataset(path: str, *args: object, **fields: object) -> None:
        seen.extend([path, fields["revision"]])
        raise ConnectionError

    (tmp_path / "owner/set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError):
        fetch(PLACE, SPLIT, COMMIT, "source 'set'")
    assert seen == ["hf://datasets/owner/set", COMMIT]


def test_a_place_names_its_page() -> None:
    assert hub.Place("a/b").link == "https://huggingface.co/datasets/a/b"
    assert hub.Place("a/b", host="github").link == "https://github.com/a/b"
