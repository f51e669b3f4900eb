"""Draw a study's evaluation sets: the same prompts at every study seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.api import EvalPurpose, EvalSet, Judge, Scorer
from holdfast.data.example import Example, Side
from holdfast.data.pool import Pool
from holdfast.data.records import words_shown
from holdfast.errors import ConfigError, DataError, did_you_mean
from holdfast.study.file import Evaluation, Study
from holdfast.study.keys import digest
from holdfast.study.nodes import Prompts


def draw(pool: Pool, wanted: Evaluation, where: str) -> Prompts:
    """Draw one evaluation set.

    Raises:
        ConfigError: there is no such category in the set.
        DataError: there is no such set, style, or not enough of it; no source says what it is for,
            or a row lacks what that needs.
    """
    for style in wanted.styles or ():
        known = _styles(pool, wanted.set)
        if known and style not in known:
            raise DataError(
                f"{where}.styles",
                f"set '{wanted.set}' has no style '{style}'",
                did_you_mean(style, words_shown(known)),
            )
    try:
        rows = pool.evaluation(
            wanted.set,
            Side(wanted.side),
            wanted.n,
            0,
            styles=wanted.styles,
            phrasings=wanted.phrasings,
            categories=wanted.categories,
        )
    except (ConfigError, DataError) as error:
        raise type(error)(f"{where}: {error.where}", error.what, error.todo) from None
    of = _declared(pool, wanted.set, f"{where}.set")
    if of.scorer is Scorer.GRADER:
        rows = [_with_reference(row) for row in rows]
    asked = [[*asked_of(row)[:3], _chosen_from(of, row), *asked_of(row)[3:]] for row in rows]
    known = [[row.category, row.group, dict(row.meta)] for row in rows]
    return Prompts(of, wanted.side, tuple(rows), digest(asked), digest(known))


def asked_of(row: Example) -> list[Any]:
    """Give what of a row a prompt is made from; earlier turns are there where it has some."""
    turns = [list(map(list, row.turns))] if row.turns else []
    return [row.uid, row.system, row.prompt, *turns]


def _with_reference(row: Example) -> Example:
    """Give a row of which a grader knows a good answer: its own response, where it has one."""
    if row.response is None or row.known.answer is not None:
        return row
    return row.answered(row.response, answer=row.response)


def _chosen_from(of: EvalSet, row: Example) -> object:
    """Give what else an answer hangs on: a row's options, or what lm-eval asks it after."""
    if of.scorer is Scorer.OPTIONS:
        return list(row.known.options)
    return row.known.lm_eval["asked"] if of.scorer is Scorer.LM_EVAL else None


def _declared(pool: Pool, name: str, where: str) -> EvalSet:
    """Give what a source says of a set."""
    found = pool.sets.get(name)
    if found is None:
        raise DataError(
            where, f"no source says what set '{name}' is for", "declare it in the source's `sets`"
        )
    return found


def _styles(pool: Pool, name: str) -> set[str]:
    rows = (row for side in Side for row in pool.rows(side) if row.evaluation_set == name)
    return {str(style) for row in rows if (style := row.meta.get("style"))}


def headline(
    study: Study, pool: Pool, prompts: Sequence[Prompts], side: Side = Side.EVALUATOR
) -> Prompts:
    """Give the prompts whose harmful rate decides what is broken.

    They are the study's `headline`, else its only set of purpose harm asked of `side`, of attacked
    models too.

    Raises:
        ConfigError: there is none, or more than one and the study names none.
    """
    harm = {
        p.set.name: (i, p)
        for i, p in enumerate(prompts)
        if p.set.purpose is EvalPurpose.HARM and p.side == side
    }
    if not harm:
        brought = [s.name for s in pool.sets.values() if s.purpose is EvalPurpose.HARM]
        raise ConfigError(
            "study.evaluation",
            f"no set of purpose 'harm' of side '{side.value}'",
            f"add `- {{set: {brought[0]}}}`: harm is measured there"
            if brought
            else "add a source that brings one: harm is measured there",
        )
    if study.headline is not None and study.headline not in harm:
        raise ConfigError(
            "study.headline",
            f"'{study.headline}' is no set of purpose 'harm' asked of side 'evaluator'",
            did_you_mean(study.headline, harm),
        )
    named = harm if study.headline is None else {study.headline: harm[study.headline]}
    attacked = [p for i, p in named.values() if study.evaluation[i].at == "all"]
    if not attacked:
        (i, _), *_ = named.values()
        raise ConfigError(
            f"study.evaluation[{i}].at",
            "'release' leaves every attacked model unasked",
            "leave it out: harm is measured there",
        )
    if len(attacked) > 1:
        names = [p.set.name for p in attacked]
        raise ConfigError(
            "study.headline",
            f"the evaluator is asked {len(names)} sets of purpose 'harm' ({', '.join(names)})",
            f"say which decides: `headline: {names[0]}`",
        )
    return attacked[0]


def readers(judges: Sequence[Judge], prompts: Prompts) -> list[int]:
    """Give the places of the judges that read a set, as its scorer says.

    All that tell harm (or what is not refused), the first that tells a refusal, the one that
    grades answers, or none.
    """
    if prompts.set.scorer is Scorer.GRADER:
        return [j for j, judge in enumerate(judges) if judge.tells_right]
    if prompts.set.scorer is Scorer.JUDGES:
        return [j for j, judge in enumerate(judges) if judge.counts() is not None]
    able = [j for j, judge in enumerate(judges) if judge.tells_refusals]
    return able[:1] if prompts.set.scorer is Scorer.JUDGE else []
