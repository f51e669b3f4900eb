"""Methods are found by file name inside the package and by entry point outside it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from holdfast.api import registry
from holdfast.errors import ConfigError

PLUGINS = {
    "good_one": '''
"""A plugin that works."""

from __future__ import annotations

from holdfast.api import WeightDefence


class GoodOne(WeightDefence):
    """A defence from elsewhere."""

    strength: float = 0.5
    """How much."""
''',
    "broken_one": "raise RuntimeError('no luck')\n",
    "not_one": "class NotOne:\n    pass\n",
    "renamed": "from good_one import GoodOne\n",
}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution with four entry points, one of them sound."""
    for name, text in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    record = tmp_path / "elsewhere-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(
        "[holdfast.defences]\ngood_one = good_one:GoodOne\nbroken_one = broken_one:Broken\n"
        "not_one = not_one:NotOne\nrenamed = renamed:GoodOne\ngone = no_such_module:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in PLUGINS:
        sys.modules.pop(name, None)


def test_every_kind_lists_the_files_of_its_folder_in_order():
    root = Path(registry.__file__).parents[1]
    for kind, (folder, base) in registry.KINDS.items():
        own, group = root / folder.replace(".", "/"), folder.rpartition(".")[2]
        folders = [own, *root.glob(f"testbeds/*/{group}")]
        files = {p.stem for one in folders for p in one.glob("[a-z]*.py")}
        files |= {p.parent.name for one in folders for p in one.glob("[a-z]*/__init__.py")}
        assert files == set(registry.names(kind))
        assert registry.names(kind) == sorted(registry.names(kind))
        for name in sorted(files):
            found = registry.find(kind, name)
            assert issubclass(found, base)
            assert found.name() == name
            assert registry.origin(kind, name) == "holdfast"
            assert found.__doc__


def test_every_field_of_every_method_is_documented():
    for kind in registry.KINDS:
        for name in registry.names(kind):
            fields = registry.find(kind, name).model_fields
            assert not [field for field, info in fields.items() if not info.description], name


def test_a_plugin_is_listed_found_and_made(plugins: Path):
    assert "good_one" in registry.names("defence")
    assert registry.origin("defence", "good_one") == "elsewhere"
    method = registry.make("defence", {"good_one": {"strength": 0.25}}, "lineups.a[0]")
    assert method.identity()["fields"] == {"strength": 0.25}
    assert registry.make("defence", "good_one", "x") == registry.make(
        "defence", {"good_one": None}, "x"
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "good_noe",
            "lineups.a[0]: no defence 'good_noe'; did you mean 'good_one'?",
        ),
        (
            "broken_one",
            "lineups.a[0]: plugin 'broken_one:Broken' cannot be imported (RuntimeError: no luck); "
            "mend or uninstall it",
        ),
        (
            "gone",
            "lineups.a[0]: plugin 'no_such_module:Gone' cannot be imported (ModuleNotFoundError: "
            "No module named 'no_such_module'); mend or uninstall it",
        ),
        (
            "not_one",
            "lineups.a[0]: plugin 'not_one:NotOne' is no Defence; derive it from Defence",
        ),
        (
            "renamed",
            "lineups.a[0]: plugin 'renamed:GoodOne' lives in a file named 'good_one'; "
            "give file and entry point the same name",
        ),
    ],
)
def test_a_method_that_cannot_be_had_gets_one_line(plugins: Path, name: str, line: str):
    with pytest.raises(ConfigError) as caught:
        registry.make("defence", name, "lineups.a[0]")
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            {"good_one": {"stregnth": 1.0}},
            "a[0].good_one.stregnth: unknown field; did you mean 'strength'?",
        ),
        (
            {"good_one": {"preset": "papre"}},
            "a[0].good_one.preset: no preset 'papre'; known: clean",
        ),
        (
            {"good_one": {}, "lox": {}},
            "a[0]: expected one defence, got {'good_one': {}, 'lox': {}}; "
            "write `name` or `name: {field: value}`",
        ),
        (7, "a[0]: expected one defence, got 7; write `name` or `name: {field: value}`"),
        (None, "a[0]: expected one defence, got None; write `name` or `name: {field: value}`"),
    ],
)
def test_a_misspelt_method_gets_one_line(plugins: Path, data: object, line: str):
    with pytest.raises(ConfigError) as caught:
        registry.make("defence", data, "a[0]")
    assert str(caught.value) == line


def test_an_unknown_kind_gets_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        registry.names("attak")
    assert str(caught.value) == "attak: no such kind of method; did you mean 'attack'?"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\n", "has no docstring on its first line; say in one what the method does"),
        ('x = """\n', "is no Python"),
        ("# (c)\n'''What it does.\n\nMore.\n'''\n", ""),
    ],
)
def test_an_untidy_file_is_named_and_a_tidy_one_is_read_whatever_its_quotes(
    text: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / f"untidy_{len(text)}"  # a name of its own: modules are kept
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "odd.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "_inside", lambda _kind: {"odd": f"{package.name}.odd"})
    if not line:
        assert registry.about("defence", "odd") == "What it does."
        return
    with pytest.raises(ConfigError) as caught:
        registry.about("defence", "odd")
    assert str(caught.value).startswith(f"{package / 'odd.py'}: {line}")
