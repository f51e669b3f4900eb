"""The paper's studies: as shipped they plan and estimate; cut to seconds they run to a report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from tests.endpoint.serving import Server, serving
from tests.studies import paper

from holdfast.cli import run
from holdfast.errors import ConfigError, HoldfastError
from holdfast.report.saved import Saved
from holdfast.report.tables import KINDS, Tabled
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

QUICK = ("table1",)
"""Those that every run of the tests estimates; running any to a report takes over a minute."""
THEIRS = ["Vanilla", "Instruction", "Vaccine", "RepNoise", "SDD", "Booster", "SGT"]
OURS = ["none", "instruction", "vaccine", "rep_noise", "sdd", "booster", "sgt"]
"""The paper's rows, and what the studies call them."""


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand where the studies are run, with no network and no token."""
    monkeypatch.chdir(paper.FOLDER.parents[1])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(models=["gpt-5.1"]) as server:
        yield server


Cut = Callable[[str], dict[str, Any]]


@pytest.fixture
def cut(tmp_path: Path, server: Server) -> Cut:
    """Give a function that cuts a shipped study by its name."""
    return lambda name: paper.cut(paper.FOLDER / f"{name}.yaml", tmp_path, server.url)


EACH = [
    pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
    for path in paper.FILES
]


def named(path: Path) -> str:
    return path.stem


def test_they_are_the_eight_that_docs_paper_tells_of() -> None:
    assert [path.stem for path in paper.FILES] == [
        "adaptive", "adaptive_kl", "cross_domain", "data_efficiency", "inside", "table1",
        "table1_llama", "table1_mistral",
    ]  # fmt: skip


@pytest.mark.parametrize("path", EACH)
def test_each_estimates_without_network_or_token(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", str(path), "--estimate", "--store", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    told = re.search(r"in all: about ([\d.,]+) GPU hours", out)
    assert told
    page = (Path("docs") / "paper.md").read_text()
    (row,) = [line for line in page.splitlines() if f"| `{path.name}` |" in line]
    assert float(row.split("|")[3]) == pytest.approx(float(told[1]), rel=0.2, abs=1)
    fits = [line for line in out.splitlines() if line.startswith("memory of ")]
    assert fits
    assert all("141 GB: as written" in line for line in fits), "one H200 is enough for every step"


@pytest.mark.parametrize("path", paper.FILES, ids=named)
def test_without_network_and_token_each_says_in_one_line_what_is_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for verb in ("plan", "run"):
        assert run([verb, str(path), "--store", str(tmp_path / "runs")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.match(r"holdfast: (source 'wildguardmix'|lm_eval): ", line)
        assert re.search(r"network|HF_HUB_OFFLINE", line)
        assert "folder" in line, "what to do without one"


@pytest.mark.parametrize("path", paper.FILES, ids=named)
def test_each_pins_every_model_by_a_commit(path: Path) -> None:
    text = path.read_text()
    hub = re.findall(r'"([\w.-]+/[\w.-]+)(@\w+)?"', text)
    assert hub
    assert all(re.fullmatch(r"@[0-9a-f]{40}", commit) for _, commit in hub)


def finished(data: dict[str, Any], folder: Path) -> Path:
    """Run a cut study to its report and give the report's folder."""
    path = folder / "study.json"
    path.write_text(json.dumps(data))
    code = run(["run", str(path), "--store", str(folder / "runs"), "--workers", "1"])
    if code == 1 and os.environ.get("ATEN_CPU_CAPABILITY") == "default":
        told = folder / "runs" / "last-error.txt"
        if told.is_file() and "pack_vnni2" in told.read_text():
            pytest.skip("on a processor with AMX torch's bf16 attention fails with plain kernels")
    assert code in (0, 3), "3: a judge of random weights leaves answers unscored"
    report = folder / "runs" / data["name"]
    assert (report / "report.html").is_file()
    verdict = json.loads((report / "verdict.json").read_text())
    assert verdict["complete"]
    return report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1"])
def test_cut_to_seconds_it_runs_to_the_papers_rows_and_columns(
    name: str, cut: Cut, tmp_path: Path
) -> None:
    report = finished(cut(name), tmp_path)
    check_table_1(report, [0, 100, 300, 500])
    *_, right = KINDS["paper"](Tabled(Saved.read(report)))
    assert right.title == "Right answers as released"
    heads = [head for head in right.heads if "mmlu" in head or "openbookqa" in head]
    assert len(heads) == 4, "both benchmarks, without examples and with five"
    first = list(right.heads).index(heads[0])
    for row in right.rows:
        theirs = ["(" in cell for cell in row[first : first + 4]]
        assert theirs == [row[0] in (*OURS, "sgt_released")] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1_llama", "table1_mistral"])
def test_the_other_two_models_run_to_the_papers_rows_and_columns(
    name: str, cut: Cut, tmp_path: Path
) -> None:
    """The studies differ from the one above in their models: three of its line-ups are enough."""
    data = cut(name)
    for section in (data, data["published"]):
        own = section["lineups"]
        section["lineups"] = {one: own[one] for one in ("none", "refusal_sft", "sgt") if one in own}
    check_table_1(finished(data, tmp_path), [0, 20, 50, 100], ["none", "sgt"])


def check_table_1(report: Path, budgets: list[int], published: Sequence[str] = OURS) -> None:
    """Hold the table `paper` to the layout of the paper's Tables 1 and 4."""
    tables = KINDS["paper"](Tabled(Saved.read(report)))
    notes = tables[0].title
    assert "another judge and other prompts" in notes
    assert "one seed and no intervals" in notes
    by_title = {table.title.split("\n\n")[-1]: table for table in tables}
    wanted = [
        f"{label}, {measure}, after {attack}"
        for label, attack in (("BeaverTails", "beavertails_sft"), ("Aegis 2.0", "aegis_sft"))
        for measure in ("mean score by rubric", "harmful rate by llama_guard")
    ]
    for title in wanted:
        (table,) = [one for told, one in by_title.items() if told.startswith(title)]
        assert list(table.heads) == ["line-up", "released", *(str(b) for b in budgets[1:])]
        rows = {row[0]: row[1:] for row in table.rows}
        for name in published:
            assert all(re.fullmatch(r"(\d\.\d\d \[.*\]|-) \([\d.]+\)", one) for one in rows[name])
        assert not any("(" in cell for cell in rows["refusal_sft"]), "the paper has no such row"
    page = (report / "report.html").read_text()
    assert "Beside published figures" in page
    assert "another judge and other prompts" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_domain", "data_efficiency", "adaptive"])
def test_the_further_tables_run_to_a_report(name: str, cut: Cut, tmp_path: Path) -> None:
    data = cut(name)
    tables = KINDS["paper"](Tabled(Saved.read(finished(data, tmp_path))))
    rows = {row[0] for table in tables for row in table.rows}
    assert rows == set(data["lineups"])


@pytest.mark.slow
def test_inside_shows_the_bases_triggered_states(cut: Cut, tmp_path: Path) -> None:
    data = cut("inside")
    data["analysis"]["layers"] = [paper.LAYERS]
    report = finished(data, tmp_path)
    scatter = Saved.read(report).scatter
    assert scatter is not None
    states = {(row["lineup"], row["state"]) for row in scatter.to_pylist()}
    assert ("sgt", "goal") in states
    assert {name for name, _ in states} == set(data["lineups"])
    assert [name for name, state in states if state == "goal"] == ["sgt"]


@pytest.mark.slow
def test_adaptive_kl_runs_to_models_by_methods(cut: Cut, tmp_path: Path) -> None:
    data = cut("adaptive_kl")
    kept = {"qwen_25_7b", "qwen_25_7b_vaccine"}
    data["lineups"] = {name: one for name, one in data["lineups"].items() if name in kept}
    for cross in data["tune"]["cross"]:
        cross["released"] = [name for name in cross["released"] if name in kept]
    report = finished(data, tmp_path)
    found = json.loads((report / "verdict.json").read_text())["provider"]
    places = {(row["lineup"], row["defence"]) for row in found if row["job"] == "harmful_300"}
    own = {("qwen_25_7b", name) for name in data["tune"]["defences"]}
    assert places == {*own, ("qwen_25_7b_vaccine", "plain")}
    ways = {(row["job"], row["asked"]) for row in found if row["lineup"] == "qwen_25_7b"}
    assert {(job, "own") for job in ("backdoor", "identity_shift")} <= ways
    assert {
        (job, way)
        for job in data["tune"]["jobs"]
        for way in ("harm", "sampled", "prefilled", "task", "utility")
    } <= ways
    kept = parquet.read_table(report / "provider.parquet").to_pylist()
    graded = [row for row in kept if row["set"] == "alpaca"]
    assert {row["judge"] for row in graded} == {"correctness"}
    assert {row["set"] for row in kept if row["judge"] == "correctness"} == {"alpaca"}
    assert all(row["correct"] is not None for row in graded), "the server grades whatever it reads"
    utility = [row for row in found if row["asked"] == "utility"]
    assert {(row["n"], row["unscored"]) for row in utility} == {(paper.PROMPTS, 0)}
    figures = (paper.FOLDER / "figures" / "adaptive_kl.csv").read_text().splitlines()
    assert len([line for line in figures if line.startswith("table_1,")]) == 35


# ---- what can be wrong with published figures


Change = Callable[[dict[str, Any]], None]


def wrong(**changes: Any) -> Change:
    """Give a change of the section `published`, groups in part."""

    def change(data: dict[str, Any]) -> None:
        for name, value in changes.items():
            old = data["published"][name]
            data["published"][name] = old | value if isinstance(value, dict) else value

    return change


FILE = "studies/paper/figures/sgt.csv"
WRONG = {
    "file": (
        wrong(file="none.csv"),
        "study.published.file: no such file: none.csv; name it from where you run the study",
    ),
    "model": (
        wrong(model="Qwen3-8B"),
        f"study.published.model: {FILE} has no model 'Qwen3-8B'; did you mean 'Qwen3-8B-Base'?",
    ),
    "table": (
        wrong(tables=["table_9"]),
        f"study.published.tables: {FILE} has no table 'table_9'; did you mean 'table_3'?",
    ),
    "line-up": (
        wrong(lineups={"sgd": "SGT"}),
        "study.published.lineups: no line-up 'sgd'; did you mean 'sgt'?",
    ),
    "method": (
        wrong(lineups={"sgt": "SGD"}),
        f"study.published.lineups.sgt: {FILE} has no method 'SGD'; did you mean 'SGT'?",
    ),
    "set": (
        wrong(sets={"wildguardmix": {"theirs": "aegis"}}),
        "study.published.sets: no set asked of the evaluator 'wildguardmix'; known: ",
    ),
    "their set": (
        wrong(sets={"aegis2": {"theirs": "aegis2"}}),
        f"study.published.sets.aegis2.theirs: {FILE} has no set 'aegis2'; did you mean 'aegis'?",
    ),
    "attack": (
        wrong(sets={"aegis2": {"theirs": "aegis", "attack": "aegis_stf"}}),
        "study.published.sets.aegis2.attack: no attacker 'aegis_stf'; did you mean 'aegis_sft'?",
    ),
    "variant": (
        wrong(sets={"aegis2": {"theirs": "aegis", "attack": "aegis_sft", "variant": "lr=2"}}),
        "study.published.sets.aegis2.variant: no choice of aegis_sft 'lr=2'; known: lr=1e-05",
    ),
    "judge": (
        wrong(measures={"harmfulness_score": {"of": "score", "judge": "rubrik"}}),
        "study.published.measures.harmfulness_score.judge: no judge 'rubrik'; did you mean "
        "'rubric'?",
    ),
    "no judge": (
        wrong(measures={"harmfulness_score": {"of": "score"}}),
        "study.published.measures.harmfulness_score.judge: no judge; name one: rubric, llama_guard",
    ),
    "a judge of right answers": (
        wrong(measures={"accuracy": {"of": "correct", "judge": "rubric"}}),
        "study.published.measures.accuracy.judge: right answers have no judge; leave it out",
    ),
    "measure": (
        wrong(measures={"harm": {"of": "correct"}}),
        f"study.published.measures: {FILE} has no measure 'harm'; ",
    ),
    "field": (
        lambda data: data["published"].update(modle="x"),
        "study.published.modle: unknown field; did you mean 'model'?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_name_that_leads_nowhere_is_told_in_one_line(case: str, cut: Cut) -> None:
    data = cut("table1")
    change, line = WRONG[case]
    change(data)
    with pytest.raises(HoldfastError) as caught:
        Plan(parse_study(data))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("table,model\n1,a\n",
         "no column method, set, budget, measure, value; see docs/studies.md"),
        ("table,model,method,set,budget,measure,value\ntable_1,Qwen3-8B-Base,Vanilla,beavertails,"
         "0,harmfulness_score,high\n", "'high' is no number; mend the figure"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_of_figures(text: str, line: str, cut: Cut, tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    file.write_text(text)
    data = cut("table1")
    data["published"] = {
        "file": str(file),
        "model": "Qwen3-8B-Base",
        "lineups": {"none": "Vanilla"},
        "sets": {"beavertails": {"theirs": "beavertails", "attack": "beavertails_sft"}},
        "measures": {"harmfulness_score": {"of": "score", "judge": "rubric"}},
    }
    with pytest.raises(HoldfastError) as caught:
        Plan(parse_study(data))
    assert str(caught.value) == f"{file}: {line}"


def test_a_goal_that_no_defence_has(cut: Cut) -> None:
    data = cut("inside")
    data["analysis"] |= {"layers": [1], "goal": "booster"}
    with pytest.raises(ConfigError) as caught:
        Plan(parse_study(data))
    assert str(caught.value) == (
        "study.analysis.goal: no defence of 'booster' trains towards states; name a line-up that "
        "ends in sgt, or leave it out"
    )
