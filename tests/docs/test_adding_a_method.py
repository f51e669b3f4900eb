"""docs/adding-a-method.md, followed in a clean clone: files, contract, lint, types, a study."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.trajectory.make import FAMILIES

from holdfast.cli import run as command
from holdfast.cli.verbs.new import EXAMPLES, TESTS, template

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-method.md"
BLOCK = re.compile(r"<!-- (\S+) -->\n```(?:python|yaml)\n(.*?)```", re.DOTALL)


def blocks() -> dict[str, str]:
    """Give the page's files: path -> text."""
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


def run(folder: Path, *command: str, more: str = "") -> str:
    """Run a command in the clone with its own code first on the path."""
    path = os.pathsep.join([str(folder / "src"), str(folder), *([more] if more else [])])
    environment = os.environ | {"PYTHONPATH": path, "HOLDFAST_VENV": sys.prefix}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def clone(root: Path, folder: Path) -> Path:
    """Copy what git keeps or would keep, so that a change is tested before it is committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() and not name.startswith("studies/world/rows"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


def test_the_page_shows_what_the_command_writes() -> None:
    found = blocks()
    assert len(found) == 9
    for kind, name in EXAMPLES.items():
        method = next(text for path, text in found.items() if path.endswith(f"/{name}.py"))
        assert method == template(f"{kind}.py", kind, name)
        test = found[f"{TESTS[kind]}/test_{name}.py"]
        assert test == template(f"{kind}_test.py", kind, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_holds_in_a_clean_clone(tmp_path: Path, root: Path) -> None:
    folder = clone(root, tmp_path / "a clone")
    before = {path for path in folder.rglob("*") if path.is_file()}
    for kind, name in EXAMPLES.items():
        said = run(folder, "-m", "holdfast", "new", kind, name)
        assert len(said.splitlines()) == 4
    for path, text in blocks().items():
        if path != "study.yaml":
            assert (folder / path).read_text(encoding="utf-8") == text, path
    run(folder, "-m", "tests.trajectory.make", EXAMPLES["defence"])
    run(folder, "-m", "holdfast", "ls", "--into", "README.md")
    names = " or ".join(EXAMPLES.values())
    found = run(
        folder, "-m", "pytest", "-q", "tests/contract", "-k", names, "-p", "no:cacheprovider"
    )
    assert "passed" in found
    tests = [f"{TESTS[kind]}/test_{name}.py" for kind, name in EXAMPLES.items()]
    run(folder, "-m", "pytest", "-q", *tests, "tests/docs/test_readme.py", "-p", "no:cacheprovider")
    run(folder, "dev.py", "lint")
    (folder / "study.yaml").write_text(blocks()["study.yaml"])
    run(folder, "-m", "holdfast", "run", "study.yaml", "--workers", "1")
    with (folder / "runs/additions/rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["lineup"] for row in rows} == {"none", "tether"}
    assert {row["attack"] for row in rows} >= {"harmful_sft", "jitter"}
    assert {row["judge"] for row in rows} >= {"world_rubric", "word_count"}
    assert "proverbs" in {row["set"] for row in rows}
    assert "tether" in (folder / "runs/additions/report.html").read_text()
    written = {
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }
    new = {path.relative_to(folder).as_posix() for path in written - before}
    new = {path for path in new if not path.startswith(("runs/", ".", "study.yaml"))}
    pages = {f"docs/fidelity/{name}.md" for name in EXAMPLES.values()}
    pages |= {f"tests/trajectory/{EXAMPLES['defence']}-{family}.json" for family in FAMILIES}
    assert new == {path for path in blocks() if path != "study.yaml"} | pages


@pytest.mark.parametrize(("kind", "name"), EXAMPLES.items())
def test_a_package_of_ones_own_keeps_the_contract(
    kind: str, name: str, tmp_path: Path, root: Path
) -> None:
    run(tmp_path, "-m", "holdfast", "new", kind, name, "--out", "mypackage", more=str(root / "src"))
    package = tmp_path / "mypackage"
    own = f'{name} = "mypackage.{name}:{"".join(p.capitalize() for p in name.split("_"))}"'
    assert own in (package / "pyproject.toml").read_text()
    about = package / "mypackage-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    group = {"source": "sources"}.get(kind, f"{kind}s")
    (about / "entry_points.txt").write_text(f"[holdfast.{group}]\n{own.replace(chr(34), '')}\n")
    path = os.pathsep.join([str(package), str(root / "src")])
    listed = run(tmp_path, "-m", "holdfast", "ls", kind, more=path)
    assert re.search(rf"{name} +\[mypackage\]", listed)
    run(package, "-m", "pytest", "-q", "tests", "-p", "no:cacheprovider", more=path)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["judge", "9 lives"], "9 lives: is no name for a method; use small letters, digits and _"),
        (["judge", "class"], "class: is no name for a method; use small letters, digits and _"),
        (["defence", "sgt"], "sgt: there is a defence of this name; choose another"),
        (["sword", "x"], "sword: no such kind of method; known: attack, defence, judge, source"),
        (
            ["judge", "mine", "--out", "9pk"],
            "--out 9pk: '9pk' is no name for a package; end it in small letters, digits and _",
        ),
        (
            ["judge", "mine"],
            "new: this folder is in no checkout of Holdfast; give --out FOLDER",
        ),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["new", *words]) == 2
    assert capsys.readouterr().err == f"holdfast: {line}\n"
    assert not list(tmp_path.iterdir())
