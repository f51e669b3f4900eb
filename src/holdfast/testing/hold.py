"""How a check says what is broken."""

from __future__ import annotations


class ContractError(AssertionError):
    """A method breaks its contract; the text says where and what to do."""


def hold(condition: object, said: str) -> None:
    """Raise `ContractError` with `said` unless the condition is true."""
    if not condition:
        raise ContractError(said)
