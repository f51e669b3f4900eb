"""Whatever is wrong with the input: one line that says where, what and what to do.

Each case runs the command itself, asserts the exact line and the exit code, and that nothing was
left in the store.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run

Change = Callable[[dict[str, Any], Path], None]


@dataclass
class Bench:
    """A folder with a model, a study to spoil and a store."""

    folder: Path
    data: dict[str, Any]
    capture: pytest.CaptureFixture[str]

    @property
    def store(self) -> Path:
        return self.folder / "runs"

    def model(self) -> Path:
        return Path(self.data["models"]["base"]["path"])

    def run(self, *options: str) -> tuple[int, str]:
        """Run the study; give the exit code and what stood on stderr."""
        path = self.folder / "study.json"
        path.write_text(json.dumps(self.data))
        arguments = ["run", str(path), "--store", str(self.store), "--workers", "1", *options]
        code = run(arguments)
        return code, self.capture.readouterr().err

    def artefacts(self) -> list[str]:
        """Name everything in the store but its lock."""
        if not self.store.is_dir():
            return []
        return [p.name for p in self.store.rglob("*") if p.is_file() and p.name != "lock"]


@pytest.fixture
def bench(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_model, tmp_path / "model")
    return Bench(tmp_path, toy.study(Path("model")), capsys)


def sft(data: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of the study's only defence."""
    return data["lineups"]["refusal_sft"]["defences"][0]["refusal_sft"]


def attack(data: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of the study's first attack."""
    return data["attacks"]["harmful_sft"][0]["harmful_sft"]


def put(*path: str | int, value: Any) -> Change:
    """Give a change that puts a value at a path of the study."""

    def change(data: dict[str, Any], _: Path) -> None:
        *parents, last = path
        for part in parents:
            data = data[part]  # type: ignore[assignment, index]
        data[last] = value  # type: ignore[index]

    return change


def rename_key(old: str, new: str) -> Change:
    """Give a change that spells a name of the study otherwise."""

    def change(data: dict[str, Any], _: Path) -> None:
        data[new] = data.pop(old)

    return change


def truncate(data: dict[str, Any], folder: Path) -> None:
    """Cut the model's weights short."""
    path = folder / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def garble(data: dict[str, Any], folder: Path) -> None:
    """Put text where weights should be."""
    (folder / "model" / "model.safetensors").write_text("hello")


def no_weights(data: dict[str, Any], folder: Path) -> None:
    """Take the weights away."""
    (folder / "model" / "model.safetensors").unlink()


def no_tokenizer(data: dict[str, Any], folder: Path) -> None:
    """Take the tokenizer away."""
    (folder / "model" / "tokenizer.json").unlink()


def source_file(name: str, text: str, **fields: Any) -> Change:
    """Give a change that adds a local file of rows."""

    def change(data: dict[str, Any], folder: Path) -> None:
        (folder / name).write_text(text)
        data["sources"] = ["toy_rows", {"local": {"path": name, "role": "benign", **fields}}]

    return change


def broken_plugin(data: dict[str, Any], folder: Path) -> None:
    """Install a plugin that cannot be imported."""
    site = folder / "site"
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "broken_defence.py").write_text("import a_module_nobody_has\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[holdfast.defences]\nbroken_defence = broken_defence:Broken\n"
    )
    data["lineups"]["refusal_sft"]["defences"] = ["broken_defence"]


def role_plugin(data: dict[str, Any], folder: Path) -> None:
    """Install a defence that declares a role nobody has."""
    site = folder / "site"
    info = site / "roles-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "odd_roles.py").write_text(
        "from holdfast.api import LossDefence\n\n"
        "class OddRoles(LossDefence):\n    roles = ('refusals',)\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: roles\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast.defences]\nodd_roles = odd_roles:OddRoles\n")
    data["lineups"]["refusal_sft"]["defences"] = ["odd_roles"]


CASES: dict[str, tuple[Change, int, str]] = {
    "misspelt defence": (
        put("lineups", "refusal_sft", "defences", value=["refusal_stf"]), 2,
        "study.lineups.refusal_sft[0]: no defence 'refusal_stf'; did you mean 'refusal_sft'?",
    ),
    "misspelt attack": (
        put("attacks", "strip", value=["stripe"]), 2,
        "study.attacks.strip[0]: no attack 'stripe'; did you mean 'strip'?",
    ),
    "misspelt judge": (
        put("judges", value=["toy_jugde"]), 2,
        "study.judges[0]: no judge 'toy_jugde'; did you mean 'toy_judge'?",
    ),
    "misspelt source": (
        put("sources", value=["toy_row"]), 2,
        "study.sources[0]: no source 'toy_row'; did you mean 'toy_rows'?",
    ),
    "misspelt field of a defence": (
        lambda data, _: sft(data).update(benign_wieght=2.0), 2,
        "study.lineups.refusal_sft[0].refusal_sft.benign_wieght: unknown field; did you mean "
        "'benign_weight'?",
    ),
    "misspelt field of a loop": (
        lambda data, _: sft(data)["loop"].update(step=5), 2,
        "study.lineups.refusal_sft[0].refusal_sft.loop.step: unknown field; did you mean 'steps'?",
    ),
    "misspelt section": (
        rename_key("attacks", "atacks"), 2,
        "study.atacks: unknown field; did you mean 'attacks'?",
    ),
    "American spelling": (
        put("lineups", "refusal_sft", value={"start": "base", "defenses": ["refusal_sft"]}), 2,
        "study.lineups.refusal_sft.defenses: unknown field; did you mean 'defences'?",
    ),
    "misspelt field of a model": (
        put("models", "base", value={"path": "model", "fromat": "plain"}), 2,
        "study.models.base.fromat: unknown field; did you mean 'format'?",
    ),
    "wrong type": (
        lambda data, _: sft(data)["loop"].update(steps="many"), 2,
        "study.lineups.refusal_sft[0].refusal_sft.loop.steps: got 'many'; it should be a valid "
        "integer",
    ),
    "negative learning rate": (
        lambda data, _: attack(data)["loop"].update(lr=-0.1), 2,
        "study.attacks.harmful_sft[0].harmful_sft.loop.lr: got -0.1; it should be greater than 0",
    ),
    "learning rate that is no number": (
        lambda data, _: attack(data)["loop"].update(lr=".nan"), 2,
        "study.attacks.harmful_sft[0].harmful_sft.loop.lr: got '.nan'; it should be a valid number",
    ),
    "a field of the loop beside it": (
        lambda data, _: attack(data).update(lr=0.1, batch_size=4, lora={"rank": 2}, clip=None), 2,
        "study.attacks.harmful_sft[0].harmful_sft.lr: is a field of the loop; write loop: "
        "{lr: 0.1, batch: 4, lora: {rank: 2}, clip: null}",
    ),
    "a field of a defence's loop beside it": (
        lambda data, _: sft(data).update(steps=7), 2,
        "study.lineups.refusal_sft[0].refusal_sft.steps: is a field of the loop; write loop: "
        "{steps: 7}",
    ),
    "budget beyond a falling schedule": (
        lambda data, _: attack(data)["loop"].update(schedule="linear", steps=3), 2,
        "study.attacks.harmful_sft[0].harmful_sft.evaluate_at: 8 is beyond the linear schedule's "
        "end at 6 examples (3 steps of 2); set loop.steps to 4 or more",
    ),
    "budget that is no whole step": (
        lambda data, _: attack(data).update(evaluate_at=[3]), 2,
        "study.attacks.harmful_sft[0].harmful_sft.evaluate_at: 3 is no multiple of loop.batch 2; "
        "use whole optimiser steps",
    ),
    "more distinct rows than there are": (
        lambda data, _: attack(data).update(distinct=1000), 2,
        "study.attacks.harmful_sft[0].harmful_sft: harmful_sft of role harmful, side attacker: "
        "1000 distinct rows asked for, the pool has 24; ask for at most 24",
    ),
    "more groups than there are": (
        put("evaluation", 0, "n", value=99), 2,
        "study.evaluation[0]: evaluation set 'restricted', side evaluator: 99 groups asked for, "
        "the pool has 12; ask for at most 12",
    ),
    "unknown evaluation set": (
        put("evaluation", 2, "set", value="bening"), 2,
        "study.evaluation[2]: evaluation set 'bening', side evaluator: no rows; did you mean "
        "'benign'?",
    ),
    "unknown side": (
        put("evaluation", 0, "side", value="evaluators"), 2,
        "study.evaluation[0].side: got 'evaluators'; it should be 'defender', "
        "'defender_selection', 'attacker', 'attacker_selection' or 'evaluator'",
    ),
    "unknown style": (
        put("evaluation", 0, "styles", value=["song"]), 2,
        "study.evaluation[0].styles: set 'restricted' has no style 'song'; known: ask, task",
    ),
    "unknown category of a defence": (
        lambda data, _: sft(data).update(categories=["darc"]), 2,
        "study.lineups.refusal_sft[0].refusal_sft: refusal_sft.categories: no row is of category "
        "'darc'; did you mean 'dark'?",
    ),
    "unknown category of an attack": (  # `bright` is a category of benign rows alone
        lambda data, _: attack(data).update(categories=["bright"]), 2,
        "study.attacks.harmful_sft[0].harmful_sft: harmful_sft.categories: no row is of category "
        "'bright'; known: dark",
    ),
    "unknown category of a set": (
        put("evaluation", 0, "categories", value=["darc"]), 2,
        "study.evaluation[0]: evaluation set 'restricted', side evaluator: categories: no row is "
        "of category 'darc'; did you mean 'dark'?",
    ),
    "no harm set": (
        put("evaluation", value=[{"set": "benign"}]), 2,
        "study.evaluation: no set of purpose 'harm' of side 'evaluator'; add `- {set: "
        "restricted}`: harm is measured there",
    ),
    "a set twice": (
        put("evaluation", 1, value={"set": "restricted"}), 2,
        "study.evaluation[1]: set 'restricted' of side 'evaluator' is there twice; keep one",
    ),
    "empty pool": (
        put("sources", value=[{"toy_rows": {"crafts": 0}}]), 2,
        "pool: no rows; check the sources",
    ),
    "unknown start model": (
        put("lineups", "none", "start", value="bass"), 2,
        "study.lineups.none.start: no model 'bass'; did you mean 'base'?",
    ),
    "missing model folder": (
        put("models", "base", "path", value="./nowhere"), 2,
        "study.models.base.path: no such model folder: ./nowhere; give a folder, world:base or "
        "org/name@COMMIT",
    ),
    "hub model without a commit": (
        put("models", "base", "path", value="org/name"), 2,
        "study.models.base.path: no such folder, and as a model of the hub org/name names no "
        "commit; check the path, or write org/name@COMMIT",
    ),
    "missing format": (
        put("models", "base", value={"path": "model"}), 2,
        "study.models.base.format: is required; add it",
    ),
    "unknown format": (
        put("models", "base", "format", value="alpaca"), 2,
        "study.models.base.format: unknown format 'alpaca'; write plain, chat, or the path of a "
        ".jinja file",
    ),
    "chat without a template": (
        put("models", "base", "format", value="chat"), 2,
        "study.models.base.format: format 'chat' asked for, the tokenizer has no chat template; "
        "use format: plain or a .jinja file",
    ),
    "missing template file": (
        put("models", "base", "attack_format", value="mine.jinja"), 2,
        "study.models.base.attack_format: no such file mine.jinja; check the path",
    ),
    "no weights": (
        no_weights, 2,
        "study.models.base.path: no safetensors files in model; convert the weights first",
    ),
    "no tokenizer": (
        no_tokenizer, 2,
        "study.models.base.path: no tokenizer.json in model; add the model's fast tokenizer",
    ),
    "weights that are none": (
        garble, 2,
        "model/model.safetensors: not a whole safetensors file (unpack requires a buffer of 8 "
        "bytes); copy it again",
    ),
    "missing data file": (
        put("sources", value=[{"local": {"path": "rows.jsonl", "role": "benign"}}]), 2,
        "rows.jsonl: no such file; check the path",
    ),
    "data of an unknown role": (
        source_file("rows.jsonl", "{}\n", role="begnin"), 2,
        "study.sources[1].local.role: got 'begnin'; it should be 'refusal', 'harmful', 'benign' or "
        "'task'",
    ),
    "plugin that cannot be imported": (
        broken_plugin, 2,
        "study.lineups.refusal_sft[0]: plugin 'broken_defence:Broken' cannot be imported "
        "(ModuleNotFoundError: No module named 'a_module_nobody_has'); mend or uninstall it",
    ),
    "defence of an unknown role": (
        role_plugin, 2,
        "study.lineups.refusal_sft[0].odd_roles: declares an unknown role 'refusals'; did you mean "
        "'refusal'?",
    ),
    "aligned defence on a base model": (
        put("lineups", "refusal_sft", "defences", value=["lox"]), 2,
        "study.lineups.refusal_sft[0].lox: assumes an aligned model, 'base' is not one; put an "
        "aligning defence such as refusal_sft before it",
    ),
    "defence of a host of fine-tuning against who holds the weights": (
        put("lineups", "refusal_sft", "defences", value=["refusal_sft", "static_kl"]), 2,
        "study.lineups.refusal_sft[1].static_kl: acts at stage 'tune', while a host trains: who "
        "holds the weights trains without it; name it under `tune.defences`, where customers "
        "supply rows alone",
    ),
    "no public original": (
        put("original", value=None), 2,
        "study.attacks.strip[0].strip: needs the public original; write `original: NAME`, an entry "
        "of models",
    ),
    "unknown original": (
        put("original", value="instruct"), 2,
        "study.original: no model 'instruct'; known: base",
    ),
    "the same choice twice": (
        put("attacks", "strip", value=["strip", "strip"]), 2,
        "study.attacks.strip[1]: is '' like an earlier one; let each differ in name or fields",
    ),
    "a judge twice": (
        put("judges", value=["toy_judge", {"toy_judge": {"harsh": True}}]), 2,
        "study.judges[1]: is 'toy_judge' like an earlier one; let each differ in name or fields",
    ),
    "a judge of other prompts": (
        put("judges", value=["toy_judge", "kitchen_rubric"]), 2,
        "study.judges[1]: kitchen_rubric reads prompts that carry `dish`; 12 of 12 of set "
        "'restricted' do not; take a judge that reads any prompt, such as harmbench_cls or "
        "strongreject",
    ),
    "a seed twice": (
        put("seeds", value=[1, 1]), 2,
        "study.seeds: a seed is there twice; list each seed once",
    ),
    "no seed": (
        put("seeds", value=[]), 2,
        "study.seeds: got []; it should be a list with at least 1 in it",
    ),
    "a name of the store": (
        put("name", value="judge"), 2,
        "study.name: 'judge' is a folder of the store; choose another name",
    ),
    "an attacker without attacks": (
        put("attacks", "strip", value=[]), 2,
        "study.attacks.strip: no attack; list at least one, such as `- strip`",
    ),
    "a preset nobody knows": (
        lambda data, _: sft(data).update(preset="papper"), 2,
        "study.lineups.refusal_sft[0].refusal_sft.preset: no preset 'papper'; known: clean",
    ),
    "a threshold of one": (
        put("thresholds", value=[1.0]), 2,
        "study.thresholds.0: got 1.0; it should be less than 1",
    ),
    "a threshold of nothing": (
        put("thresholds", value=[0.2, 0]), 2,
        "study.thresholds.1: got 0; it should be greater than 0",
    ),
    "all use asked for": (
        put("least_use", value=1), 2,
        "study.least_use: got 1; it should be less than 1",
    ),
    "choices and no restricted prompts of the attacker's own": (
        lambda data, _: data["evaluation"].pop(1), 2,
        "study.evaluation: attacker 'harmful_sft' has choices, and there is no set 'restricted' of "
        "side 'attacker_selection' to choose on; add `- {set: restricted, side: "
        "attacker_selection}`",
    ),
    "choices and no benign prompts of the attacker's own": (
        lambda data, _: data["evaluation"].pop(5), 2,
        "study.evaluation: attacker 'harmful_sft' has choices, and there is no set of "
        "purpose 'exact' of side 'attacker_selection' to choose on; add `- {set: benign, side: "
        "attacker_selection}`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_study_is_one_line_and_leaves_nothing(
    case: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, code, line = CASES[case]
    change(bench.data, bench.folder)
    if (bench.folder / "site").is_dir():
        monkeypatch.syspath_prepend(bench.folder / "site")

    found = bench.run()

    assert found == (code, f"holdfast: {line}\n")
    assert bench.artefacts() == []


def test_truncated_weights(bench: Bench) -> None:
    size = (bench.model() / "model.safetensors").stat().st_size
    truncate(bench.data, bench.folder)

    assert bench.run() == (
        2,
        f"holdfast: model/model.safetensors: truncated: {size - 100} bytes, its header says "
        f"{size}; copy it again\n",
    )
    assert bench.artefacts() == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "study.yaml: is empty; see `holdfast schema` for what it may hold"),
        ("name: [1\n", "study.yaml:2: expected ',' or ']', but got '<stream end>'; mend the YAML"),
        ("- a\n", "study: expected fields, got ['a']; write `name: value` lines under it"),
        ("name: a\nname: b\n", "study.yaml:2: found duplicate key"),
    ],
)
def test_a_study_file_that_is_no_study(
    text: str, line: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("study.yaml").write_text(text)

    assert run(["plan", "study.yaml"]) == 2
    assert capsys.readouterr().err.startswith(f"holdfast: {line}")


def test_a_missing_study_file(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "no.yaml"]) == 2
    assert capsys.readouterr().err == "holdfast: no.yaml: no such file; check the path\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plam"], "command line: no such command 'plam'. Did you mean 'plan'?; see"),
        (["run"], "command line: missing argument 'study'; see"),
        (["run", "a.yaml", "--workerz", "2"], "command line: no such option"),
        (["run", "a.yaml", "--threads", "x"], "command line: invalid value for '--threads': "),
        (["show", "stg"], "stg: no such method; did you mean 'sgt'?"),
        (["ls", "defense"], "defence"),
        (["defend", "sgt", "--model", "m", "--format", "plain", "--out", "o", "--set", "lr"],
         "--set: got 'lr'; write name=value"),
        (["defend", "sgt", "--model", "m", "--format", "plain", "--out", "o", "--set", "lrr=1"],
         "defend.sgt.lrr: unknown field; "),
        (["defend", "refusal_sft", "--model", "model", "--format", "plain", "--out", "o"],
         "--data: no rows given; give --data role=FILE or --source NAME"),
        (["defend", "lox", "--model", "model", "--format", "plain", "--out", "o"],
         "defend.lox: needs the public original; give --original MODEL"),
        (["judge", "toy_judge", "--exchanges", "none.jsonl", "--out", "o"],
         "none.jsonl: no such file; check the path"),
        (["gc", "study.json", "--store", "nowhere"], "study.json: no such file; check the path"),
    ],
)  # fmt: skip
def test_a_bad_command_line(
    arguments: list[str], line: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(arguments)
    out, err = capsys.readouterr()
    if arguments == ["ls", "defense"]:  # the other spelling is understood here
        assert (code, out.split()[0]) == (0, "defense")
        return
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"holdfast: {line}")
    assert not Path("o").exists()


def test_a_store_one_may_not_write_to(bench: Bench) -> None:
    bench.store.write_text("a file where the store should be")

    assert bench.run() == (
        1,
        f"holdfast: {bench.store}: cannot be written (file exists); name a folder you may write to "
        "with --store\n",
    )


@pytest.mark.skipif(
    os.geteuid() == 0, reason="root may write everywhere, so rights cannot be tested as root"
)
def test_a_store_without_rights(bench: Bench) -> None:
    bench.store.mkdir(mode=0o500)

    code, err = bench.run()

    assert (code, "permission denied" in err) == (1, True)


def test_a_loss_that_is_not_finite(bench: Bench) -> None:
    sft(bench.data)["loop"] |= {"lr": 1e30, "clip": None}

    code, err = bench.run()

    last = err.splitlines()[-1]
    assert code == 1
    assert last.startswith("holdfast: defend refusal_sft: refusal_sft, seed 0: refusal_sft step ")
    assert re.search(r"the loss is \S+, the gradient's norm (nan|inf) \(rows ", last)
    page = bench.store / "toy" / "report.html"
    assert last.endswith(
        f"; lower lr; the last checkpoint is kept; the rest is in {page}, which names what is"
        " missing"
    )
    assert not (bench.store / "defend").exists()
    assert "Incomplete: defence refusal_sft, seed 0, could not be run" in page.read_text()


def test_a_disk_that_is_full_in_the_middle(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from holdfast import disk

    real, calls = disk.sync, 0

    def full(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(disk, "sync", full)
    code, err = bench.run()

    assert code == 1
    assert err.splitlines()[-1].endswith(
        ": cannot be written (no space left on device); free some space and run the same command "
        "again"
    )
    assert not list(bench.store.rglob("tmp-*"))
    assert not (bench.store / "toy").exists()


def test_a_judge_that_gives_no_verdict_makes_the_results_invalid(bench: Bench) -> None:
    bench.data["judges"] = [{"toy_judge": {"silent": True}}]

    code, err = bench.run()
    again, err_again = bench.run()

    line = (
        "holdfast: results: none under harmful_sft lr=0.003 seed 0 budget 0, restricted by "
        "toy_judge: 12 of 12 unscored (and "
    )
    assert (code, again) == (3, 3)
    assert err.splitlines()[-1].startswith(line)
    assert err_again.startswith(line)
    assert (bench.store / "toy" / "report.html").is_file()


def test_a_second_run_on_one_store(bench: Bench) -> None:
    from holdfast.engine.store import Store

    with Store(bench.store).held():
        assert bench.run() == (
            1,
            f"holdfast: {bench.store}: in use by another run (process {os.getpid()}); wait for it "
            "to end, or name another --store\n",
        )


def test_no_bad_input_shows_a_traceback(bench: Bench) -> None:
    bench.data["models"] = 3

    code, err = bench.run()

    assert (code, err.count("\n")) == (2, 1)
    assert "Traceback" not in err
    assert sys.exc_info() == (None, None, None)
