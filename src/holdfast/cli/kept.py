"""Answers on their way into a file: each is kept as it comes, and the same command goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from holdfast import disk
from holdfast.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from holdfast.evaluate.completion import Completion


class Kept:
    """The finished answers of a command that is not done, one a line, in a file beside `out`.

    Use it in a `with`; a file that holds any stays until `clear`.

    Args:
        command: what makes the answers, by name, as plain data. Answers of another command are
            refused; the error names what differs.

    Raises (on entering):
        ConfigError: the file is another command's.
        StoreError: it cannot be written, or another process is writing it.
    """

    def __init__(self, out: Path, command: Mapping[str, Any]) -> None:
        self.path = out.with_name(f".{out.name}.part")
        self.found: dict[int, Completion] = {}
        """Answers by their place."""
        self._command = json.loads(json.dumps(dict(command)))

    def __enter__(self) -> Self:
        with disk.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.found:
            self.clear()
        os.close(self._file)

    def add(self, place: int, one: Completion) -> None:
        """Keep an answer."""
        if place not in self.found:
            self._append([place, one.text, one.finish_reason, one.tokens])
            self.found[place] = one

    def clear(self) -> None:
        """Remove the file: its answers are written elsewhere."""
        self.path.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                str(self.path), "another process is writing it", "wait for that one"
            ) from None

    def _append(self, data: object) -> None:
        with disk.writing(self.path):
            os.write(self._file, (json.dumps(data, ensure_ascii=True) + "\n").encode())

    def _read(self) -> None:
        """Read what is there up to its last whole line, and begin the file where nothing is."""
        from holdfast.evaluate.completion import Completion

        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        with disk.writing(self.path):
            os.truncate(self._file, len(whole) + 1 if whole else 0)
        if not whole:
            self._append(self._command)
            return
        try:
            command, *lines = [json.loads(line) for line in whole.split(b"\n")]
            found = {place: Completion(*said) for place, *said in lines}
        except (ValueError, TypeError, RecursionError):
            raise self._another("it is no file of answers") from None
        names = self._command.keys() | command.keys()
        other = sorted(n for n in names if self._command.get(n) != command.get(n))
        if other:
            raise self._another(f"another {', '.join(other)}")
        self.found = found

    def _another(self, why: str) -> ConfigError:
        return ConfigError(
            "--out",
            f"{self.path} holds answers of another command ({why})",
            "run that one again, name another --out, or delete that file",
        )
