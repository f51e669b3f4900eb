"""Tasks of lm-eval: found, loaded, and their documents told apart, each with its own examples.

Loading leaves this process as it was (`undisturbed`). A document's few-shot examples are those that
lm-eval draws for it in a run over the whole task with its own seed, whoever else is asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data.refusals import explained
from holdfast.data.undisturbed import OTHER_SEED, undisturbed
from holdfast.disk import cache_folder
from holdfast.errors import ConfigError, DataError, did_you_mean, install

if TYPE_CHECKING:
    from jinja2 import Template
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

WHERE = "lm_eval"
"""What an error begins with: the source's name."""
INSTALL = install("eval")

_NAME = re.compile(r"""^["']?(?:task|group)["']?:[ \t]*["']?([^\s"'\[\]{}#]+)""", re.M)
_TAG = re.compile(r"""^tag:(?:[ \t]*(\S+)[ \t]*$|[ \t]*\n((?:[ \t]*-[ \t]*\S+[ \t]*\n?)+))""", re.M)

_SCORING = (
    *("output_type", "repeats", "metric_list", "filter_list", "process_results"),
    *("generation_kwargs", "target_delimiter"),
)
"""What of a task's configuration its requests do not show and its scores hang on."""

Request = tuple[str, str, int]
"""What is asked, without any chat template: a text, what may follow, tokens an answer may have."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a task, as a row's `meta["lm_eval"]` keeps it.

    `benchmark` and `folder` say what to load; `content` is lm-eval's hash of the document, `asked`
    of all that its score hangs on: its examples, the task's words and rules, lm-eval's version.
    """

    benchmark: str
    folder: str | None
    task: str
    place: int
    shots: int
    content: str
    asked: str

    def to_meta(self) -> dict[str, Any]:
        """Give it as plain data."""
        return asdict(self)


class Benchmark:
    """A task of lm-eval, or all tasks of a group, loaded.

    `tasks` are by name; `examples[name][i]` are the documents shown before document i.
    """

    def __init__(
        self, name: str, folder: str | None, shots: int, tasks: Mapping[str, ConfigurableTask]
    ) -> None:
        self.name, self.folder, self.shots, self.tasks = name, folder, shots, tasks
        self.examples = {one: _drawn(task, shots) for one, task in tasks.items()}

    @property
    def metrics(self) -> list[str]:
        """Give the metrics that every task has, as lm-eval writes them: `acc`, `f1,strict`.

        lm-eval's own come first; those that are better when lower are left out.
        """
        first, *others = map(_metrics, self.tasks.values())
        return [one for one in first if all(one in some for some in others)]

    def documents(self, limit: int | None = None) -> list[tuple[Document, str]]:
        """Give every document (of each task the first `limit`) and the question it asks."""
        with compiled_once():
            return list(self._documents(limit))

    def _documents(self, limit: int | None) -> Iterator[tuple[Document, str]]:
        for name, task in self.tasks.items():
            rules = _rules(task)
            hashes = [content_of(doc) for doc in task.task_docs]
            shown: dict[int, str] = {}
            for place, doc in enumerate(task.task_docs):
                if limit is not None and place >= limit:
                    break
                before = self.examples[name][place] if self.shots else []
                for one in before:
                    shown.setdefault(id(one), content_of(one))
                asked = [rules, hashes[place], [shown[id(one)] for one in before]]
                text = _sha(json.dumps(asked))
                made = Document(
                    self.name, self.folder, name, place, self.shots, hashes[place], text
                )
                yield made, question(task, doc)

    def requests(self, documents: Iterable[Document]) -> list[list[Request]]:
        """Give what is asked of documents, examples before each, without a chat template."""
        with undisturbed(), compiled_once():
            return [self._requests(document) for document in documents]

    def _requests(self, document: Document) -> list[Request]:
        task = self.tasks[document.task]
        doc = task.task_docs[document.place]
        with self.showing(document.task, [document.place]):
            context = task.fewshot_context(doc, self.shots, gen_prefix=task.doc_to_prefix(doc))
            made = task.construct_requests(doc=doc, ctx=context, metadata=(document.task, 0, 1))
        found: list[Request] = []
        for one in made if isinstance(made, list) else [made]:
            text, more = one.args[:2]
            tokens = int(more.get("max_gen_toks", 256)) if isinstance(more, dict) else 0
            found.append((text, "" if isinstance(more, dict) else str(more), tokens))
        return found

    def showing(self, task: str, places: Sequence[int]) -> _Showing:
        """Have a task show its documents' own examples while these are asked in this order."""
        return _Showing(self.tasks[task], [self.examples[task][i] for i in places], self.shots)


class _Showing:
    """Gives a task a sampler that hands out prepared examples, and takes it away again."""

    def __init__(self, task: ConfigurableTask, examples: list[list[Any]], shots: int) -> None:
        self._task, self._examples, self._shots = task, examples, shots

    def __enter__(self) -> None:
        self._task.set_config(key="num_fewshot", value=self._shots)
        self._own = getattr(self._task, "sampler", None)
        if self._shots:
            self._task.sampler = _prepared(self._examples)

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._task.sampler = self._own


def _prepared(examples: list[list[Any]]) -> Any:  # noqa: ANN401  (a sampler of lm-eval's)
    from lm_eval.api.samplers import ContextSampler

    class Prepared(ContextSampler):
        """Hands out what was drawn before, one document after the other."""

        def __init__(self) -> None:
            super().__init__([])
            self._left = iter(examples)

        def sample(self, *_: object, **__: object) -> list[Any]:
            return next(self._left)

    return Prepared()


@contextmanager
def compiled_once() -> Iterator[None]:
    """Have lm-eval compile each of its templates once: it does so for every document."""
    from unittest import mock  # it brings asyncio, which light commands do without

    from lm_eval.utils import env

    with mock.patch.object(env, "from_string", _compiled):
        yield


@cache
def _compiled(text: str) -> Template:
    from lm_eval.utils import env

    return type(env).from_string(env, text)


def question(task: ConfigurableTask, doc: Mapping[str, Any]) -> str:
    """Give the text of a document's question; of a task that varies it, all its texts."""
    text = task.doc_to_text(doc)
    return text if isinstance(text, str) else "\n".join(map(str, task.doc_to_choice(doc)))


def content_of(doc: object) -> str:
    """Give lm-eval's own hash of a document."""
    from lm_eval.utils import handle_non_serializable

    shown = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return _sha(shown)


def version() -> str:
    """Give lm-eval's version."""
    from importlib import metadata

    return metadata.version("lm_eval")


def load(name: str, shots: int, folder: str | None) -> Benchmark:
    """Load a task or a group by its name; the same one is loaded once in a process.

    Args:
        shots: examples before each question.
        folder: a folder of tasks (YAML files and their data), whose files' relative paths begin
            there; None means lm-eval's own tasks. Its tasks may build on lm-eval's.

    Raises:
        ConfigError: lm-eval is not installed.
        DataError: no such task, nothing of its data, or a task that studies cannot ask.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(WHERE, "the package `lm_eval` is missing", INSTALL)
    if folder is not None and not Path(folder).is_dir():
        raise DataError(
            f"{WHERE}.folder",
            f"no such folder {folder}",
            "check the path" + ", or run where it begins" * (not Path(folder).is_absolute()),
        )
    return _load(name, shots, folder, None if folder is None else files_of(folder))


def files_of(folder: str) -> str:
    """Give the hash of every file in a folder of tasks."""
    root, found = Path(folder), hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(f"{path.relative_to(root).as_posix()}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


@cache
def _load(name: str, shots: int, folder: str | None, files: str | None) -> Benchmark:
    own = None if folder is None else Path(folder).resolve()
    kept = None if files is None else cache_folder() / "lm_eval" / files
    with undisturbed(own, kept):
        manager = _manager(name, own)
        try:
            found = manager.load([name])["tasks"]
        except Exception as error:  # whatever a task, its data or the hub throws
            raise explained(error, name, folder, WHERE) from None
        tasks = {one: _checked(one, task, shots) for one, task in found.items()}
        for task in tasks.values():
            _freeze(task)
        try:
            return Benchmark(name, folder, shots, tasks)
        except AssertionError:  # how lm-eval's samplers say it
            raise DataError(
                f"{WHERE}.shots",
                f"task '{name}' has no {shots} examples to show",
                "ask for fewer",
            ) from None


def _checked(name: str, task: object, shots: int) -> ConfigurableTask:
    """Give a task back; refuse one that a study cannot ask.

    Raises:
        DataError: it has no document, runs code, needs images or sounds, or says nothing that is
            right or wrong.
    """
    from lm_eval.api.task import ConfigurableTask

    todo = "choose another task"
    if not isinstance(task, ConfigurableTask):
        raise DataError(WHERE, f"task '{name}' is a program without a configuration", todo)
    if getattr(task, "UNSAFE_CODE", False):
        raise DataError(WHERE, f"task '{name}' runs code that the model writes", todo)
    if getattr(task, "MULTIMODAL", False):
        raise DataError(WHERE, f"task '{name}' shows images or plays sounds", todo)
    if not _metrics(task) or task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise DataError(WHERE, f"task '{name}' has no answer that is right or wrong", todo)
    said = task.config.generation_kwargs or {}
    if said.get("do_sample") or task.config.repeats > 1:
        raise DataError(WHERE, f"task '{name}' draws its answers at random", todo)
    if shots and task.config.num_fewshot == 0:
        raise DataError(
            f"{WHERE}.shots", f"task '{name}' is asked without examples alone", "set shots to 0"
        )
    return task


def _freeze(task: ConfigurableTask) -> None:
    """Keep a task's documents: some are drawn anew each time they are asked for."""
    docs = list(task.task_docs)
    task.task_docs = docs
    # lm-eval asks for the test split first, then for the one for validation.
    split = "test_docs" if task.has_test_docs() else "validation_docs"
    object.__setattr__(task, split, lambda: docs)


def _drawn(task: ConfigurableTask, shots: int) -> list[list[Any]]:
    """Give the examples of each document that a run over the whole task shows."""
    if not shots:
        return [[] for _ in task.task_docs]
    task.set_fewshot_seed(OTHER_SEED)
    same = task.fewshot_cfg.split == task.config.test_split
    return [
        list(task.sampler.sample(n=shots, eval_doc=doc if same else None)) for doc in task.task_docs
    ]


def _metrics(task: ConfigurableTask) -> list[str]:
    """Give a task's metrics of which more is better, as lm-eval writes them."""
    listed = task.config.filter_list
    filters = [dict(one)["name"] for one in listed] if isinstance(listed, list) else ["none"]
    better = task.higher_is_better()
    return [metric(one, by) for by in filters for one in task.aggregation() if better.get(one)]


def metric(name: str, by: str) -> str:
    """Give a metric's name with its filter, where the task has any."""
    return name if by == "none" else f"{name},{by}"


def _rules(task: ConfigurableTask) -> str:
    """Give the hash of what a task's scores hang on besides its documents."""
    config = task.dump_config()
    texts = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "fewshot_delimiter")
    names = (*_SCORING, *texts, "gen_prefix", "fewshot_config")
    said = {name: config[name] for name in names if name in config}
    return _sha(json.dumps([version(), said], sort_keys=True, default=str))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _manager(name: str, folder: Path | None) -> TaskManager:
    """Give an index that holds a task and all it is made of.

    lm-eval's own index of 14,000 files takes half a minute: only the folders that name it are read.

    Raises:
        DataError: there is no such task.
    """
    from lm_eval.tasks import TaskManager

    wanted, paths = {name}, set() if folder is None else {folder}
    manager = TaskManager(include_path=sorted(paths) or None, include_defaults=False)
    while missing := wanted - set(manager.task_index):
        more = {path for one in missing for path in _folders().get(one, ())} - paths
        if not more:
            break
        paths |= more
        # Later ones win: a folder of one's own is the last.
        ordered = sorted(paths, key=lambda path: (path == folder, path))
        manager = TaskManager(include_path=ordered, include_defaults=False)
        wanted |= _members(manager, name)
    wanted |= _members(manager, name)
    if name not in manager.task_index:
        known = {*manager.task_index} if folder is not None else set(_folders())
        near = did_you_mean(name, known)
        there = (
            f"in {folder.name} or in lm-eval {version()}" if folder else f"in lm-eval {version()}"
        )
        if not near.startswith("did"):
            near = near if folder is not None and known else "see `lm-eval ls tasks`"
        raise DataError(f"{WHERE}.task", f"no task '{name}' {there}", near)
    return manager


def _members(manager: TaskManager, name: str) -> set[str]:
    """Give the names that a group, and every group inside it, is made of."""
    found, left = set(), [name]
    while left:
        entry = manager.task_index.get(left.pop())
        inside = (entry.cfg or {}).get("task") if entry else None
        for one in inside if isinstance(inside, list) else []:
            own = one if isinstance(one, str) else one.get("group") or one.get("task")
            if isinstance(own, str) and own not in found:
                found.add(own)
                left.append(own)
    return found


@cache
def _folders() -> Mapping[str, set[Path]]:
    """Give the folders of lm-eval's tasks by the names of tasks, groups and tags in them."""
    import lm_eval

    assert lm_eval.__file__ is not None
    root = Path(lm_eval.__file__).parent / "tasks"
    found: dict[str, set[Path]] = {}
    for path in sorted(root.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        top = root / path.relative_to(root).parts[0]
        names = _NAME.findall(text)
        for one, several in _TAG.findall(text):
            names += [one, *several.replace("-", " ", 0).split()]
        for name in names:
            if name not in ("", "-"):
                found.setdefault(name, set()).add(top)
    return found
