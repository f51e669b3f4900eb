"""From finished artefacts to the two tables a report is made from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from holdfast.api import (
    PAID,
    Chain,
    Control,
    EvalPurpose,
    EvalSet,
    Known,
    Method,
    Outcome,
    PromptAttack,
    Scorer,
    Trainable,
    TrainedAttack,
    TrainedDefence,
)
from holdfast.api.matching import matches
from holdfast.data.example import Example
from holdfast.engine import draws, hosting
from holdfast.engine.holes import holes
from holdfast.engine.inert import checks
from holdfast.engine.leakage import leakage
from holdfast.engine.naming import method_text
from holdfast.engine.store import Store
from holdfast.engine.work import left
from holdfast.errors import DataError, HoldfastError
from holdfast.nn.history import history, spent
from holdfast.study import formats
from holdfast.study.checks import doubted
from holdfast.study.hosting import Hosted, asked_of, shared_critics
from holdfast.study.keys import digest
from holdfast.study.nodes import Generate, Track
from holdfast.study.plan import Plan
from holdfast.study.runnable import unshown

EXACT = "exact"
"""The judge's name in rows that are compared with a known answer."""
GRADES = {Outcome.RIGHT: True, Outcome.WRONG: False, Outcome.DEGENERATE: False}
"""What a grader's word says of an answer; what is no language is no right answer."""

Row = dict[str, Any]


def outcomes(
    plan: Plan,
    store: Store,
    lineups: Collection[str] = (),
    tracks: Sequence[Track] | None = None,
) -> list[Row]:
    """Give the outcomes table: one row per cell, prompt and judge, in the study's order.

    Of some line-ups alone where any are named, and of other `tracks` than the attackers' where they
    are given. What is not in the store is left out; `holes` names it.
    """
    known: dict[str, list[Row]] = {}
    rows: list[Row] = []
    have = {kind: store.keys(kind) for kind in ("generate", "judge")}
    owned: dict[tuple[str, int], int] = {}
    for track in plan.tracks if tracks is None else tracks:
        if lineups and track.lineup not in lineups:
            continue
        for budget, point in track.points:
            cell = _cell(track, budget) | {"distinct": _distinct(plan, track, budget, owned)}
            for step in asked_of(plan, track, point):
                if step.key not in have["generate"]:
                    continue
                if step.key not in known:
                    known[step.key] = list(_answers(plan, store, step, have["judge"]))
                rows += [{**cell, **row} for row in known[step.key]]
    return rows


def _distinct(
    plan: Plan, track: Track, budget: float, owned: dict[tuple[str, int], int]
) -> int | None:
    """Give the distinct rows a trained attack has used by a budget; None where nothing is trained.

    Rows come in epochs, so no row is used twice before each was used once.
    """
    if not isinstance(track.method, TrainedAttack | Chain):
        return None
    place = (digest(track.method.identity()), track.seed)
    if place not in owned:
        owned[place] = track.method.distinct_rows(plan.attack_pool, track.seed)
    return min(int(budget), owned[place])


def _cell(track: Track, budget: float) -> Row:
    return {
        "lineup": track.lineup,
        "model": track.released.start.name,
        "attack": track.attacker,
        "variant": track.variant,
        "access": _access(track),
        "seed": track.seed,
        "budget": budget,
        "unit": track.method.unit,
    }


def _access(track: Track) -> str:
    """Give what the attacker holds: data alone where a host runs the loop.

    After an open release he holds the weights, whatever the attack makes of them.
    """
    return (Control.DATA if isinstance(track.method, Hosted) else Control.WEIGHTS).value


def _answers(plan: Plan, store: Store, step: Generate, judged: set[str]) -> Iterator[Row]:
    """Give the rows of one set of answers: one per judge, or one compared with the truth."""
    prompts = plan.prompts[step.evaluation]
    uids = [row.uid for row in prompts.rows for _ in range(step.draws)]
    answers = store.joined("generate", step.key, "exchanges.jsonl", uids)
    spent = store.manifest("generate", step.key)["result"]
    verdicts = {
        j: store.joined("judge", name, "verdicts.jsonl", uids)
        for j, name in step.judges.items()
        if name in judged
    }
    # Over-refusal is one row an answer, with what its judge and the known answer say of it.
    by_judge = len(step.judges) > 0 and prompts.set.purpose is not EvalPurpose.OVER_REFUSAL
    many = step.draws
    for i, example in enumerate(prompts.rows):
        drawn = slice(i * many, (i + 1) * many)
        base = {
            "steps": spent["steps"],
            "flops": spent["flops"],
            "side": prompts.side,
            "set": prompts.set.name,
            "purpose": prompts.set.purpose.value,
            "style": example.known.style,
            "uid": example.uid,
            "group": example.group,
            "category": example.category,
        }
        if by_judge:
            for j, lines in verdicts.items():
                which = draws.chosen(lines[drawn])
                line = lines[drawn][which]
                graded = prompts.set.scorer is Scorer.GRADER
                yield {
                    **base, "judge": plan.judges[j].name(),
                    **(_graded(line) if graded else _judged(line, lines[drawn])),
                    **_said(example, answers[drawn][which]), "draws": many,
                }  # fmt: skip
            continue
        (answer,) = answers[drawn]
        line = next((own[i] for own in verdicts.values()), {"outcome": None, "reason": "ok"})
        yield {
            **base,
            "judge": EXACT,
            "score": None,
            "outcome": line["outcome"],
            "reason": line["reason"],
            "correct": correct(prompts.set, example.known, answer),
            **_said(example, answer),
            "draws": many,
            "harmful_draws": None,
        }


def _judged(line: Row, drawn: Sequence[Row]) -> Row:
    """Give what a judge found of a prompt: the verdict that stands for it, and harmful draws."""
    found = {name: line[name] for name in ("score", "outcome", "reason")}
    return {**found, "correct": None, "harmful_draws": draws.harmful(drawn)}


def _graded(line: Row) -> Row:
    """Give what a grader found: right, wrong or, with its reason, neither. No outcome is known."""
    right = GRADES.get(line["outcome"])
    return {
        "score": None,
        "outcome": None,
        "reason": line["reason"],
        "correct": right,
        "harmful_draws": None,
    }


def _said(example: Example, answer: Mapping[str, Any]) -> Row:
    return {
        "prompt": example.prompt,
        "response": answer["response"],
        "finish_reason": answer.get("finish_reason", "choice"),
    }


def correct(of: EvalSet, known: Known, answer: Mapping[str, Any]) -> bool | None:
    """Compare an answer with the expected one, as its set asks for; None where there is none.

    Raises:
        DataError: lm-eval gives no right or wrong by the set's metric.
    """
    if "metrics" in answer:
        value = answer["metrics"].get(of.metric)
        if value not in (0.0, 1.0):
            raise DataError(
                f"evaluation set '{of.name}'",
                f"metric '{of.metric}' is {value} for a document, not 0 or 1",
                "choose another `metric` of the source lm_eval",
            )
        return value == 1.0
    if "choice" in answer:
        return int(answer["choice"]) == known.answer_index
    if known.answer is None:
        return None
    return matches(str(answer["response"]), known.answer, of.match, known.after)


def lineups(plan: Plan, store: Store) -> list[Row]:
    """Give the line-ups table: what each line-up is and cost, one row per seed."""
    rows = []
    seen = set()
    checked = checks(plan, store)
    for track in plan.tracks:
        if (track.lineup, track.seed) in seen:
            continue
        seen.add((track.lineup, track.seed))
        chain = track.released.chain
        if not all(store.has("defend", step.key) for step in chain):
            continue
        check = checked[track.lineup]
        results = [store.manifest("defend", step.key)["result"] for step in chain]
        steps, flops = spent(history(track.released.start.files.folder))
        rows.append(
            {
                "lineup": track.lineup,
                "model": track.released.start.name,
                "defences": " + ".join(method_text(step.method) for step in chain) or "none",
                "seed": track.seed,
                "weights": _weights(track),
                "steps": steps + sum(result["steps"] for result in results),
                "flops": flops + float(sum(result["flops"] for result in results)),
                "inert": check.inert,
                "signal": check.signal,
                "moves": check.moves,
                "measured": check.values.get(track.seed),
                "beside": check.beside.get(track.seed),
                "undecided": check.undecided,
                "note": plan.study.lineups[track.lineup].note,
                "diagnostics": results[-1]["diagnostics"] if results else {},
            }
        )
    return rows


def _weights(track: Track) -> str:
    """Give the key of a line-up's weights: the same at every seed where nothing was trained."""
    chain = track.released.chain
    if any(isinstance(step.method, TrainedDefence) for step in chain):
        return track.released.key
    edits = [step.method.identity() for step in chain]
    return digest([track.released.start.key, edits]) if edits else track.released.key


def made_on(plan: Plan, store: Store) -> dict[str, str]:
    """Say on what the artefacts were made, by their manifests; more than one value is told."""
    seen: dict[str, set[str]] = {}
    kinds = ("defend", "generate", "measure")
    made = [(kind, key) for kind in kinds for key in plan.needed[kind] & store.keys(kind)]
    for kind, key in sorted(made):
        manifest = store.manifest(kind, key)
        about = dict(manifest["environment"])
        about |= about.pop("versions")
        about |= {"device": manifest["device"], "git commit": manifest["git"]}
        for name, value in about.items():
            seen.setdefault(name, set()).add(str(value))
    return {name: " and ".join(sorted(values)) for name, values in seen.items()}


def _origins(plan: Plan) -> dict[str, str]:
    """Say where published rows came from: the commit, and what was dropped."""
    told = ((source.name(), source.origin()) for source in plan.sources)
    return {f"rows of {name}": origin for name, origin in told if origin}


def attacks(plan: Plan) -> dict[str, Row]:
    """Say what each attacker's budgets count, and where it gives the public original itself."""
    return {
        name: {
            "unit": choices[0].unit,
            "free": choices[0].unit != PAID,
            "weights_alone": all(choice.weights_alone for choice in choices),
            "prompts": all(isinstance(choice, PromptAttack) for choice in choices),
            "original_at": sorted(
                {p for choice in choices for p in choice.points() if choice.returns_original(p)}
            ),
        }
        for name, choices in plan.attacks.items()
    }


def categories(plan: Plan) -> dict[str, Row]:
    """Name the line-ups and the attackers that keep to some categories, and their categories."""

    def seen(methods: Sequence[Method]) -> list[str]:
        each = [one.categories for one in methods if isinstance(one, Trainable)]
        return sorted({word for some in each for word in some}) if each and all(each) else []

    lineups = {
        name: {"method": " + ".join(one.name() for one in members), "categories": seen(members)}
        for name, members in plan.lineups.items()
        if members
    }
    trained = {
        name: seen([one.then if isinstance(one, Chain) else one for one in choices])
        for name, choices in plan.attacks.items()
    }
    attackers = {name: words for name, words in trained.items() if words}
    return {"lineups": lineups, "attacks": attackers} if attackers else {}


def _original(plan: Plan) -> str:
    """Name the line-up that is the public original as it is; empty where there is none."""
    if plan.original is None:
        return ""
    for name, lineup in plan.study.lineups.items():
        if not lineup.defences and plan.starts[lineup.start].key == plan.original.key:
            return name
    return ""


def meta(plan: Plan, store: Store, failures: Sequence[HoldfastError] = ()) -> dict[str, Any]:
    """Give what the report says of the study itself."""
    study = plan.study
    asked = {prompts.set.name for prompts in plan.prompts}
    flags = formats.flags(plan.starts.values())
    flags += [f"judge '{judge.name()}': {judge.caution}" for judge in plan.judges if judge.caution]
    flags += shared_critics(plan.hosting, plan.judges)
    if study.generation.draws > 1:
        flags.append(
            f"each restricted prompt was answered {study.generation.draws} times and counts as "
            "harmful where any answer is"
        )
    counts = plan.judges[0].counts()
    harm = [judge for judge in plan.judges if not judge.tells_right]
    grader = next((judge.name() for judge in plan.judges if judge.tells_right), None)
    world = all(start.entry.path.startswith("world:") for start in plan.starts.values())
    if plan.pool.dropped:
        dropped = ", ".join(f"{n} of {side.value}" for side, n in sorted(plan.pool.dropped.items()))
        flags.append(f"rows dropped because their group is seen on two sides: {dropped}")
    return {
        "name": study.name,
        "study": plan.seedless,
        "title": study.title,
        "seeds": list(study.seeds),
        "thresholds": list(study.thresholds),
        "judges": [judge.name() for judge in harm],
        **({} if grader is None else {"grader": grader}),
        "scales": {judge.name(): [judge.scale.low, judge.scale.high] for judge in harm},
        "headline": plan.headline.set.name,
        "sets": {one.name: one.label for one in plan.pool.sets.values() if one.name in asked},
        "reference": study.reference.model_dump(),
        "least_use": study.least_use,
        "utility": list(study.utility or ()),
        "matches": {p.set.name: p.set.match.value for p in plan.prompts if p.compared},
        "original": _original(plan),
        "attacks": attacks(plan),
        "holes": holes(plan, store, failures),
        "provenance": {**made_on(plan, store), **_origins(plan), "plan": plan.fingerprint}
        | {"prompts": formats.samples(plan.starts.values())},
        "not_tested": [*study.not_tested, *_missing(plan), *flags],
        "tuning": tuned(plan, store),
        **hosting.about(plan, store),
        "categories": categories(plan),
        "published": plan.published,
        "leakage": asdict(leakage(plan, store)),
        "world": world,
        **({} if counts is Outcome.HARMFUL_USEFUL else {"counts": counts.value}),
        "flags": flags,
        "doubts": doubted(plan.starts.values()),
    }


def tuned(plan: Plan, store: Store) -> dict[str, Any]:
    """Say what honest fine-tuning taught each line-up; nothing where the study has none."""
    method = plan.tuning
    if method is None:
        return {}
    rows = outcomes(plan, store, tracks=plan.tunings)
    loop = method.loop
    how = f"rate {loop.lr:g}, batch {loop.batch}{f', LoRA {loop.lora.rank}' if loop.lora else ''}"
    from holdfast.stats.rows import Outcomes
    from holdfast.stats.tuning import gains

    table = Outcomes(rows)
    found = gains(table, plan.judges[0].name(), plan.study.reference.none)
    return {"role": method.role, "loop": how, "gains": [asdict(one) for one in found]}


def _missing(plan: Plan) -> list[str]:
    """Name the reference rows, and the sets, that the study does without."""
    study, told = plan.study, unshown(plan.study, plan.prompts)
    if study.reference.none not in study.lineups:
        told.append(f"no line-up '{study.reference.none}': nothing is compared with no defence")
    if plan.attacks and all(choices[0].unit == PAID for choices in plan.attacks.values()):
        told.append(
            "no attack that trains nothing: whether this can be opened for free is not known"
        )
    signals = any(one.signal for members in plan.lineups.values() for one in members)
    if signals and study.reference.plain not in study.lineups:
        told.append(
            f"no line-up '{study.reference.plain}': no defence is checked for having done nothing"
        )
    return told


def check_whole(plan: Plan, store: Store) -> None:
    """Refuse to make tables from a study that is not finished."""
    work = left(plan, store)
    missing = sum(todo for _, todo in work.counts.values())
    if missing:
        raise HoldfastError(
            f"study '{plan.study.name}'",
            f"{missing} of its steps are not in {store.folder}",
            "run `holdfast run` with the same study file first",
        )
