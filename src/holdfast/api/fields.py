"""From YAML to frozen, strict models; a wrong word gets one line and a suggestion."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)

from holdfast.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NO_EFFECT: dict[str, Any] = {"affects_result": False}
"""`json_schema_extra` of a field that cannot change a result: it is left out of the key."""

LATER: dict[str, Any] = {"enters_key": "when changed"}
"""`json_schema_extra` of a choice that came after results existed, its default being what was
always done: it enters the key only where it differs, so finished results stay valid."""


def was(value: object) -> dict[str, Any]:
    """Give the `json_schema_extra` of a later choice whose default is another than `value`, which
    is what was done before there was one: it enters the key only where it differs from that.
    """
    return {"enters_key": "when changed", "was": value}


_SPELLINGS = {"defense": "defence", "defenses": "defences", "optimizer": "optimiser"}


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


AsTuple = BeforeValidator(_as_tuple)
"""Annotate a tuple field with this: YAML and JSON know only lists."""


class _OneLine(type(BaseModel)):
    """Gives a mistake made in Python the one line that it has in a study file."""

    if not TYPE_CHECKING:  # a checker reads what a class is made from off its fields

        def __call__(cls, *values: object, **named: object) -> object:
            """Make one; what is wrong with its fields is a ConfigError."""
            try:
                return super().__call__(*values, **named)
            except ValidationError as error:
                raise explain(error, cls, cls.__name__) from None


class Fields(BaseModel, metaclass=_OneLine):
    """A frozen group of documented fields; strict types, nothing unknown accepted.

    Raises:
        ConfigError: an unknown field, with the nearest known one, or a value it cannot take.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, data: object) -> object:
        """Let a group given in part keep the other defaults of the field it stands in.

        `loop: {lr: 0.1}` changes a method's rate and leaves the steps its author chose.
        """
        if not isinstance(data, dict):
            return data
        groups = {
            name: info.default
            for name, info in cls.model_fields.items()
            if isinstance(info.default, Fields)
        }
        return {name: lay_over(groups.get(name), value) for name, value in data.items()}

    def with_(self, **changes: object) -> Self:
        """Give a copy with some fields changed, checked like any other.

        Raises:
            ConfigError: as when it is made.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(given | changes))

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        """Show the fields that are not their default."""
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if info.is_required() or value != info.default:
                yield name, value

    def key_fields(self) -> dict[str, Any]:
        """Give every field that can change a result, defaults included, as plain JSON data.

        A field marked `LATER` is left out at its default, one marked `was` at what it was.
        """
        plain = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            value = getattr(self, name)
            later = "enters_key" in extra and value == extra.get("was", info.default)
            if extra.get("affects_result") is False or later:
                plain.pop(name)
            elif isinstance(value, Fields):
                plain[name] = value.key_fields()
        return plain


def lay_over(default: object, given: object) -> object:
    """Lay a group given in part over a whole one (a model or plain data), in depth."""
    if isinstance(default, Fields):
        default = {name: getattr(default, name) for name in type(default).model_fields}
    if not (isinstance(default, Mapping) and isinstance(given, dict)):
        return given
    return {**default, **{name: lay_over(default.get(name), v) for name, v in given.items()}}


Model = TypeVar("Model", bound=BaseModel)


LARGEST = 2**19
"""Bytes of the largest file of fields that is read; ours: a study of 200 line-ups has 50 000."""
DEEPEST = 50
"""How deep fields may stand in each other; ours."""
MOST = 200_000
"""Values that a file of fields may hold, each alias counted as what it stands for; ours."""
_LONG_NUMBER = re.compile(r"(?<![\w.'\"])[+-]?[0-9_]{40,}(?![\w.])")


def load_yaml(path: Path | str) -> Any:  # noqa: ANN401  (a document holds anything)
    """Read one YAML 1.2 document of bounded size.

    Raises:
        ConfigError: broken syntax, with its line; a key that is there twice; no regular file, or
            one that is too large.
    """
    where, path = str(path), Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigError(where, "is no regular file", "name a YAML file")
        if path.is_file() and path.stat().st_size > LARGEST:
            size = path.stat().st_size >> 10
            what = f"has {size} KiB, at most {LARGEST >> 10} are read"
            raise ConfigError(where, what, "shorten it")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(where, "no such file", "check the path") from None
    except IsADirectoryError:
        raise ConfigError(where, "is a folder", "name a YAML file") from None
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is no UTF-8"
        raise ConfigError(where, what, "write the file as UTF-8") from None
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "its name is none"
        raise ConfigError(where[:200], f"cannot be read ({what.lower()})", "check it") from None
    return parse_yaml(text, where)


def parse_yaml(text: str, where: str) -> Any:  # noqa: ANN401  (as above)
    """Parse YAML 1.2 text that came from `where`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if (long := _LONG_NUMBER.search(text)) is not None:
        line = text.count("\n", 0, long.start()) + 1
        what = f"a number has {len(long[0])} digits"
        raise ConfigError(f"{where}:{line}", what, "write fewer, or put text in quotes")
    try:
        found = YAML(typ="safe", pure=True).load(io.StringIO(text))
        _bounded(found, where)
        return _whole(found, where) if "\\" in text else found
    except RecursionError:
        raise ConfigError(where, "fields stand too deep in each other", "use fewer") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        what = (error.problem or "broken YAML").split("\n")[0]
        raise ConfigError(f"{where}{line}", what, "mend the YAML there") from None
    except YAMLError as error:
        what = str(error).splitlines()[0]
        raise ConfigError(where, what, "mend the YAML") from None
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        # The reader's own: a date that is none, a key that is a list.
        what = f"a value cannot be read ({type(error).__name__})"
        raise ConfigError(where, what, "put text in quotes") from None


def _bounded(value: object, where: str) -> None:
    """Refuse data that is too deep or, with its aliases written out, too much."""
    todo, seen = [(value, 0)], 0
    while todo:
        one, depth = todo.pop()
        seen += 1
        if depth > DEEPEST:
            raise ConfigError(where, "fields stand too deep in each other", "use fewer")
        if seen > MOST:
            raise ConfigError(where, f"holds more than {MOST} values", "use fewer, or no aliases")
        if isinstance(one, dict):
            todo += [(inner, depth + 1) for pair in one.items() for inner in pair]
        elif isinstance(one, list | tuple | set):
            todo += [(inner, depth + 1) for inner in one]


def _whole(value: object, where: str) -> object:
    """Give data whose text has every character whole.

    JSON spells a character beyond U+FFFF as two halves, which YAML's reader leaves apart.
    """
    if isinstance(value, dict):
        return {_whole(name, where): _whole(inner, where) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner, where) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        text = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        cause = "text holds half a surrogate pair, which is no character"
        raise ConfigError(where, cause, "write the character whole, or take it out") from None
    if "\0" in text:
        raise ConfigError(where, "text holds a NUL character", "take it out")
    return text


def decode(model: type[Model], data: object, where: str) -> Model:
    """Make a model from plain data; the first mistake becomes one line that names its place."""
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            where, f"expected fields, got {_show(data)}", "write `name: value` lines under it"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error, model, where) from None
    except ConfigError as error:  # raised by a field's own check, which knows no outer place
        raise ConfigError(f"{where}.{error.where}", error.what, error.todo) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    """Turn pydantic's first complaint into a ConfigError: unknown names come first."""
    problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    first = problems[0]
    path = _path(where, first)
    kind = first["type"]
    if kind == "extra_forbidden":
        owner = _owner(model, first["loc"][:-1])
        word = str(first["loc"][-1])
        if _SPELLINGS.get(word) in owner:
            return ConfigError(path, "unknown field", f"did you mean '{_SPELLINGS[word]}'?")
        return ConfigError(path, "unknown field", did_you_mean(word, owner))
    if kind == "missing":
        return ConfigError(path, "is required", "add it")
    # A field of several kinds complains once for each: every sort of complaint is told.
    said: dict[str, str] = {}
    for problem in problems:
        if _path(where, problem) == path:
            said.setdefault(problem["type"], _plain(problem))
    message = " or ".join(dict.fromkeys(said.values()))
    return ConfigError(path, f"got {_show(first['input'])}", f"it should be {message}")


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$"
"""What a user may call a study or a part of it: it becomes a folder's name."""
KIND = re.compile(r"(constrained|function|lax|json)-|tuple\[|(str|int|float|bool)$")
"""How pydantic names the kinds of a union in a place: no word of the user's."""


def _path(where: str, problem: ErrorDetails) -> str:
    """Give the place of a complaint as the user wrote it."""
    parts = [str(part) for part in problem["loc"]]
    if parts[-1:] == ["[key]"]:  # a name is wrong: it is what the line says it got
        parts = parts[:-2]
    return ".".join([where, *(part for part in parts if not KIND.match(part))])


def _plain(problem: ErrorDetails) -> str:
    """Say what a value should be, in words that need no pydantic."""
    about = problem.get("ctx", {})
    match problem["type"]:
        case "tuple_type" | "list_type":
            given = problem["input"]
            one = isinstance(given, str | int | float) and len(str(given)) <= 60
            return f"a list, such as [{given}]" if one else "a list: begin each entry with '- '"
        case "too_short":
            return f"a list with at least {about['min_length']} in it"
        case "too_long":
            return f"a list with at most {about['max_length']} in it"
        case "string_too_short":
            return f"text of at least {about['min_length']} characters"
        case "string_pattern_mismatch" if about["pattern"] == r"\S":
            return "text that says something"
        case "string_pattern_mismatch" if about["pattern"] == NAME:
            return "a name of letters, digits and _ . + - (a letter or digit first; at most 100)"
        case "string_pattern_mismatch":
            return f"text of the form {about['pattern']}"
        case "model_type" | "dict_type" | "model_attributes_type" | "dataclass_type":
            return "fields, such as {name: value}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return message.removeprefix("value error, ").removeprefix("input should be ")


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Give the field names of the model that the path `loc` leads to."""
    owner: Any = model
    for part in loc:
        if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
            return set()
        info = owner.model_fields.get(str(part))
        if info is None:
            return set()
        owner = info.annotation
        for choice in getattr(owner, "__args__", ()):
            if isinstance(choice, type) and issubclass(choice, BaseModel):
                owner = choice
                break
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        return set(owner.model_fields)
    return set()


def _show(value: object) -> str:
    """Show a value as a user wrote it, cut short."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."
