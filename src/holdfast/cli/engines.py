"""Who answers the prompts of `holdfast generate`: a checkpoint, a server, or an outside engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from holdfast.api.ends import LENGTH, STOP, ended
from holdfast.cli import preflight
from holdfast.cli.given import models
from holdfast.errors import ConfigError, DataError

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.format import Format
    from holdfast.data.tokens import Encoder
    from holdfast.endpoint import Endpoint
    from holdfast.evaluate.completion import Completion
    from holdfast.evaluate.sampler import Sampler
    from holdfast.nn.files import ModelFiles

FILTERED = "content_filter"
"""How an answer ends that a server's filter cut; source: OpenAI."""
OURS = ("batch", "batching")
"""Fields of the sampler that say how this machine runs a model."""


@dataclass(frozen=True)
class Asked:
    """What is asked: rows, how answers are drawn, and the study seed."""

    rows: Sequence[Example]
    sampler: Sampler
    seed: int


class Engine(Protocol):
    """Answers prompts; place `i * draws + d` is draw d of row i."""

    unused: ClassVar[tuple[str, ...]]
    """Fields of the sampler that mean nothing to it."""

    def command(self) -> dict[str, Any]:
        """Give what can change its answers, as plain data by name."""
        ...

    def answers(self, asked: Asked, done: Collection[int]) -> Iterator[tuple[int, Completion]]:
        """Give places and answers as they come, those of `done` left out where that can be."""
        ...

    def record(self) -> dict[str, Any]:
        """Give what is to be kept beside the answers of how they were made."""
        ...


class Checkpoint:
    """A model on this machine, asked with transformers.

    Args:
        sampler: how answers are drawn.
        yields: `max_new_tokens` is a default, which gives way where the model's context has no room
            for it behind the longest prompt.

    Raises:
        ConfigError, DataError, ModelError: what can be found wrong before weights are loaded.
    """

    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: str,
        form: Format,
        rows: Sequence[Example],
        sampler: Sampler,
        *,
        yields: bool,
        threads: int,
        device: str,
    ) -> None:
        files, _ = models(model, None, form.form)
        room = sampler.max_new_tokens
        if yields:
            room = preflight.room(files, form, rows, room, where="--prompts")
        self.sampler = sampler.with_(max_new_tokens=room)
        """The given one, or what the context has room for."""
        coder = preflight.encoder(files, form, answer=room, where="--prompts")
        preflight.warn(files, form)
        bare = [replace(row, response=None) for row in rows]
        preflight.check(files, coder, {"asked": bare}, None, device=device)
        self.files: ModelFiles = files
        self.coder: Encoder = coder
        self.threads, self.device = threads, device
        self.batching = ""
        """How answers were batched; empty where all were there already."""

    def command(self) -> dict[str, Any]:
        """Give the model's files and the format."""
        return {"model": self.files.identity(), "format": self.coder.format.identity()}

    def answers(self, asked: Asked, done: Collection[int]) -> Iterator[tuple[int, Completion]]:
        """Load the model and answer, batch by batch."""
        from holdfast import evaluate, nn
        from holdfast.api import set_threads

        set_threads(self.threads)
        loaded, _ = nn.load(self.files, device=self.device)
        yield from evaluate.answers(
            loaded, self.coder, asked.rows, asked.sampler, seed=asked.seed, done=done
        )
        self.batching = evaluate.way(loaded, asked.sampler)

    def record(self) -> dict[str, Any]:
        """Give the engine, the model and its format, the device and the versions."""
        from holdfast.api import environment

        return {
            "engine": "transformers",
            "model": self.files.spec,
            "format": self.coder.format.identity(),
            "batching": self.batching,
            "device": self.device,
            "environment": environment(self.threads),
        }


@dataclass
class Server:
    """A server with an OpenAI-compatible API, which has a template of its own."""

    unused: ClassVar[tuple[str, ...]] = OURS
    endpoint: Endpoint
    system: str | None
    honours: Mapping[str, bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what this machine alone can tell is wrong."""
        from holdfast.endpoint import check

        check(self.endpoint)

    def command(self) -> dict[str, Any]:
        """Give the model's name, who serves it, what is sent besides, and the system prompt."""
        who = self.endpoint.key_fields()
        return {"model": who["model"], "server": who["base_url"], "extra": who["extra"],
                "system": self.system}  # fmt: skip

    def answers(self, asked: Asked, done: Collection[int]) -> Iterator[tuple[int, Completion]]:
        """Ask the server, some prompts at once; what it honours is found out first."""
        from holdfast import evaluate
        from holdfast.endpoint import Client

        with Client(self.endpoint, {"name": "generate"}) as client:
            self.honours = asdict(client.honours())
            yield from evaluate.served(
                client, asked.rows, asked.sampler, seed=asked.seed, system=self.system, done=done
            )

    def record(self) -> dict[str, Any]:
        """Give the server, the model, what was sent besides, and what the server honours."""
        return {
            "engine": self.endpoint.base_url,
            "model": self.endpoint.model,
            "served_as": self.endpoint.served_as,
            "extra": dict(self.endpoint.extra),
            "system": self.system,
            "concurrency": self.endpoint.concurrency,
            "honours": dict(self.honours),
        }


@dataclass
class Outside:
    """An engine of the user's own, whose answers are in a file."""

    unused: ClassVar[tuple[str, ...]] = OURS
    model: str
    path: Path

    def command(self) -> dict[str, Any]:
        """Give the hash of the file."""
        from holdfast.data.records import content_of

        return {"answers": content_of(self.path)}

    def answers(self, asked: Asked, done: Collection[int]) -> Iterator[tuple[int, Completion]]:
        """Read the whole file first; each prompt must be answered once a draw.

        Raises:
            DataError: an answer to another prompt, a second one, one without text or with an
                unknown end or count, or too few.
        """
        from holdfast.data.records import records

        many, text = asked.sampler.draws, self.path.suffix.lower() in (".csv", ".tsv")
        places: dict[tuple[str, int], list[int]] = {}
        for place in range(len(asked.rows) * many):
            name = (asked.rows[place // many].uid, place % many)
            places.setdefault(name, []).append(place)
        open_, found = dict(places), []
        for number, row in records(self.path):
            where = f"{self.path}:{number}"
            name = (_text(row, "uid", where), _count(row, "draw", where, text) or 0)
            if name not in places:
                told = f"uid {name[0]}" + (f", draw {name[1]}," if many > 1 or name[1] else "")
                raise DataError(
                    where, f"{told} is none of the prompts asked", "answer what --prompts-out wrote"
                )
            if name not in open_:
                raise DataError(where, f"uid {name[0]} is answered twice", "keep one answer")
            answer = _answer(row, where, text)
            found += [(place, answer) for place in open_.pop(name)]
        if open_:
            (uid, draw), *_ = open_
            told = f"uid {uid}" + (f", draw {draw}" if many > 1 else "")
            raise DataError(
                str(self.path),
                f"{len(open_)} of {len(places)} answers are missing, the first to {told}",
                "answer all that --prompts-out wrote",
            )
        yield from found

    def record(self) -> dict[str, Any]:
        """Give the file and the model's name."""
        return {"engine": "outside", "model": self.model, "answers": str(self.path)}


def prompt_lines(coder: Encoder, asked: Asked) -> list[dict[str, Any]]:
    """Give what an outside engine is to answer: one row a prompt and draw, none twice.

    `text` is the prompt as the checkpoint's own generation would see it, `messages` the same as a
    chat. `seed` is there where answers are sampled.
    """
    from holdfast.api import seed as seed_of
    from holdfast.evaluate import messages

    sampler, found = asked.sampler, {}
    for row in asked.rows:
        for draw in range(sampler.draws):
            line: dict[str, Any] = {
                "uid": row.uid,
                "text": coder.render(row.prompt, row.system, turns=row.turns),
                "messages": messages(row, coder.format.system),
            }
            if sampler.draws > 1:
                line["draw"] = draw
            if sampler.temperature > 0:
                line["seed"] = seed_of(asked.seed, "sampling", row.uid, draw) % 2**31
            found[row.uid, draw] = line
    return list(found.values())


def _text(row: Mapping[str, object], name: str, where: str) -> str:
    found = row.get(name)
    if not isinstance(found, str):
        raise DataError(where, f"no text under '{name}'", f"give every line a '{name}'")
    return found


def _count(row: Mapping[str, object], name: str, where: str, text: bool) -> int | None:
    """Give a whole number from 0, None where there is none; `text`: the file holds text alone."""
    found = row.get(name)
    if found is None or (text and found == ""):
        return None
    if text and isinstance(found, str) and found.isascii() and found.isdigit():
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise DataError(where, f"'{name}' is no count", "write a whole number from 0")
    return found


def _answer(row: Mapping[str, object], where: str, text: bool) -> Completion:
    from holdfast.evaluate import Completion

    reason = row.get("finish_reason") or STOP
    word = ended(reason) if isinstance(reason, str) else ""
    if word not in (STOP, LENGTH, FILTERED):
        raise DataError(
            where,
            "'finish_reason' is no word for how an answer ends",
            f"write {STOP}, {LENGTH} or {FILTERED}",
        )
    return Completion(_text(row, "response", where), word, _count(row, "tokens", where, text))


def endpoint(url: str, model: str, more: object) -> Endpoint:
    """Give the server that `--endpoint`, `--model` and `--set endpoint.NAME=VALUE` name.

    Raises:
        ConfigError: a field is wrong.
    """
    from holdfast.api.fields import decode
    from holdfast.endpoint import Endpoint

    given = more if isinstance(more, dict) else {}
    if more is not None and not isinstance(more, dict):
        raise ConfigError("--set endpoint", "is no group", "write --set endpoint.NAME=VALUE")
    return decode(Endpoint, {**given, "base_url": url, "model": model}, "endpoint")
