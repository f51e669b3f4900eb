"""What every method promises, whatever its kind: fields, identity, a trip through YAML."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.api import Fields, FineTuning, Loop, Method, registry
from holdfast.api.fields import decode, parse_yaml
from holdfast.errors import ConfigError
from holdfast.testing.hold import hold

if TYPE_CHECKING:
    from typing import Any

Short = TypeVar("Short", bound=Method)
SHORTEST = 10
"""Letters of a field's description that say nothing yet."""


def groups(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Give a method's class and the classes of its nested groups."""
    yield cls
    for info in cls.model_fields.values():
        if isinstance(info.default, Fields):
            yield from groups(type(info.default))


def every_field_is_documented(method: Method) -> None:
    """Its class and each of its fields, at any depth, has a docstring."""
    for group in groups(type(method)):
        hold(group.__doc__, f"{group.__name__} has no docstring; say what it is in its first line")
        for name, info in group.model_fields.items():
            said = info.description or ""
            hold(
                len(said) > SHORTEST,
                f"field {group.__name__}.{name} has no docstring; say what it means, its unit and "
                "the source of its default",
            )


def text_of(method: Method) -> str:
    """Give a method as a study file would hold it."""
    from ruamel.yaml import YAML

    out = io.StringIO()
    YAML(typ="safe", pure=True).dump({method.name(): method.model_dump(mode="json")}, out)
    return out.getvalue()


def it_survives_a_trip_through_yaml(method: Method) -> None:
    """Written into a study file and read again it is the same method, under every preset."""
    made = [method, *(_preset(type(method), name) for name in type(method).presets)]
    for one in made:
        data = parse_yaml(text_of(one), "contract")
        again = decode(type(one), data[one.name()], "contract")
        hold(again == one, f"read back from YAML it differs: {text_of(again)!r}")
        hold(again.identity() == one.identity(), "read back from YAML its identity differs")


def _preset(cls: type[Method], name: str) -> Method:
    return cls.model_validate({"preset": name})


def its_presets_are_all_different(method: Method) -> None:
    """No preset is the defaults or another preset under a new name."""
    cls = type(method)
    if not cls.presets:
        return
    names = ["clean", *cls.presets]
    made = [_preset(cls, name) for name in names]
    for i, one in enumerate(made):
        for j in range(i):
            hold(one != made[j], f"presets '{names[i]}' and '{names[j]}' are the same; drop one")


def its_identity_follows_every_field_that_matters(method: Method) -> None:
    """A field that can change a result is in the identity, one marked `NO_EFFECT` is not."""
    plain = str(method.identity())
    for name, changed, matters in changes(method):
        same = str(changed.identity()) == plain
        if name == "loop.steps" and isinstance(method, FineTuning):
            continue  # it matters where the rate falls; `testing.attacks` checks that
        if matters:
            hold(not same, f"changing {name} leaves the identity as it was; old results would stay")
        else:
            hold(same, f"{name} is marked NO_EFFECT and changes the identity; drop the mark")


def changes(
    group: Fields, above: str = "", matters: bool = True
) -> Iterator[tuple[str, Any, bool]]:
    """Give, for each field at any depth, the whole group with it changed, and whether it matters.

    A field of which no other value is found is left out.
    """
    for name, info in type(group).model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        counts = matters and extra.get("affects_result") is not False
        value, place = getattr(group, name), f"{above}{name}"
        if isinstance(value, Fields):
            for deep, other, deeper in changes(value, f"{place}.", counts):
                try:
                    yield deep, group.with_(**{name: other}), deeper
                except (ConfigError, ValidationError):
                    continue
            continue
        for other in (*_others(value), *getattr(info.annotation, "__args__", ())):
            try:
                changed = group.with_(**{name: other})
            except (ConfigError, ValidationError, TypeError):
                continue
            if changed != group:
                yield place, changed, counts
                break


def _others(value: object) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2]
    if isinstance(value, tuple):
        return [value[:-1], (*value, *value[-1:]), (0.0, 0.5)]
    if isinstance(value, str):
        return [f"{value} more"]
    return [1, 0.5, "some words", (0.0, 0.5), {"rank": 2}]


def it_is_frozen_and_refuses_what_it_does_not_know(method: Method) -> None:
    """No field can be set on a made method, and an unknown one is refused with its name."""
    try:
        decode(type(method), {"no_such_field": 1}, "contract")
    except ConfigError as error:
        hold("no_such_field: unknown field" in str(error), f"an unknown field says '{error}'")
    else:
        hold(False, "takes a field it does not have; keep `extra='forbid'`")
    for name in type(method).model_fields:
        try:
            setattr(method, name, getattr(method, name))
        except ValidationError:
            continue
        hold(False, f"{name} can be set on a made method; keep it frozen")


def its_key_is_its_files_name(method: Method) -> None:
    """Its registry key, its identity and its version agree."""
    cls, identity = type(method), method.identity()
    hold(cls.name().isidentifier(), f"'{cls.name()}' is no name a YAML key and a file can share")
    hold(identity["kind"] in registry.KINDS, f"its kind '{identity['kind']}' is not known")
    hold(identity["name"] == cls.name(), f"identity says '{identity['name']}', file {cls.name()}")
    hold(identity["version"] == cls.version, "its identity has another version than its class")


CHECKS = (
    every_field_is_documented,
    it_survives_a_trip_through_yaml,
    its_presets_are_all_different,
    its_identity_follows_every_field_that_matters,
    it_is_frozen_and_refuses_what_it_does_not_know,
    its_key_is_its_files_name,
)


def short(method: Short, loop: Loop, **fields: object) -> Short:
    """Give a method with each loop among its own fields cut to `loop`, and some fields changed."""
    loops = {
        name: loop
        for name in type(method).model_fields
        if isinstance(getattr(method, name), Loop) and name not in fields
    }
    return method.with_(**(loops | fields))
