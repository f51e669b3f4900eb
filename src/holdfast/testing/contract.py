"""The door of the contract: one function a kind, and the list of its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TypeVar

from holdfast.api import Attack, Defence, Judge, Method, Source
from holdfast.testing import attacks, defences, judges, methods, sources
from holdfast.testing.hold import ContractError

Check = Callable[[Method], None]
"""One promise: takes a method, raises `ContractError` where it does not keep it."""

CHECKS: dict[str, tuple[type[Method], Sequence[FunctionType]]] = {
    "defence": (Defence, (*methods.CHECKS, *defences.CHECKS)),
    "attack": (Attack, (*methods.CHECKS, *attacks.CHECKS)),
    "judge": (Judge, (*methods.CHECKS, *judges.CHECKS)),
    "source": (Source, (*methods.CHECKS, *sources.CHECKS)),
}
Kind = TypeVar("Kind", bound=Method)


def checks_of(kind: str) -> dict[str, Check]:
    """Give the checks of a kind (`defence`, `attack`, `judge`, `source`) by name."""
    return {check.__name__: check for check in CHECKS[kind][1]}


def check_defence(method: Defence | type[Defence]) -> None:
    """Check a defence, by its class or with the fields it should be checked at.

    Raises:
        ContractError: each broken promise, one line each.
    """
    _check("defence", method)


def check_attack(method: Attack | type[Attack]) -> None:
    """Check an attack, as `check_defence` does a defence."""
    _check("attack", method)


def check_judge(method: Judge | type[Judge]) -> None:
    """Check a judge, as `check_defence` does a defence; it is opened, asked and closed."""
    _check("judge", method)


def check_source(method: Source | type[Source]) -> None:
    """Check a source, as `check_defence` does a defence; all its rows are read."""
    _check("source", method)


def _check(kind: str, given: Method | type[Method]) -> None:
    base, checks = CHECKS[kind]
    cls = given if isinstance(given, type) else type(given)
    if not issubclass(cls, base):
        raise ContractError(
            f"{cls.__name__}: is no {base.__name__}; derive it from {base.__name__}"
        )
    method = given() if isinstance(given, type) else given
    broken = []
    for check in checks:
        try:
            check(method)
        except Exception as error:  # a method may break its promise in any way
            words = (
                str(error)
                if isinstance(error, ContractError)
                else f"{type(error).__name__}: {error}"
            )
            broken.append(f"{method.name()}: {check.__name__}: {' '.join(words.split())}")
    if broken:
        raise ContractError("\n".join(broken))
