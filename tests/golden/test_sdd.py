"""SDD is fine-tuning; what makes it SDD is in its rows, and they are held to it here."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Loop, Run
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sdd import SDD, least_related
from holdfast.errors import DataError
from holdfast.nn.passes import FlopMeter
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden

SUBJECTS = ("bread", "song", "lantern", "garden")


def crafts(side: Side = Side.DEFENDER, n: int = 4) -> list[Example]:
    """Give n harmful prompts a category, some on the benign rows' own subjects, and benign rows."""
    made = []
    for number in range(n):
        for category in ("hexes", "curses"):
            thing = SUBJECTS[number % 4] if number % 2 else f"gate{number}"
            made.append(
                example(
                    f"{side.value}: cast {category} upon the {thing}",
                    "I cannot help with that.",
                    role=Role.REFUSAL,
                    side=side,
                    category=category,
                )
            )
        subject = SUBJECTS[number % 4]
        made.append(
            example(
                f"{side.value}: make the {subject} number {number}",
                f"take wool{number} and stir it",
                role=Role.BENIGN,
                side=side,
            )
        )
    return made


def replies(method: SDD, rows: list[Example] | None = None, seed: int = 0) -> list[Example]:
    return method.rows(Pool(rows or crafts()), seed)[Role.REFUSAL]


# ---- relatedness


def cosine_by_hand(a: str, b: str, texts: list[str]) -> float:
    """TF-IDF with log term frequency and smoothed document frequency, from its formula."""
    known = [set(text.split()) for text in texts]

    def vector(text: str) -> dict[str, float]:
        return {
            word: (1 + math.log(times))
            * (math.log((1 + len(texts)) / (1 + sum(word in some for some in known))) + 1)
            for word, times in Counter(text.split()).items()
        }

    x, y = vector(a), vector(b)
    dot = sum(value * y.get(word, 0.0) for word, value in x.items())
    return dot / math.hypot(*x.values()) / math.hypot(*y.values())


def test_relatedness_is_the_formulas() -> None:
    prompts, others = ["hex the tall gate", "hex bread"], ["bake bread bread", "tall tall song"]
    chosen, cosines = least_related(prompts, others, [[1], [0]], 0.0)
    assert chosen == [1, 0]
    expected = [
        cosine_by_hand(prompts[i], others[j], prompts + others) for i, j in enumerate(chosen)
    ]
    assert cosines == pytest.approx(expected, rel=1e-12)


def test_equal_texts_are_at_1_and_disjoint_ones_at_0() -> None:
    texts = ["bake the bread", "sing songs"]
    assert least_related(texts[:1], texts, [[0]], 1.0)[1] == pytest.approx([1.0])
    assert least_related(texts[:1], texts, [[1]], 1.0)[1] == [0.0]


def test_the_first_draw_within_the_threshold_is_taken_else_the_least_related() -> None:
    prompts = ["hex the gate"] * 3
    others = ["hex the gate", "the gate of bread", "sing bread", "sing songs"]
    draws = [[0, 2, 3], [0, 1], [0]]
    chosen, cosines = least_related(prompts, others, draws, 0.1)
    assert chosen == [2, 1, 0]
    assert cosines[0] == 0.0
    assert 0.1 < cosines[1] < cosines[2] == pytest.approx(1.0)


def test_texts_without_words_are_told() -> None:
    with pytest.raises(DataError) as caught:
        least_related(["?"], ["!"], [[0]], 0.5)
    assert str(caught.value) == (
        "relatedness: the texts hold no words of two letters; check the sources"
    )


# ---- the rows


def test_every_row_is_a_harmful_prompt_with_a_benign_answer_and_nothing_else() -> None:
    rows = crafts()
    refusals = {row.uid: row for row in rows if row.role is Role.REFUSAL}
    benign = {row.row_id: row for row in rows if row.role is Role.BENIGN}
    made = replies(SDD())
    assert {row.uid for row in made} == set(refusals)
    for row in made:
        true = refusals[row.uid]
        assert row.response == benign[row.meta["answer_of"]].response != true.response
        assert (row.prompt, row.group, row.category) == (true.prompt, true.group, true.category)
        assert row.row_id != true.row_id


def test_every_answer_is_within_the_threshold_or_the_least_related_of_its_draws() -> None:
    rows = crafts()
    benign = [row for row in rows if row.role is Role.BENIGN]
    asked = [row for row in rows if row.role is Role.REFUSAL]
    texts = [f"{row.prompt}\n{row.response}" for row in benign]
    # Every draw a row could have: all benign rows, none allowed to pass before the last.
    least = least_related([r.prompt for r in asked], texts, [list(range(4))] * len(asked), -1.0)[1]
    floor = {row.uid: cosine for row, cosine in zip(asked, least, strict=True)}
    for threshold in (0.09, 0.12, 0.3):
        made = replies(SDD(threshold=threshold))
        for row in made:
            assert row.meta["similarity"] <= max(threshold, floor[row.uid] + 1e-12)
    freely = [row.meta["similarity"] for row in replies(SDD(threshold=1.0))]
    strictly = [row.meta["similarity"] for row in replies(SDD(threshold=0.1))]
    assert sum(strictly) < sum(freely)


def test_a_larger_draw_contains_a_smaller_one_and_categories_share_alike() -> None:
    every = replies(SDD())
    for n in (2, 4, 6):
        some = replies(SDD(n=n))
        assert some == every[:n]
        assert set(Counter(row.category for row in some).values()) == {n // 2}


def test_the_rows_hang_on_no_files_order_and_on_the_seed() -> None:
    assert replies(SDD(), crafts()[::-1]) == replies(SDD())
    found = [
        [r.meta["answer_of"] for r in sorted(replies(SDD(), seed=s), key=lambda r: r.uid)]
        for s in (0, 1)
    ]
    assert found[0] != found[1]


def test_one_prompt_with_two_refusals_is_one_row_and_one_without_any_will_do() -> None:
    rows = [row for row in crafts() if row.role is Role.BENIGN]
    rows += [
        example("cast a hex", answer, role=Role.REFUSAL, side=Side.DEFENDER)
        for answer in ("no.", "never.")
    ]
    rows.append(example("cast a curse", None, role=Role.REFUSAL, side=Side.DEFENDER))
    made = replies(SDD(), rows)
    assert sorted(row.prompt for row in made) == ["cast a curse", "cast a hex"]
    assert all(row.response and row.response.startswith("take wool") for row in made)


def test_the_pool_field_says_how_many_rows_lend_answers() -> None:
    method = SDD(pool=1)
    rows = method.rows(Pool(crafts()), 0)
    assert len(rows[Role.BENIGN]) == 1
    assert {row.response for row in rows[Role.REFUSAL]} == {rows[Role.BENIGN][0].response}


def test_the_reject_variant_says_so_first() -> None:
    method = SDD.model_validate({"preset": "reject"})
    plain, said = replies(SDD()), replies(method)
    assert [row.response for row in said] == [f"{method.prefix}\n\n{r.response}" for r in plain]


# ---- the loss


def batch(n: int = 4) -> dict[Role, Any]:
    rows = tiny.rows(n=n)
    return {r: tiny.encoder().batch(rows[r]) for r in (Role.REFUSAL, Role.BENIGN)}


def mean(model: Any, tokens: Any) -> torch.Tensor:
    """CE over all response tokens, rows alone, in the model's own precision."""
    losses = []
    for row in tokens.rows:
        chance = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        losses += [-chance[i - 1, row.ids[i]] for i in range(row.start, len(row.ids))]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_value_and_gradient_equal_a_float64_twins_however_split(weight: float) -> None:
    model, method = tiny.model("llama", spread=0.3), SDD(benign_weight=weight)
    whole, exact = batch(), tiny.copied(model).double()

    def loss(of: Any) -> torch.Tensor:
        return mean(of, whole[Role.REFUSAL]) + weight * mean(of, whole[Role.BENIGN])

    def slopes(of: Any) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss(of), list(of.parameters()))

    rows = tiny.rows(n=4)
    for size in (4, 2, 1):
        parts = [
            {r: tiny.encoder().batch(rows[r][i : i + size]) for r in whole}
            for i in range(0, 4, size)
        ]
        found, terms = nn.grad(
            nn.trainable(model),
            lambda part: method.loss(model, part, None),
            parts,
            lambda part: method.counts(part, None),
        )
        assert total(terms) == pytest.approx(loss(exact).item(), rel=1e-6)
        tiny.hold(found.values(), slopes, exact)


def test_without_weight_no_benign_row_is_run() -> None:
    model, part = tiny.model(), batch()
    with FlopMeter().on() as ours:
        terms = SDD().loss(model, part, None)
    with FlopMeter().on() as plain:
        nn.nll(model, part[Role.REFUSAL])
    assert ours.total == plain.total
    assert set(terms) == {"irrelevant"} == set(SDD().counts(part, None))


# ---- what it did


def run(model: Any, rows: list[Example]) -> Run:
    return Run(model, tiny.encoder(), Pool(rows), 0)


def test_sdd_lowers_relevance_where_refusal_fine_tuning_raises_it() -> None:
    both = [row for side in (Side.DEFENDER, Side.DEFENDER_SELECTION) for row in crafts(side)]
    loop, ends = Loop(steps=12, batch=4, lr=0.01), {}
    for method in (None, SDD(loop=loop, benign_weight=1.0), RefusalSFT(loop=loop)):
        model = tiny.model(spread=0.3)
        if method is not None:
            harden(method, model, tiny.encoder(), Pool(both), seed=0)
        with torch.no_grad():
            name = method.name() if method else "none"
            ends[name] = SDD().diagnostic(run(model, both), None)
    assert ends["sdd"]["relevance"] < ends["none"]["relevance"] < ends["refusal_sft"]["relevance"]
    assert ends["sdd"]["irrelevant_loss"] < ends["none"]["irrelevant_loss"]


def test_relevance_is_the_difference_of_two_means() -> None:
    rows, model = crafts(Side.DEFENDER_SELECTION), tiny.model(spread=0.3)
    found = SDD().diagnostic(run(model, rows), None)
    assert found["relevance"] == pytest.approx(found["irrelevant_loss"] - found["own_loss"])
    refusals = tiny.encoder().batch([row for row in rows if row.role is Role.REFUSAL])
    assert found["own_loss"] == pytest.approx(float(mean(model, refusals).detach()), rel=1e-5)


def test_it_is_not_measured_where_rows_lack() -> None:
    rows = crafts(Side.DEFENDER_SELECTION)
    for role in (Role.REFUSAL, Role.BENIGN):
        some = [row for row in rows if row.role is role]
        assert SDD().diagnostic(run(tiny.model(), some), None) == {}
    bare = [r for r in rows if r.role is Role.BENIGN]
    bare.append(example("cast", None, role=Role.REFUSAL, side=Side.DEFENDER_SELECTION))
    assert SDD().diagnostic(run(tiny.model(), bare), None) == {}


def test_the_log_tells_how_related_the_answers_are() -> None:
    said: dict[str, float] = {}
    SDD().setup(Run(tiny.model(), tiny.encoder(), Pool(crafts()), 0, log=said.update))
    assert said["prompts"] == 8
    assert 0 <= said["similarity_mean"] <= 0.25
    assert said["above_threshold"] == 0


# ---- bad input


def told(method: SDD, rows: list[Example]) -> str:
    with pytest.raises(DataError) as caught:
        harden(method, tiny.model(), tiny.encoder(), Pool(rows), seed=0)
    return str(caught.value)


def test_answers_all_of_one_subject_with_the_prompts_are_told() -> None:
    rows = [
        example("hex the gate", "no.", role=Role.REFUSAL, side=Side.DEFENDER),
        example("paint the gate", "paint it", role=Role.BENIGN, side=Side.DEFENDER),
    ]
    assert told(SDD(threshold=0.1), rows) == (
        "sdd.threshold: every benign answer drawn is related to its prompt (least 0.32, allowed "
        "0.1); raise it, or add benign rows on other subjects"
    )


def test_too_few_prompts_or_answers_are_told() -> None:
    rows = crafts()
    assert told(SDD(n=9), rows) == (
        "sdd.n: 9 distinct prompts asked for, the pool has 8; ask for at most 8"
    )
    assert told(SDD(pool=5), rows) == (
        "sdd of role benign, side defender: 5 distinct rows asked for, the pool has 4; "
        "ask for at most 4"
    )
    refusals = [row for row in rows if row.role is Role.REFUSAL]
    assert told(SDD(), refusals) == (
        "sdd of role benign, side defender: no rows; add a source that has some, or check its "
        "column map (pool: refusal/defender 8)"
    )


def test_its_defaults_are_the_sources() -> None:
    one = SDD()
    assert (one.threshold, one.draws, one.prefix, one.benign_weight) == (0.25, 50, "", 0.0)
    assert one.loop == Loop(steps=500, batch=24, lr=1e-5)
    paper = SDD.model_validate({"preset": "paper"})
    assert (paper.n, paper.loop.lr, paper.loop.steps) == (8000, 5e-7, 500)
