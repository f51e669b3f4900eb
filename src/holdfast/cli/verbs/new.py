"""`holdfast new`: write the files that a new method consists of."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.folders import try_writing
from holdfast.cli.saying import say
from holdfast.errors import ConfigError, did_you_mean

EXAMPLES = {"defence": "tether", "attack": "jitter", "judge": "word_count", "source": "proverbs"}
"""The method each template holds; its name is put in place of these."""
TESTS = {
    "defence": "tests/defences",
    "attack": "tests/attacks",
    "judge": "tests/judges",
    "source": "tests/data/sources",
}


def new(
    kind: Annotated[str, typer.Argument(help="defence, attack, judge or source.")],
    name: Annotated[str, typer.Argument(help="Its name: file, registry key and YAML key.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a package of your own; without it, the checkout you stand in."
        ),
    ] = None,
) -> None:
    """Write a method's files: the method, its test and its fidelity page, ready to be changed."""
    from holdfast.api.registry import KINDS, names

    if kind not in KINDS:
        raise ConfigError(kind, "no such kind of method", did_you_mean(kind, KINDS))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(name, "is no name for a method", "use small letters, digits and _")
    if name in names(kind):
        raise ConfigError(name, f"there is a {kind} of this name", "choose another")
    own = out is not None
    files = _in_package(kind, name, out) if own else _in_checkout(kind, name, _checkout())
    for path in files:
        if path.exists():
            raise ConfigError(str(path), "is there already", "choose another name")
        try_writing(path, "--out" if own else str(path))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        say(path)
    say(f"change them into yours, then: {_next(name, out)}")


def _next(name: str, out: Path | None) -> str:
    """Say how the contract is run on what was written."""
    if out is None:
        return f"python -m pytest tests/contract -k {name}"
    return f"cd {out} && python -m pytest tests"


def _checkout() -> Path:
    """Give the checkout of Holdfast that the current folder lies in."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "src/holdfast/api").is_dir():
            return folder
    raise ConfigError("new", "this folder is in no checkout of Holdfast", "give --out FOLDER")


def template(file: str, kind: str, name: str) -> str:
    """Give a template's text with the example's name replaced, in words and in class names."""
    text = (resources.files("holdfast.testing") / "templates" / f"{file}.txt").read_text("utf-8")
    old = EXAMPLES[kind]
    text = text.replace(_camel(old), _camel(name)).replace(old, name)
    return text.replace(_words(old), _words(name))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _in_checkout(kind: str, name: str, root: Path) -> dict[Path, str]:
    from holdfast.api.registry import KINDS

    folder = root / "src/holdfast" / KINDS[kind][0].replace(".", "/")
    return {
        folder / f"{name}.py": template(f"{kind}.py", kind, name),
        root / TESTS[kind] / f"test_{name}.py": template(f"{kind}_test.py", kind, name),
        root / "docs/fidelity" / f"{name}.md": _page(name),
    }


def _page(name: str) -> str:
    return template("fidelity.md", "defence", name)


def _in_package(kind: str, name: str, out: Path) -> dict[Path, str]:
    """Give a package's files: the method, a test that runs the contract too, the entry point."""
    from holdfast.api.registry import KINDS

    room, group = f"holdfast.{KINDS[kind][0]}.{name}", KINDS[kind][0].rpartition(".")[2]
    package = out.resolve().name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package) or keyword.iskeyword(package):
        raise ConfigError(
            f"--out {out}",
            f"'{package}' is no name for a package",
            "end it in small letters, digits and _",
        )
    test = template(f"{kind}_test.py", kind, name).replace(room, f"{package}.{name}")
    contract = (
        f"\n\ndef test_it_keeps_the_contract_of_its_kind() -> None:\n"
        f"    check_{kind}({_camel(name)})\n"
    )
    imports = f"from holdfast.testing import check_{kind}\n"
    own = f"from {package}.{name} import"
    test = test.replace(own, f"{imports}{own}", 1)
    if f"{own} {_camel(name)}" not in test and f", {_camel(name)}" not in test:
        test = test.replace(own, f"{own} {_camel(name)},", 1)
    entry = f'[project.entry-points."holdfast.{group}"]\n{name} = "{package}.{name}:{_camel(name)}"'
    about = (
        '[build-system]\nrequires = ["hatchling>=1.27"]\nbuild-backend = "hatchling.build"\n\n'
        f'[project]\nname = "{package}"\nversion = "0.1.0"\ndependencies = ["holdfast"]\n\n'
        f"{entry}\n"
    )
    files = {
        out / package / f"{name}.py": template(f"{kind}.py", kind, name),
        out / "tests" / f"test_{name}.py": test + contract,
        out / "docs" / f"{name}.md": _page(name),
    }
    if (out / "pyproject.toml").exists():
        say(f"add to {out / 'pyproject.toml'}:\n{entry}")
        return files
    return {out / "pyproject.toml": about, out / package / "__init__.py": "", **files}
