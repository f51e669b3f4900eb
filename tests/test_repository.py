"""The repository says what is true of itself. Lint, types, imports, spelling: dev.py runs them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import runpy
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from holdfast.api.registry import KINDS, names

ELSEWHERE = {  # in pieces, or this file would name them too
    "a path of somebody's machine": r"(?<![\w.])/(?:wo" + r"rk|ho" + r"me|ro" + r"ot|op" + r"t)/",
    "a temporary folder": r"(?<![\w.])/t" + r"mp/",
    "a package registry": r"pyp" + r"i\.org|python" + r"hosted\.org|download\.pytorch" + r"\.org",
}
UNSEEN = (
    r"(?i)\bregis"
    + r"ter 9\b|\bdesi"
    + r"gn \d|\biss"
    + r"ues? #?\d|\b(?:ecosystem|free-tier) no"
    + r"tes"
    r"|\bdoss" + r"ier|\b9\.[A-F]\b|(?<![\w/])meth" + r"ods/\w+\.md"
)
"""What only the writers of this repository could look up: pages that it does not hold."""
HISTORY = {"LOG.md", "CHANGELOG.md"}
"""Told as it was on the day: paths have moved since. Its links are held like any other's."""
FOLDERS = "benchmarks|docs|src|studies|tests"
ALLOWED = {("dev.py", "a package registry"): 1}
"""dev.py names PyTorch's public index of CPU wheels, once."""


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in listing.stdout.split("\0") if name and (root / name).is_file()]


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def dev(root: Path) -> dict:
    return runpy.run_path(str(root / "dev.py"))


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def test_no_tracked_file_names_a_machine_path_or_a_registry(tracked: list[Path], root: Path):
    found = []
    for path in tracked:
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        name, text = path.relative_to(root).as_posix(), data.decode("utf-8", "replace")
        for what, pattern in ELSEWHERE.items():
            hits = re.findall(pattern, text)
            if len(hits) > ALLOWED.get((name, what), 0):
                found.append(f"{name}: {what}: {hits[0]}")
    assert not found


def test_no_tracked_file_is_large(tracked: list[Path], root: Path):
    assert sum(path.stat().st_size for path in tracked if path.suffix == ".safetensors") < 14e6
    most = {".safetensors": 14e6, ".parquet": 2e6}  # a study's rows: up to two million answers
    large = [p for p in tracked if p.stat().st_size > most.get(p.suffix, 1e6)]
    assert not [path.relative_to(root).as_posix() for path in large]


def test_no_text_refers_to_notes_that_readers_do_not_have(tracked: list[Path], root: Path):
    found = []
    for path in tracked:
        data = path.read_bytes()
        if b"\0" in data[:8192] or path.suffix in (".json", ".jsonl"):
            continue
        name = path.relative_to(root).as_posix()
        for what in re.findall(UNSEEN, data.decode("utf-8", "replace")):
            if name not in HISTORY:
                found.append(f"{name}: {what}")
    assert not found


@pytest.mark.parametrize(
    "said",
    [
        "regis" + "ter 9 row 30", "desi" + "gn 6.2", "iss" + "ue 9's 48", "iss" + "ues 4 and 5",
        "ecosystem no" + "tes 4.6", "free-tier no" + "tes", "the doss" + "ier", "9." + "F (c)",
        "see meth" + "ods/alignment.md",
    ],
)  # fmt: skip
def test_such_a_reference_is_found(said: str):
    assert re.search(UNSEEN, f"source: {said}.")


def anchors(page: Path) -> set[str]:
    """Give what `#...` may name in a page: its headings, as GitHub spells them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", text, flags=re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def test_every_relative_link_and_anchor_of_every_page_resolves(tracked: list[Path], root: Path):
    broken = []
    for page in (path for path in tracked if path.suffix == ".md"):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            there = page.parent / name if name else page
            known = there.exists() and (
                not anchor or there.suffix != ".md" or anchor in anchors(there)
            )
            if not known:
                broken.append(f"{page.relative_to(root).as_posix()}: {target}")
    assert not broken


def test_every_path_that_pages_and_code_name_exists(tracked: list[Path], root: Path):
    """Pages name files in backticks; code names pages in `docs/`.

    Results are history; a page on adding a method names what its reader will write.
    """
    lost = []
    for path in tracked:
        name = path.relative_to(root).as_posix()
        if name in HISTORY or name.startswith(("docs/results/", "docs/adding-")):
            continue
        if path.suffix == ".md":
            said = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", path.read_text(encoding="utf-8"))
        elif name.startswith("src/") and path.suffix in (".py", ".yaml"):
            said = re.findall(r"docs/[\w./-]*[\w]", path.read_text(encoding="utf-8"))
        else:
            continue
        lost += [f"{name}: {one}" for one in said if not any(root.glob(f"{one}*"))]
    assert not lost


def test_the_licence_is_apache_2_everywhere_it_is_named(root: Path, project: dict):
    licence = (root / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert project["license"] == "Apache-2.0"
    assert "license: Apache-2.0\n" in (root / "CITATION.cff").read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere_it_is_named(root: Path, project: dict):
    assert f"version: {project['version']}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    stated = getattr(importlib.import_module("holdfast"), "__version__", project["version"])
    assert stated == project["version"]


def test_something_imports_every_library_that_is_required_or_an_extra(
    root: Path, project: dict, dev: dict
) -> None:
    """An extra exists when its adapter does."""
    imported = set()
    for path in (root / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    named = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    del named["dev"]
    for where, requirements in named.items():
        for name in map(dev["name_of"], requirements):
            module = dev["MODULES"].get(name, name.replace("-", "_")).partition(".")[0]
            assert module in imported, f"nothing in src imports {name} ({where}): take it out"


def test_no_pin_outlives_what_needed_it(root: Path, project: dict, dev: dict) -> None:
    """A pin is of a requirement, or of what a requirement itself requires."""
    named = [project["dependencies"], *project["optional-dependencies"].values()]
    known = {dev["name_of"](one) for requirements in named for one in requirements}
    for name in sorted(known):
        needed = metadata.requires(name) or []
        known |= {dev["name_of"](one) for one in needed if "extra ==" not in one}
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {dev["name_of"](line) for line in lines if line and line[0] != "#"} <= known


def test_every_command_the_readme_shows_exists(root: Path, readme: str):
    words = set(re.findall(r"(?:python3 dev\.py|`make) (\w+)", readme))
    assert {"demo", "test"} <= words
    known = ast.parse((root / "dev.py").read_text(encoding="utf-8"))
    functions = {node.name for node in known.body if isinstance(node, ast.FunctionDef)}
    assert words <= functions
    assert words <= set((root / "Makefile").read_text(encoding="utf-8").split())


def test_the_readme_has_no_badge(readme: str):
    assert "![" not in readme
    assert "shields" not in readme


def test_the_readme_example_is_short_and_imports_what_exists(readme: str):
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holdfast"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:  # a module of the package, or something in it
                inside = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(inside), inside


def test_the_readme_table_names_every_method_and_no_other(readme: str):
    told = re.findall(r"^\| (`.+`) \| (\w+) \|", readme, flags=re.M)
    said = {(kind, name) for cell, kind in told for name in re.findall(r"`(\w+)`", cell)}
    assert said == {(kind, name) for kind in KINDS for name in names(kind)}


def test_every_decision_is_listed(root: Path):
    listed = (root / "docs/adr/README.md").read_text(encoding="utf-8")
    for record in sorted((root / "docs/adr").glob("[0-9]*.md")):
        assert f"[{record.name[:4]}]({record.name})" in listed
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {record.name[:4]}: ")
        assert re.search(r"^Status: (proposed|accepted|superseded by \d{4})\.", text, flags=re.M)


def test_the_changelog_keeps_its_headings(root: Path):
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    headings = set(re.findall(r"^### (.+)$", text, flags=re.M))
    assert headings <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Numbers changed"
    }  # fmt: skip
