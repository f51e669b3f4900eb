"""How the code is laid out: files and functions small enough to read, privacy kept, types said.

Each list of exceptions says why, and can only shrink: an entry that no longer offends fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST_FILE, LONGEST_FUNCTION = 500, 60
OPTIONS = "one parameter for each option of the command"

FILES: dict[str, str] = {}
"""Files that may be longer than 500 lines, and why."""

FUNCTIONS: dict[tuple[str, str], str] = {
    ("cli/verbs/attack.py", "attack"): OPTIONS,
    ("cli/verbs/defend.py", "defend"): OPTIONS,
    ("cli/verbs/generate.py", "generate"): OPTIONS,
}
"""Functions that may be longer than 60 lines, and why."""

REACHED: dict[tuple[str, str], str] = {
    ("engine/worker.py", "os._exit"): "Python's own way to end a process that must not clean up",
    ("nn/adapter.py", "layer._parameters"): "torch has no public way to take a parameter off",
    ("nn/head.py", "head._forward_hooks"): "torch has no public list of a module's hooks",
    ("nn/head.py", "head._forward_pre_hooks"): "as above",
    ("nn/passes.py", "module._forward_hooks"): "as above",
    ("testing/attacks.py", "m._forward_hooks"): "as above",
    ("testing/attacks.py", "m._forward_pre_hooks"): "as above",
    ("testing/defences.py", "m._forward_hooks"): "as above",
    ("testing/defences.py", "m._forward_pre_hooks"): "as above",
    ("nn/skeleton.py", "model._adjust_missing_and_unexpected_keys"): "what loading itself lets be",
    ("nn/weights.py", "model._get_dtype_plan"): "the only word on what stays in fp32",
    ("nn/passes.py", "config._attn_implementation"): "the only name transformers reads",
}
"""Private names of others that are reached, and why."""


@pytest.fixture(scope="module")
def source(root: Path) -> Path:
    return root / "src" / "holdfast"


@pytest.fixture(scope="module")
def modules(source: Path) -> dict[str, tuple[str, ast.Module]]:
    """Give the text and the syntax of each module by its path."""
    texts = {p.relative_to(source).as_posix(): p.read_text("utf-8") for p in source.rglob("*.py")}
    return {name: (text, ast.parse(text)) for name, text in texts.items()}


Modules = dict[str, tuple[str, ast.Module]]


def test_no_file_is_too_long_to_read(modules: Modules) -> None:
    long = {n for n, (text, _) in modules.items() if text.count("\n") > LONGEST_FILE}
    assert sorted(long - set(FILES)) == [], "split it"
    assert sorted(set(FILES) - long) == [], "no longer too long: strike it off the list"


def test_no_function_is_too_long_to_read(modules: Modules) -> None:
    long = {
        (name, node.name)
        for name, (_, tree) in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert sorted(long - set(FUNCTIONS)) == [], "split it"
    assert sorted(set(FUNCTIONS) - long) == [], "no longer too long: strike it off the list"


def private(name: str) -> bool:
    """Say whether a name is private: one underscore before it."""
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """Give every name that a module itself gives to something: classes' attributes too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            found.add(node.attr)
    return found


def reached(tree: ast.Module) -> Iterator[str]:
    """Name the private things of elsewhere that a module imports or reaches."""
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{a.name}" for a in node.names if private(a.name))
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield f"{ast.unparse(node.value)}.{node.attr}"


def test_what_is_private_stays_in_its_module(modules: Modules) -> None:
    found = {(name, what) for name, (_, tree) in modules.items() for what in reached(tree)}
    assert sorted(found - set(REACHED)) == [], "make it public or move it"
    assert sorted(set(REACHED) - found) == [], "no longer reached: strike it off the list"


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("from holdfast.nn.states import _count", ["holdfast.nn.states._count"]),
        ("from holdfast.nn import passes\npasses._NOW.get()", ["passes._NOW"]),
        ("def f(defence): defence._batches()", ["defence._batches"]),
        ("class A:\n  def _a(self): ...\n  def b(self, other): self._a(); other._a()", []),
        ("from __future__ import annotations\nx.__dict__", []),
    ],
)
def test_the_check_of_privacy_sees_each_way_around_it(code: str, what: list[str]) -> None:
    assert list(reached(ast.parse(code))) == what
