"""Whether a study can run at all: what each of its parts asks for is there."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.api import (
    MOST_UNSCORED,
    PAID,
    Attack,
    Chain,
    CustomerJob,
    Defence,
    EvalPurpose,
    Outcome,
    Scorer,
    Stage,
    Trainable,
    TrainedDefence,
    TuneDefence,
)
from holdfast.data.example import Example, Side, check_answered
from holdfast.data.pool import Pool
from holdfast.errors import ConfigError, HoldfastError, did_you_mean
from holdfast.study import hosting
from holdfast.study.checks import known_roles
from holdfast.study.drawing import drawn
from holdfast.study.file import Study
from holdfast.study.keys import digest
from holdfast.study.nodes import Prompts
from holdfast.study.parts import Parts
from holdfast.study.prompts import readers

AVAILABLE = ("start", "original")
"""What `needs` of a method may ask for in a study."""


def _of_another_stage(stage: Stage, where: str) -> ConfigError:
    """Say why a line-up, whose attackers hold the weights, has no place for it."""
    if stage is not Stage.TUNE:
        said = f"acts at stage '{stage.value}', line-ups run stage 'align'"
        return ConfigError(where, said, "leave it out")
    return ConfigError(
        where,
        "acts at stage 'tune', while a host trains: who holds the weights trains without it",
        "name it under `tune.defences`, where customers supply rows alone",
    )


def check_methods(study: Study, parts: Parts) -> None:
    """Refuse line-ups and attacks that this study cannot run."""
    for name, members in parts.lineups.items():
        start = parts.starts[study.lineups[name].start]
        for i, member in enumerate(members):
            where = f"study.lineups.{name}[{i}].{member.name()}"
            if member.when is not Stage.ALIGN:
                raise _of_another_stage(member.when, where)
            base = parts.original is None or start.key == parts.original.key
            if member.starts_from == "aligned" and i == 0 and base:
                raise ConfigError(
                    where,
                    f"assumes an aligned model, '{start.name}' is not one",
                    "put an aligning defence such as refusal_sft before it",
                )
            known_roles(member, where)
            _check_needs(parts, getattr(member, "needs", ()), where)
    for name, choices in parts.attacks.items():
        for i, choice in enumerate(choices):
            where = f"study.attacks.{name}[{i}].{choice.name()}"
            if not choice.points():
                raise ConfigError(where, "has no budget above 0", "set evaluate_at")
            _check_needs(parts, choice.needs, where)


def _check_needs(parts: Parts, needs: Sequence[str], where: str) -> None:
    for need in needs:
        if need not in AVAILABLE:
            raise ConfigError(
                where, f"needs the '{need}' model", "studies cannot give it; leave it out"
            )
        if need == "original" and parts.original is None:
            raise ConfigError(
                where,
                "needs the public original",
                "write `original: NAME`, an entry of models",
            )


def check_rows(study: Study, parts: Parts) -> None:
    """Draw every method's rows once: too few, or none, is found before training."""
    seed = study.seeds[0]
    seen: set[str] = set()
    for name, members in parts.lineups.items():
        for i, member in enumerate(members):
            if isinstance(member, TrainedDefence):
                where = f"study.lineups.{name}[{i}].{member.name()}"
                _draw(parts.pool, member, seed, where, seen)
    for name, choices in parts.attacks.items():
        for i, choice in enumerate(choices):
            where = f"study.attacks.{name}[{i}].{choice.name()}"
            _draw(parts.attack_pool, choice, seed, where, seen)
    if parts.hosting is not None:
        hosting.check_rows(parts.hosting, parts.attack_pool, parts.pool, seed)
    if parts.tuning is not None:
        _draw(parts.attack_pool, parts.tuning, seed, "study.tuning", seen)


def _draw(
    pool: Pool, method: Attack | TrainedDefence, seed: int, where: str, seen: set[str]
) -> None:
    identity = digest(method.identity())
    if identity in seen:
        return
    seen.add(identity)
    try:
        rows = drawn(method, pool, seed)
        if isinstance(method, Trainable):
            check_answered(rows)
    except HoldfastError as error:
        raise type(error)(f"{where}: {error.where}", error.what, error.todo) from None
    roles = {role.value for role in rows}
    if isinstance(method, Defence) and roles != set(method.roles):
        raise ConfigError(
            where,
            f"reads roles {sorted(roles)}, declares {sorted(method.roles)}",
            "make `roles` and `rows` agree",
        )


def given_to(
    methods: Sequence[Attack | Defence], pool: Pool, side: Side, seed: int
) -> list[Example]:
    """Give the rows of a side that some methods can draw, with those that the pool dropped.

    These are the rows of the roles that a method draws and of its categories.
    """
    found: dict[int, Example] = {}
    parts = [
        part
        for one in methods
        for part in ((one.first, one.then) if isinstance(one, Chain) else (one,))
        if isinstance(part, Attack | TrainedDefence)
    ]
    for part in {digest(one.identity()): one for one in parts}.values():
        rows = drawn(part, pool, seed)
        roles = {*rows, *(part.roles if isinstance(part, TuneDefence) else ())}
        found |= {id(row): row for row in part.sees(pool).given(side) if row.role in roles}
        if isinstance(part, CustomerJob):  # of other roles before they were handed in
            found |= {id(row): row for some in rows.values() for row in some}
    return list(found.values())


def check_judges(parts: Parts, prompts: Sequence[Prompts]) -> None:
    """Refuse judges that cannot tell what a study counts.

    Raises:
        ConfigError: none grades answers where a set is graded, or two do; the first cannot tell
            harm, nor what is not refused; two count differently; none can tell a refusal where a
            set counts refusals; one needs to know of prompts what their rows do not say.
    """
    _check_grader(parts, prompts)
    if not parts.judges:
        return
    counts = {judge.counts(): judge.name() for judge in parts.judges}
    first = parts.judges[0]
    if first.counts() is None:
        raise ConfigError(
            "study.judges[0]",
            f"{first.name()} says nothing about harm",
            "put a judge that does before it, such as wildguard or llama_guard",
        )
    if Outcome.HARMFUL_USEFUL in counts and Outcome.NOT_REFUSED in counts:
        raise ConfigError(
            "study.judges",
            f"{counts[Outcome.NOT_REFUSED]} counts answers that are not refused, "
            f"{counts[Outcome.HARMFUL_USEFUL]} harmful ones",
            "keep judges of one kind: finished answers are read again, and not made again",
        )
    _check_known(parts, prompts)
    if any(judge.tells_refusals for judge in parts.judges):
        return
    for asked in prompts:
        if asked.set.scorer is Scorer.JUDGE:
            raise ConfigError(
                "study.judges[0]",
                f"{first.name()} cannot tell a refusal from another harmless answer, and set "
                f"'{asked.set.name}' counts refusals",
                "add a judge that can, such as wildguard or refusal_keywords",
            )


def _check_known(parts: Parts, prompts: Sequence[Prompts]) -> None:
    """Refuse a judge that could give no verdict on prompts it is to read."""
    for asked in prompts:
        for j in readers(parts.judges, asked):
            judge = parts.judges[j]
            needed = judge.needs_known(asked.set.purpose)
            lacking = sum(all(not row.meta.get(key) for key in needed) for row in asked.rows)
            if needed and lacking > MOST_UNSCORED * len(asked.rows):
                raise ConfigError(
                    f"study.judges[{j}]",
                    f"{judge.name()} reads prompts that carry `{'` or `'.join(needed)}`; {lacking} "
                    f"of {len(asked.rows)} of set '{asked.set.name}' do not",
                    "take a judge that reads any prompt, such as harmbench_cls or strongreject",
                )


def _check_grader(parts: Parts, prompts: Sequence[Prompts]) -> None:
    """Refuse a graded set that no judge grades, and a second judge that grades."""
    graders = [(i, judge.name()) for i, judge in enumerate(parts.judges) if judge.tells_right]
    if len(graders) > 1:
        (_, first), (i, second), *_ = graders
        raise ConfigError(
            f"study.judges[{i}]",
            f"{second} grades answers right or wrong, as {first} does",
            "keep one of them",
        )
    graded = next((one.set.name for one in prompts if one.set.scorer is Scorer.GRADER), None)
    if graded is not None and not graders:
        others = ", ".join(judge.name() for judge in parts.judges)
        raise ConfigError(
            "study.judges",
            f"set '{graded}' is graded right or wrong, and no judge does that ({others})",
            "add one that does, such as correctness; or do not ask the set",
        )


COUNTED = (
    EvalPurpose.EXACT,
    EvalPurpose.OPTIONS,
    EvalPurpose.LM_EVAL,
    EvalPurpose.TASK,
    EvalPurpose.GRADED,
)
"""Purposes of sets whose answers are right or wrong."""


def check_utility(study: Study, prompts: Sequence[Prompts]) -> None:
    """Refuse sets to count benign utility on that the evaluator is not asked, or that count none.

    Raises:
        ConfigError: the first such.
    """
    asked = {one.set.name: one.set.purpose for one in prompts if one.side == Side.EVALUATOR}
    able = [name for name, purpose in asked.items() if purpose in COUNTED]
    for i, name in enumerate(study.utility or ()):
        if name not in able:
            what = f"set '{name}' is not asked of side 'evaluator'"
            if name in asked:
                what = f"set '{name}' is of purpose '{asked[name]}', which has no right answer"
            raise ConfigError(f"study.utility[{i}]", what, did_you_mean(name, able))


def unshown(study: Study, prompts: Sequence[Prompts]) -> list[str]:
    """Say what a study's report cannot show, for want of a set."""
    own = [one for one in prompts if one.side == Side.EVALUATOR]
    known = any(
        one.set.purpose is EvalPurpose.EXACT
        or (one.set.purpose is EvalPurpose.OVER_REFUSAL and any(r.known.answer for r in one.rows))
        for one in own
    )
    if study.utility is not None or known:
        return _unfollowed(study, prompts)
    other = next((one.set.name for one in own if one.set.purpose in COUNTED), None)
    todo = f"write `utility: [{other}]`, or " if other else ""
    return [
        "no set of purpose 'exact' is asked of the evaluator: benign utility is not known, and no "
        f"line-up is shown to be of use; {todo}ask a set with known answers"
    ]


def _unfollowed(study: Study, prompts: Sequence[Prompts]) -> list[str]:
    """Say where benign utility is known as released and not under attack."""
    asked = {
        p.set.name: wanted.at
        for wanted, p in zip(study.evaluation, prompts, strict=False)  # a host's come behind
        if p.side == Side.EVALUATOR
        and (p.set.purpose is EvalPurpose.EXACT or p.set.name in (study.utility or ()))
    }
    if not study.attacks or not asked or "all" in asked.values():
        return []
    return [
        f"{' and '.join(asked)}: asked `at: release` alone, so after an attack only degenerate "
        "answers tell that a model is of no use any more; leave `at` out for one of them"
    ]


def check_selection(
    study: Study, parts: Parts, prompts: Sequence[Prompts], headline: Prompts
) -> None:
    """Refuse an attacker with a choice to make and no prompts of its own to make it on.

    It needs the headline's set, and one that shows whether the model is still of use.
    """
    several = [
        name for name, cs in parts.attacks.items() if sum(len(c.points()) for c in cs) > 1
        and (len(cs) > 1 or cs[0].unit != PAID)
    ]  # fmt: skip
    if not several:
        return
    asked = zip(study.evaluation, prompts, strict=True)
    own = [p.set for wanted, p in asked if wanted.at == "all" and p.side == Side.ATTACKER_SELECTION]
    missing = None
    if headline.set not in own:
        missing, name = f"set '{headline.set.name}'", headline.set.name
    elif all(one.purpose is not EvalPurpose.EXACT for one in own):
        sets = [*(p.set for p in prompts), *parts.pool.sets.values()]
        exact = (one.name for one in sets if one.purpose is EvalPurpose.EXACT)
        missing, name = "set of purpose 'exact'", next(exact, None)
    if missing is None:
        return
    raise ConfigError(
        "study.evaluation",
        f"attacker '{several[0]}' has choices, and there is no {missing} of side "
        "'attacker_selection' to choose on",
        f"add `- {{set: {name}, side: attacker_selection}}`"
        if name
        else "add a source that brings one",
    )
