"""`holdfast trials`: what its file may say, whose rows it sees, what it runs and logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run
from holdfast.data.example import Side
from holdfast.engine.trials import Log
from holdfast.errors import HoldfastError
from holdfast.report.trials import results, winners
from holdfast.study.file import Evaluation, load_study
from holdfast.study.rehearsal import drawn, rehearse, trials_of
from holdfast.study.trials import Range, load_trials, parse_trials

SFT = {"steps": 6, "batch": 4, "checkpoint_every": 2}


def said(model: Path, **changes: Any) -> dict[str, Any]:
    """Give a file of trials that ends in seconds."""
    made: dict[str, Any] = {
        "name": "search",
        "models": {"base": {"path": str(model), "format": "plain"}},
        "start": "base",
        "sources": ["toy_rows"],
        "trials": 2,
        "seeds": [7],
        "methods": {
            "refusal_sft": {
                "fixed": {"loop": SFT},
                "vary": [{"loop": {"lr": 0.01}}, {"loop": {"lr": 0.003}}],
            }
        },
        "attacks": {
            "harmful_sft": [
                {"harmful_sft": {"loop": {"lr": 0.03, "batch": 2}, "evaluate_at": [4, 8]}}
            ]
        },
        "evaluation": [
            {"set": "restricted", "n": 3},
            {"set": "benign", "n": 3},
            {"set": "quiz", "n": 3},
        ],
        "judges": ["toy_judge"],
        "generation": {"max_new_tokens": 4},
        "chunk": 5,
    }
    return made | changes


@pytest.fixture
def write(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """Give a function that writes the file, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **changes: toy.write(tmp_path / "search.json", said(toy_model, **changes))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


# What the file may say.

ONE = {"refusal_sft": {"vary": [{}, {"loop": {"lr": 0.1}}]}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trial": 2}, "trials.trial: unknown field; did you mean 'trials'?"),
        ({"start": "bose"}, "trials.start: no model 'bose'; did you mean 'base'?"),
        ({"seeds": [1, 1]}, "trials.seeds: a seed is there twice; list each seed once"),
        (
            {"evaluation": [{"set": "restricted", "side": "evaluator"}]},
            "trials.evaluation[0].side: 'evaluator' may not be seen while choosing; leave it out: "
            "defender_selection alone is asked",
        ),
        (
            {"evaluation": [{"set": "benign", "side": "attacker_selection"}]},
            "trials.evaluation[0].side: 'attacker_selection' may not be seen while choosing; "
            "leave it out: defender_selection alone is asked",
        ),
        (
            {"evaluation": [{"set": "restricted"}, {"set": "quiz"}, {"set": "quiz"}]},
            "trials.evaluation: a set is there twice; keep one",
        ),
        (
            {"methods": {"sgt": {"vary": [{}]}}},
            "trials.methods.sgt.vary: 1 trials, every method has 2; equal trials make a fair "
            "search: change one of the two",
        ),
        (
            {"methods": {"sgt": {}}},
            "trials.methods.sgt: needs either `vary` or `space`; write one of the two",
        ),
        (
            {"methods": {"sgt": {"vary": [{}, {"seed": 1}], "space": {"loop.lr": [0.1]}}}},
            "trials.methods.sgt: needs either `vary` or `space`; write one of the two",
        ),
        (
            {"methods": {"sgt": {"space": {"loop.lr": [0.1]}}}},
            "trials.methods.sgt.space: has 1 combinations, 2 trials asked for; add choices, or ask "
            "for fewer trials",
        ),
        (
            {"methods": {"sgt": {"space": {"loop.lr": []}}}},
            "trials.methods.sgt.space.loop.lr: an empty list; list at least one choice",
        ),
        (
            {"methods": {"sgt": {"space": {"loop.lr": {"low": 0.0, "high": 1.0, "log": True}}}}},
            "trials.methods.sgt.space.loop.lr: from 0 to 1; let them rise above 0",
        ),
        (
            {"methods": {"sgt": {"space": {"loop.lr": {"low": 0.1}}}}},
            "trials.methods.sgt.space.loop.lr.high: is required; add it",
        ),
        ({"methods": {"start": ONE["refusal_sft"]}},
         "trials.methods.start: is the trial without defences; rename it"),
        ({"rule": {"ties": "luck"}},
         "trials.rule.ties: got 'luck'; it should be 'mean' or 'utility'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(
    toy_model: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(HoldfastError) as caught:
        parse_trials(said(toy_model, **changes))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"methods": {"refusal_sft": {"vary": [{"loop": SFT}, {"loop": SFT}]}}},
            "trials.methods.refusal_sft: trials 1 and 2 are the same; let each differ",
        ),
        (
            {"methods": {"refusal_sft": {"vary": [{"loop": SFT}, {"loop": {"step": 1}}]}}},
            "trials.methods.refusal_sft, trial 2[0].refusal_sft.loop.step: unknown field; did you "
            "mean 'steps'?",
        ),
        (
            {"attacks": {"strip": ["strip"]}, "original": "base"},
            "trials.attacks.strip[0]: strip costs no examples; leave it out: trials are chosen by "
            "what they cost to break",
        ),
        (
            {"evaluation": [{"set": "restricted"}, {"set": "contrast"}]},
            "trials.evaluation[1].set: nothing is chosen by 'contrast', of purpose 'over_refusal'; "
            "leave it out",
        ),
        (
            {"evaluation": [{"set": "benign"}]},
            "trials.evaluation: no set of purpose 'harm' of side 'defender_selection'; add "
            "`- {set: restricted}`: harm is measured there",
        ),
        (
            {"evaluation": [{"set": "restricted"}]},
            "trials.evaluation: no set gives utility; add benign or quiz",
        ),
        (
            {"evaluation": [{"set": "restrict"}, {"set": "quiz"}]},
            "trials.evaluation[0]: evaluation set 'restrict', side defender_selection: no rows; "
            "did you mean 'restricted'?",
        ),
        (
            {"attacks": {"harmful_sft": ["harmful_stf"]}},
            "trials.attacks.harmful_sft[0]: no attack 'harmful_stf'; did you mean 'harmful_sft'?",
        ),
    ],
)
def test_what_only_a_plan_can_find_is_told_at_its_place_in_the_file(
    toy_model: Path, installed: Path, changes: dict[str, Any], line: str
) -> None:
    made = parse_trials(said(toy_model, **changes))
    with pytest.raises(HoldfastError) as caught:
        rehearse(made, trials_of(made))
    assert str(caught.value) == line


def test_lists_give_their_combinations_each_once_and_more_trials_keep_the_earlier() -> None:
    space = {"loop.lr": (0.1, 0.2), "rho": (1.0, 2.0, 3.0)}
    every = drawn("vaccine", space, 6)

    assert drawn("vaccine", space, 4) == every[:4]
    assert {(one["loop"]["lr"], one["rho"]) for one in every} == {  # type: ignore[index]
        (lr, rho) for lr in (0.1, 0.2) for rho in (1.0, 2.0, 3.0)
    }


def test_ranges_are_drawn_within_their_ends_evenly_on_their_own_scale() -> None:
    space = {
        "lr": Range(low=1e-5, high=1e-3, log=True),
        "steps": Range(low=1, high=4, whole=True),
        "kind": ("a", "b"),
    }
    some = drawn("sgt", space, 400)

    assert some[:20] == drawn("sgt", space, 20)
    assert some != drawn("tar", space, 400)
    rates = [float(one["lr"]) for one in some]  # type: ignore[arg-type]
    assert min(rates) >= 1e-5
    assert max(rates) <= 1e-3
    assert 0.4 < sum(rate < 1e-4 for rate in rates) / 400 < 0.6
    for field, values in (("steps", {1, 2, 3, 4}), ("kind", {"a", "b"})):
        seen = [one[field] for one in some]
        assert set(seen) == values  # type: ignore[arg-type]
        assert min(seen.count(value) for value in values) > 0.7 * 400 / len(values)


# What it sees.


def test_attackers_train_on_the_defenders_rows_and_prompts_are_the_selection_sides(
    toy_model: Path, installed: Path
) -> None:
    made = parse_trials(said(toy_model))
    plan = rehearse(made, trials_of(made))
    (attack,) = plan.attacks["harmful_sft"]
    rows = [row for some in attack.rows(plan.attack_pool, 7).values() for row in some]

    own = {row.row_id for row in plan.pool.rows(Side.DEFENDER)}
    assert rows
    assert {row.row_id for row in rows} <= own
    for side in (Side.ATTACKER, Side.ATTACKER_SELECTION, Side.EVALUATOR):
        assert not {row.row_id for row in plan.attack_pool.rows(side)} & {
            row.row_id for row in plan.pool.rows(side)
        }
    assert {row.side for prompts in plan.prompts for row in prompts.rows} == {
        Side.DEFENDER_SELECTION
    }
    sets = {(p.set.name, w.at) for p, w in zip(plan.prompts, plan.study.evaluation, strict=True)}
    assert sets == {("restricted", "all"), ("benign", "release"), ("quiz", "release")}


def test_a_rehearsed_attack_is_no_step_of_a_study(toy_model: Path, installed: Path) -> None:
    """The same fields train on other rows, so that one may never be taken for the other."""
    from holdfast.study.plan import Plan

    made = parse_trials(said(toy_model))
    plan = rehearse(made, trials_of(made))
    asked = [("restricted", "evaluator"), ("restricted", "attacker_selection"),
             ("benign", "attacker_selection")]  # fmt: skip
    evaluation = tuple(Evaluation(set=name, side=side) for name, side in asked)
    study = Plan(plan.study.with_(evaluation=evaluation))  # the same study, nobody playing

    def keys(of: Plan) -> set[str]:
        return {t.key for t in of.trajectories.values() if t.attack is not None}

    assert set(plan.defends) == set(study.defends)
    assert not keys(plan) & keys(study)


# What it runs and logs.


def test_trials_are_logged_in_turn_and_a_second_run_does_nothing(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    assert run(["trials", str(file), "--workers", "1"]) == 0
    done = capsys.readouterr()
    log = lines(file.with_suffix(".jsonl"))

    assert [(one["trial"], one["seed"]) for one in log] == [
        ("start", 7), ("refusal_sft", 7), ("refusal_sft", 7)
    ]  # fmt: skip
    assert log[0]["under"] == {
        "start": json.loads(file.read_text())["models"]["base"]["path"],
        "attacks": ["harmful_sft lr=0.03"],
        "prompts": {"restricted": 6, "benign": 3, "quiz": 3},
        "judge": "toy_judge",
    }
    assert log[1]["defences"] == [{"refusal_sft": {"loop": {**SFT, "lr": 0.01}}}]
    assert [point[0] for point in log[1]["curves"]["harmful_sft lr=0.03"]] == [4, 8]
    assert log[1]["steps"] == 6
    assert log[1]["flops"] > 0
    shown = done.err.splitlines()
    ended = shown.index(next(line for line in shown if line.startswith("trial start is in")))
    assert not any("refusal_sft" in line for line in shown[:ended])  # trials end in turn
    said = [line for line in shown if line.startswith("trial ")]
    assert [line.split("; ")[0] for line in said] == [
        "trial start is in the log", "trial refusal_sft-1 is in the log",
        "trial refusal_sft-2 is in the log",
    ]  # fmt: skip
    assert "| 1 | " in done.out
    assert "refusal_sft: defences: [{refusal_sft: {loop: {steps: 6, batch: 4, " in done.out

    before = file.with_suffix(".jsonl").read_bytes()
    assert run(["trials", str(file), "--store", "nowhere"]) == 0
    assert capsys.readouterr().out == done.out
    assert not Path("nowhere").exists()
    assert file.with_suffix(".jsonl").read_bytes() == before


def test_workers_and_one_process_log_the_same(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    for workers in ("1", "2"):
        code = run(
            ["trials", str(file), "--workers", workers, "--log", f"{workers}.jsonl",
             "--store", f"store-{workers}"]
        )  # fmt: skip
        assert code == 0
    assert Path("1.jsonl").read_bytes() == Path("2.jsonl").read_bytes()


def test_stopped_by_hand_it_keeps_the_trials_that_were_done_and_goes_on(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, add = write(), Log.add

    def stop(self: Log, *trial: Any) -> None:
        add(self, *trial)
        if len(self.lines) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Log, "add", stop)
    assert run(["trials", str(file), "--workers", "1"]) == 130
    assert capsys.readouterr().err.endswith("holdfast: run: stopped; the same command continues\n")
    assert len(lines(file.with_suffix(".jsonl"))) == 2

    monkeypatch.setattr(Log, "add", add)
    assert run(["trials", str(file), "--workers", "1"]) == 0
    assert "1 of 3 trials to do" in capsys.readouterr().err
    whole = file.with_suffix(".jsonl").read_bytes()
    assert run(["trials", str(file), "--workers", "1", "--log", "again.jsonl",
                "--store", "again"]) == 0  # fmt: skip
    assert Path("again.jsonl").read_bytes() == whole


def test_a_trial_that_cannot_be_made_is_logged_and_never_wins(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    wild = {"loop": {**SFT, "lr": 1e30}}
    file = write(methods={"refusal_sft": {"vary": [wild, {"loop": SFT}]}})
    assert run(["trials", str(file), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    log = lines(file.with_suffix(".jsonl"))

    assert log[1]["failed"].startswith("defend refusal_sft-1: refusal_sft, seed 7: ")
    assert "| 1 | - | - | - | - | - | - | failed: defend refusal_sft-1: " in said
    assert "1 failed" in said
    assert run(["trials", str(file)]) == 0  # it is not tried again


def test_answers_without_a_verdict_are_no_survival(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(judges=[{"toy_judge": {"silent": True}}])
    assert run(["trials", str(file), "--workers", "1"]) == 3
    log = lines(file.with_suffix(".jsonl"))
    assert len(log) == 3
    assert all(one["failed"].endswith("6 of 6 unscored") for one in log)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"holdfast: {file.with_suffix('.jsonl')}: the start was not measured (")
    assert last.endswith("; mend that, remove its line and run the same command again")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"trial": "start"', "search.jsonl:1: is no line of a log of trials; name another --log"),
        ('{"trial": "sgt", "lineup": []}\n',
         "search.jsonl:1: is no line of a log of trials; name another --log"),
        ('{"trial": "sgt", "seed": 7, "defences": [], "under": {"start": "other"}}\n',
         "search.jsonl: 'sgt' was tried under other start; name another --log, or put the file "
         "back as it was"),
    ],
)  # fmt: skip
def test_a_log_that_is_none_or_of_other_conditions_is_refused(
    write: Callable[..., Path], text: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    Path("search.jsonl").write_text(text)
    assert run(["trials", file.name]) == 2
    assert capsys.readouterr().err == f"holdfast: {line}\n"
    assert Path("search.jsonl").read_text() == text


def test_trials_that_left_the_file_stay_in_the_log(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    assert run(["trials", str(file), "--workers", "1"]) == 0
    gone = lines(file.with_suffix(".jsonl"))[2]
    write(methods={"refusal_sft": {"fixed": {"loop": SFT},
                                   "vary": [{"loop": {"lr": 0.01}}, {"loop": {"lr": 0.02}}]}},
          )  # fmt: skip
    assert run(["trials", str(file), "--workers", "1"]) == 0
    assert "1 of 3 trials to do" in capsys.readouterr().err
    log = lines(file.with_suffix(".jsonl"))
    assert [one["defences"][0]["refusal_sft"]["loop"]["lr"] for one in log[1:]] == [
        0.01,
        0.02,
        0.003,
    ]
    assert log[3] == gone


def test_the_schema_of_trials_names_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "trials"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"methods", "trials", "start", "attacks", "evaluation"} <= set(schema["required"])
    assert all("description" in field for field in schema["properties"].values())
    assert run(["schema", "trial"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: schema: no kind of file 'trial'; did you mean 'trials'?\n"
    )


# The committed searches.


def test_studies_hold_files_rows_and_logs_alone(root: Path) -> None:
    """What makes the published numbers is a command: no script lies beside them."""
    files = [path for path in (root / "studies").rglob("*") if path.is_file()]
    figures = root / "studies" / "paper" / "figures"  # what others measured
    kinds = {path.suffix for path in files if path.parent != figures}
    assert kinds == {".yaml", ".jsonl", ".jinja", ".json", ".parquet"}


FILES = ("foundation", "claim", "guided", "alignment", "attackers")
AS_TUNED = {
    ("foundation", "foundation"): {"refusal_sft": "refusal_sft", "sgt": "sgt"},
    ("claim", "claim"): {
        "refusal_sft": "refusal_sft", "sgt": "sgt", "sgt_variant": "sgt_last_prompt",
    },
    ("guided", "claim"): {"sgt_guided": "sgt_guided"},
    ("alignment", "alignment"): {
        **{name: name for name in (
            "refusal_sft", "sgt", "sgt_guided", "vaccine", "t_vaccine", "random_vaccine",
            "rep_noise", "sdd", "booster", "tar", "triplet", "seam", "ctrap", "lox",
        )},
        "circuit_breakers_wider": "circuit_breakers",
    },
}  # fmt: skip
"""The committed logs' winners, and where they are in the studies that were run with them."""
NEAREST = {"rep_noise", "sdd"}
"""Methods of which no trial qualified: the study's notes say so."""


def world(root: Path) -> Path:
    return root / "studies" / "world"


@pytest.mark.parametrize("name", FILES)
def test_the_committed_logs_are_whole(name: str, root: Path) -> None:
    """Nothing is left to try, nothing was tried under other attacks, and no line is of no trial."""
    file = world(root) / f"{name}.trials.yaml"
    log = Log(file.with_suffix(".jsonl"), load_trials(file))
    assert log.left == []
    assert log.others == []


@pytest.mark.parametrize(("search", "study"), AS_TUNED)
def test_the_rule_takes_from_the_committed_logs_what_the_studies_were_run_with(
    search: str, study: str, root: Path
) -> None:
    file = world(root) / f"{search}.trials.yaml"
    log = Log(file.with_suffix(".jsonl"), load_trials(file))
    chosen = winners(log.said, results(log.trials, log.said.seeds, log.lines))
    lineups = load_study(world(root) / f"{study}.yaml").lineups

    for name, lineup in AS_TUNED[search, study].items():
        won = chosen[name].winner
        assert won is not None
        assert chosen[name].nearest == (name in NEAREST)
        (trial,) = [t for t in log.trials if (t.method, t.number) == (name, won.result.number)]
        assert _made(trial.defences) == _made(lineups[lineup].defences), name


def _made(defences: Any) -> list[Any]:
    from holdfast.api.registry import make

    return [make("defence", one, "trial") for one in defences]


def test_the_attackers_choices_are_those_with_the_least_held(root: Path) -> None:
    """The declared rule: two full rates, one adapter rate, one gamma."""
    from holdfast.stats.trials import by_attack

    file = world(root) / "attackers.trials.yaml"
    log = Log(file.with_suffix(".jsonl"), load_trials(file))
    chosen = winners(log.said, results(log.trials, log.said.seeds, log.lines))
    held = by_attack(list(chosen.values()), log.said.rule.broken)
    order = sorted(held, key=lambda label: held[label])

    full = [label for label in order if label.startswith("harmful") and "lora" not in label]
    assert full[:2] == ["harmful_sft lr=0.003", "harmful_sft lr=0.001"]
    assert next(label for label in order if "lora" in label) == "harmful_sft lr=0.01 lora=16"
    assert next(label for label in order if "gamma" in label).endswith("gamma=0.01")
    assert [round(held[label], 2) for label in full[:2]] == [0.22, 1.38]
