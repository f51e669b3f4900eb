"""What every swappable part has in common: a method is a frozen model in a file bearing its name.

Its fields are its hyper-parameters; the file name is registry key, YAML key, command-line word and
row label.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from holdfast.api.fields import Fields, lay_over
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.data.pool import Pool


class Stage(StrEnum):
    """When a defence acts."""

    ALIGN = "align"
    TUNE = "tune"
    REPAIR = "repair"


class Control(StrEnum):
    """What an attacker holds, or an attack needs at least. The two never share a table."""

    DATA = "data"
    WEIGHTS = "weights"


class Method(Fields):
    """A defence, attack, judge or source. Its registry key is the name of its file."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same fields would give other numbers."""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    """Fields at which a defence equals plain fine-tuning (or changes nothing)."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other named settings than `clean`, the defaults: usually `paper` and `released`."""
    status: ClassVar[str] = ""
    """What has been checked of it, in a few words: README's table says it."""
    fidelity: ClassVar[str] = ""
    """What was read of the original, where ours differs, and whether its numbers came out again."""

    @classmethod
    def name(cls) -> str:
        """Give the registry key: the last part of the module's name."""
        return cls.__module__.rpartition(".")[2]

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: object) -> object:
        """Fill in a preset's fields where the user gave none."""
        if not isinstance(data, dict) or "preset" not in data or "preset" in cls.model_fields:
            return data
        given = dict(data)
        preset = given.pop("preset")
        if preset != "clean" and preset not in cls.presets:
            raise ConfigError(
                "preset",
                f"no preset '{preset}'",
                "known: " + ", ".join(["clean", *cls.presets]),
            )
        return lay_over(cls.presets.get(preset, {}), given)

    def sees(self, pool: Pool) -> Pool:
        """Give the rows it may see: all of the pool's, unless its fields say otherwise.

        Raises:
            ConfigError: a field names rows that are not there.
        """
        return pool

    def identity(self) -> dict[str, Any]:
        """Give what a key is made of: kind, name, version and the fields that matter."""
        return {
            "kind": self.kind,
            "name": self.name(),
            "version": self.version,
            "fields": self.key_fields(),
        }
