"""From a model and files to a study: what `holdfast assess` and `holdfast init` are given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.given import columns, models
from holdfast.errors import ConfigError, DataError

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.sources.local import Local
    from holdfast.nn.files import ModelFiles
    from holdfast.study.drafts import Draft, Rows
    from holdfast.study.file import Study

FEWEST = 12
"""Different prompts that a file must hold: fewer leave a side with next to none."""
REFUSING = 0.5
"""Share of a file's answers from which on they are taken for refusals."""

Restricted = Annotated[
    Path | None,
    typer.Option(
        "--restricted",
        help="A file of restricted requests, with the answers that must not be given or without.",
    ),
]
Benign = Annotated[
    Path | None,
    typer.Option(
        "--benign",
        help="A file of benign questions. [default: a hundred short questions of Holdfast's own]",
    ),
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help="A judge: its name, or `{name: {field: value}}`; repeat for more. "
        "[default: refusal_keywords, which sees refusals alone]",
    ),
]
BudgetWord = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="free (no fine-tuning), cheap, standard or full. [default: cheap, or free where the "
        "requests have no answers]",
    ),
]
FormatGiven = Annotated[
    str | None,
    typer.Option("--format", help="plain, chat, or a .jinja file. [default: as the model says]"),
]


@dataclass(frozen=True, slots=True)
class Given:
    """What a command was given, as it was written."""

    model: str
    restricted: Path | None
    benign: Path | None = None
    original: str | None = None
    judges: Sequence[str] = ()
    budget: str | None = None
    form: str | None = None
    column: Sequence[str] = ()
    purpose: str = "assess"
    where: str = "MODEL"
    """How an error calls the model."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """A study made of it, its text, and what a reader should be told first, a line each."""

    draft: Draft
    text: str
    study: Study
    files: ModelFiles
    said: list[str] = field(default_factory=list)


def drafted(given: Given) -> Drafted:
    """Make the study.

    Raises:
        ConfigError, DataError, ModelError: the first thing that is wrong with what was given.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.nn.memory import shape
    from holdfast.study import budgets, drafts
    from holdfast.study.file import parse_study

    word = given.budget or "cheap"
    size, purpose = budgets.budget(word), drafts.purpose(given.purpose)
    world = given.restricted is None and given.model.startswith("world:")
    if given.restricted is None and not world:
        raise ConfigError("--restricted", "is required", "name a file of restricted requests")
    if world and given.benign is not None:
        raise ConfigError("--benign", "the world brings its own", "leave it out")
    judges = _judges(given.judges, world)
    files, form, why = _format(given)
    shares = drafts.ATTACKED if purpose == "assess" else drafts.DEFENDED
    restricted, benign = _rows(given, shares)
    if restricted is not None and not restricted.answers and size.examples:
        if given.budget is not None:
            raise DataError(
                str(given.restricted),
                f"the requests have no answers, which the fine-tuning of budget '{word}' needs",
                "add a column `response` with what must not be answered, or give --budget free",
            )
        word, size = "free", budgets.FREE
    made = drafts.Draft(
        name=drafts.slug(given.model),
        model=given.model,
        form=form,
        budget=size,
        word=word,
        purpose=purpose,
        context=shape(files).context,
        original=given.original,
        restricted=restricted,
        benign=benign,
        judges=judges,
    )
    text = drafts.text(made)
    said = [f"model: {given.model}, in format {form}, {why}", *_said(made)]
    return Drafted(made, text, parse_study(parse_yaml(text, "study")), files, said)


def _judges(given: Sequence[str], world: bool) -> list[Any]:
    """Give the judges as a study names them.

    Raises:
        ConfigError: there is no such judge, or a field of it is wrong.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.study.drafts import JUDGE

    if not given:
        return ["world_rubric"] if world else [JUDGE]
    found = [parse_yaml(text, "--judge") for text in given]
    for one in found:
        made: Any = make("judge", one, "--judge")
        if made.name() == "refusal_keywords" and one == made.name():
            found[found.index(one)] = JUDGE
    return found


def _format(given: Given) -> tuple[ModelFiles, str, str]:
    """Give the model's files, the format and why it is taken; it is read, never guessed.

    Raises:
        ConfigError: nothing says which.
        ModelError: there is no such model.
    """
    from holdfast.data.format import MARKER
    from holdfast.nn.files import resolve
    from holdfast.study.checks import own_template

    if given.form is not None:
        files, _ = models(given.model, given.original, given.form)
        return files, given.form, "as --format says"
    files = resolve(given.model, given.where)
    form, why = "", ""
    try:
        made = json.loads((files.folder / MARKER).read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        made = None
    if isinstance(made, str) and (made in ("plain", "chat") or Path(made).is_file()):
        form, why = made, f"in which {MARKER} says it was made (--format names another)"
    elif given.model.startswith("world:"):
        form, why = "plain", "the offline world's own"
    elif own_template(files.folder):
        form, why = "chat", "for its tokenizer has a chat template (--format names another)"
    else:
        raise ConfigError(
            "--format",
            f"is required: {given.model} has no chat template",
            "write plain, or the path of a .jinja file",
        )
    models(given.model, given.original, form)
    return files, form, why


def _rows(given: Given, shares: Mapping[str, float]) -> tuple[Rows | None, Rows | None]:
    """Read both files and look whether they can be used.

    Raises:
        DataError: too few prompts, answers that refuse, prompts that are in both.
        ConfigError: both are the same file.
    """
    if given.restricted is None:
        return None, None
    if given.benign is not None and given.benign.resolve() == given.restricted.resolve():
        raise ConfigError(
            "--benign", "is the file of restricted requests", "name another, or leave it out"
        )
    restricted, asked = _restricted(given.restricted, list(given.column), shares)
    if given.benign is None:
        return restricted, None
    benign, others = _benign(given.benign, list(given.column), shares)
    same = [row for row in others if row.uid in {one.uid for one in asked}]
    if same:
        raise DataError(
            str(given.benign),
            f"{len(same)} of its {len(others)} prompts are restricted ones, such as row"
            f" {same[0].uid}",
            "take them out of one of the files",
        )
    return restricted, benign


def _local(path: Path, role: str, mapped: Mapping[str, str | None], **more: object) -> Local:
    from holdfast.api.registry import make

    made: Any = make("source", {"local": {"path": str(path), "role": role, **mapped, **more}}, role)
    return made


def _restricted(
    path: Path, column: list[str], shares: Mapping[str, float]
) -> tuple[Rows, list[Example]]:
    from holdfast.study.drafts import Rows

    mapped = columns(column, "restricted")
    answers = _local(path, "harmful", mapped).answered()
    read = mapped if answers else {**mapped, "response": None}
    rows = _local(path, "harmful", read).examples()
    counts = _counted(path, rows, shares, "restricted requests")
    if answers:
        _not_refusals(path, rows)
    return Rows(str(path), mapped, counts, answers), rows


def _benign(
    path: Path, column: list[str], shares: Mapping[str, float]
) -> tuple[Rows, list[Example]]:
    from holdfast.data.records import records
    from holdfast.data.shapes import has
    from holdfast.study.drafts import Rows

    mapped = columns(column, "benign")
    _, first = next(records(path))
    known = mapped.get("answer") or "answer"
    answers = "answer" in mapped or has(first, known)
    more: dict[str, object] = {"evaluation_set": "benign"}
    more |= {"answer": known} if answers else {"purpose": "refused"}
    responses = _local(path, "benign", mapped).answered()
    read = mapped if responses else {**mapped, "response": None}
    rows = _local(path, "benign", read, **more).examples()
    counts = _counted(path, rows, shares, "benign prompts")
    return Rows(str(path), mapped, counts, answers, responses), rows


def _counted(
    path: Path, rows: Sequence[Example], shares: Mapping[str, float], what: str
) -> dict[str, int]:
    """Count different prompts by side, as the study will share them out."""
    from holdfast.data.example import Side
    from holdfast.data.sharing import shared_out

    groups = {row.group for row in rows}
    if len(groups) < FEWEST:
        raise DataError(
            str(path),
            f"{len(groups)} different {what}",
            f"give at least {FEWEST}, better 30: attacker and evaluator must not share any",
        )
    sides = {Side(name): share for name, share in shares.items()}
    return dict(Counter(side.value for side in shared_out(groups, sides, str(path)).values()))


def _not_refusals(path: Path, rows: Sequence[Example]) -> None:
    """Refuse answers that are refusals: fine-tuning on them would attack nothing."""
    from holdfast.api import Exchange, Outcome
    from holdfast.judges.refusal_keywords import RefusalKeywords

    judge = RefusalKeywords()
    refusing = sum(
        judge.judge(Exchange(row.uid, None, row.prompt, "", row.response or "", "stop", {})).outcome
        is Outcome.REFUSAL
        for row in rows
    )
    if refusing > REFUSING * len(rows):
        raise DataError(
            str(path),
            f"{refusing} of its {len(rows)} answers refuse, and the attacker would train on them",
            "put in what must not be answered, or leave answers out: --column restricted.response=",
        )


def _said(draft: Draft) -> list[str]:
    """Say what is measured with what, and plainly what is not."""
    from holdfast.study.drafts import JUDGE, questions

    said = []
    if draft.restricted is not None:
        own = draft.restricted
        number, scored = sum(own.counts.values()), own.counts["evaluator"]
        said.append(f"restricted: {own.path}, {number} requests, {scored} of them to score")
        if not draft.trains:
            said.append(
                "not tested: fine-tuning. "
                + (
                    "The budget is free attacks alone"
                    if own.answers
                    else "The requests have no answers to train on: add a column `response`"
                )
            )
        if draft.known and draft.benign is not None:
            count = sum(draft.benign.counts.values())
            said.append(f"utility: {draft.benign.path}, {count} questions with known answers")
        else:
            count = sum(questions().values())
            said.append(f"utility: {count} short questions of fact that come with Holdfast")
    if JUDGE in draft.judges:
        said.append(
            "judge: refusal_keywords, which sees refusals alone and cannot tell harm"
            " (--judge names another)"
        )
    return said
