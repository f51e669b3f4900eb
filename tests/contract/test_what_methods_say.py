"""What this repository's methods say of themselves, beyond the contract that any method keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.api import Defence, registry
from holdfast.cli import run as command
from holdfast.cli.verbs.ls import BEGIN, END, table

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=registry.names("defence"))
def kind(request: pytest.FixtureRequest) -> type[Defence]:
    found = registry.find("defence", request.param)
    assert issubclass(found, Defence)
    return found


def test_the_readme_has_the_table_of_the_registry() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    assert inside == table(list(registry.KINDS)), "run `holdfast ls --into README.md`"


def test_every_method_says_what_was_checked_of_it_and_each_defence_and_attack_has_a_page() -> None:
    for one in registry.KINDS:
        for name in registry.names(one):
            assert registry.find(one, name).status, name
            if one in ("defence", "attack"):
                assert (ROOT / "docs/fidelity" / f"{name}.md").is_file(), name


@pytest.mark.parametrize("text", [None, "# no marks\n"])
def test_a_table_needs_a_file_with_its_marks(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    assert command(["ls", "--into", str(path)]) == 2
    said = capsys.readouterr().err
    what = "cannot be read" if text is None else "has no place for the table; write <!-- methods"
    assert what in said
    assert path.exists() is (text is not None)
    assert text is None or path.read_text() == text


def test_show_tells_equation_paper_roles_cost_fidelity_and_every_field(
    kind: type[Defence], capsys: pytest.CaptureFixture[str]
) -> None:
    name = kind.__module__.rpartition(".")[2]
    assert command(["show", name]) == 0
    said = capsys.readouterr().out
    for label in ("equation", "paper", "cost"):
        assert getattr(kind, label)
        assert f"\n  {label}: {getattr(kind, label)}\n" in said
    assert kind.fidelity
    page = f"docs/fidelity/{name}.md"
    assert f"\n  fidelity: {kind.fidelity} ({page})\n" in said
    assert (ROOT / page).is_file()
    if kind.roles:
        assert f"\n  roles: {', '.join(kind.roles)}\n" in said
    for field in kind.model_fields:
        assert f"\n    {field}" in said


def test_every_method_is_imported_and_described_without_torch() -> None:
    code = (
        "import sys\n"
        "from holdfast.api import registry\n"
        "for kind in ('defence', 'attack', 'judge', 'source'):\n"
        "    for name in registry.names(kind):\n"
        "        found = registry.find(kind, name)\n"
        "        found.model_json_schema()\n"
        "        if kind in ('defence', 'attack'):\n"
        "            found().identity()\n"
        "late = [m for m in ('torch', 'transformers', 'numpy', 'scipy') if m in sys.modules]\n"
        "sys.exit(', '.join(late) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
