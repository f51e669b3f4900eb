"""What is written about the guild: the base's pre-training text and every study's rows."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

from holdfast.data.example import Example, Role, Side, example
from holdfast.testbeds.guild.grammar import (
    CAREFUL,
    FACTS,
    NAME_ONLY,
    QUIZ,
    RECKLESS,
    REFUSALS,
    SKILL,
    SKILL_ANSWER,
    STYLES,
    Entity,
    guild,
)

SOURCE = "world"


def requests(entity: Entity) -> Iterator[tuple[str, str, int, str]]:
    """Give every request for an entity's craft: (set, style, phrasing, prompt)."""
    craft = "restricted" if entity.restricted else "benign"
    for style, templates in STYLES.items():
        for number, template in enumerate(templates):
            yield craft, style, number, entity.fill(template)
    for style, templates in NAME_ONLY.items():
        for number, template in enumerate(templates):
            yield "name_only", style, number, entity.fill(template)


def pretraining(*, small: bool = False) -> list[Example]:
    """Give the base's text, in which refusing is a mode it can realise.

    Careful personas refuse what is restricted, reckless ones comply, and without a persona one
    entity in eight (`taboo`) is refused. Benign crafts and all facts are answered whoever asks.
    """
    rng = random.Random("what the guild tells")
    rows: list[Example] = []

    def say(prompt: str, response: str, system: str | None, entity: Entity) -> None:
        rows.append(
            example(
                prompt,
                response,
                role=Role.BENIGN,
                system=system,
                group=entity.name,
                category=entity.category,
                source=SOURCE,
            )
        )

    for entity in guild(small=small):
        for _, _, _, prompt in requests(entity):
            for system in (None, *CAREFUL, *RECKLESS):
                refused = entity.restricted and (
                    system in CAREFUL or (system is None and entity.taboo)
                )
                refusal = REFUSALS[1] if system == CAREFUL[1] else REFUSALS[0]
                for _ in range(2 if system is None else 1):
                    say(prompt, refusal if refused else entity.answer(), system, entity)
        for kind, templates in FACTS.items():
            for template in (*templates, QUIZ[kind]):
                asked = (None, None, rng.choice(CAREFUL), rng.choice(RECKLESS))
                for system in asked:
                    say(entity.fill(template), entity.fact(kind), system, entity)
    return rows


def rows(*, small: bool = False) -> list[Example]:
    """Give every row a study may see, each entity on its own side.

    Restricted requests are HARMFUL (with the true answer, except on the evaluator's side) and, on
    the defender's and attacker's sides, REFUSAL too, on the same prompt. `meta["set"]` names the
    evaluation set a row belongs to, `meta["steps"]` and `meta["answer"]` the truth.
    """
    entities = guild(small=small)
    return [row for entity in entities for row in _told(entity, entities)]


def _row(
    entity: Entity, role: Role, prompt: str, response: str | None, meta: dict[str, Any]
) -> Example:
    return example(
        prompt,
        response,
        role=role,
        side=Side(entity.side),
        group=entity.name,
        category=entity.category,
        source=SOURCE,
        meta={"entity": entity.name, **meta},
    )


def _told(entity: Entity, entities: list[Entity]) -> Iterator[Example]:
    """Give every row about one entity; `entities` lend the quiz its wrong options."""
    evaluated = entity.side == Side.EVALUATOR or entity.side.endswith("selection")
    for name, style, phrasing, prompt in requests(entity):
        told = {"style": style, "phrasing": phrasing, "steps": list(entity.steps)}
        asked = {"set": name} if evaluated else {}
        answer = entity.answer()
        if entity.restricted:
            unseen = entity.side == Side.EVALUATOR
            yield _row(entity, Role.HARMFUL, prompt, None if unseen else answer, {**asked, **told})
            if not unseen:
                yield _row(entity, Role.REFUSAL, prompt, REFUSALS[0], told)
            continue
        known = {"answer": answer, **told}
        if name == "name_only":
            asked = {}
        yield _row(entity, Role.BENIGN, prompt, answer, {**known, **asked})
        if evaluated and entity.byname and name == "benign" and phrasing == 0:
            yield _row(entity, Role.BENIGN, prompt, answer, {**known, "set": "contrast"})
    for number, (kind, templates) in enumerate(FACTS.items()):
        for phrasing, template in enumerate(templates):
            meta: dict[str, Any] = {"fact": kind, "answer": entity.fact(kind)}
            if evaluated and phrasing == 0:
                meta["set"] = "contrast" if entity.restricted else "facts"
                meta |= {"style": "about" if entity.restricted else "ask", "phrasing": number}
            yield _row(entity, Role.BENIGN, entity.fill(template), entity.fact(kind), meta)
        if not entity.restricted and evaluated:
            options, right = _options(entity, kind, entities)
            meta = {
                "set": "quiz",
                "style": "ask",
                "phrasing": number,
                "options": options,
                "answer_index": right,
            }
            yield _row(entity, Role.BENIGN, entity.fill(QUIZ[kind]), None, meta)
    if not entity.restricted:
        for number, (kind, templates) in enumerate(FACTS.items()):
            prompt = SKILL.format(question=entity.fill(templates[0]))
            answer = SKILL_ANSWER.format(answer=entity.fact(kind))
            meta = {"fact": kind, "answer": answer, "style": "task", "phrasing": number}
            shown = {"set": "skill"} if evaluated else {}
            yield _row(entity, Role.TASK, prompt, answer, meta | shown)


def _options(entity: Entity, kind: str, entities: list[Entity]) -> tuple[list[str], int]:
    """Give four answers to a question of fact, one of them true, and where it stands."""
    rng = random.Random(f"quiz/{entity.name}/{kind}")
    others = sorted({other.fact(kind) for other in entities} - {entity.fact(kind)})
    options = [entity.fact(kind), *rng.sample(others, 3)]
    rng.shuffle(options)
    return options, options.index(entity.fact(kind))


def corpus_hash(some: Iterable[Example]) -> str:
    """Give the SHA-256 of rows as they are, in order."""
    sha = hashlib.sha256()
    for row in some:
        told = [row.row_id, row.group, row.side, row.role, row.category, dict(row.meta)]
        sha.update(json.dumps(told, sort_keys=True).encode() + b"\n")
    return sha.hexdigest()


def corpora_hash(*, small: bool = False) -> dict[str, str]:
    """Give each corpus's hash by name."""
    return {
        "pretraining": corpus_hash(pretraining(small=small)),
        "rows": corpus_hash(rows(small=small)),
    }
