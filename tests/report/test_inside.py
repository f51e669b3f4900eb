"""The section on states: its figures, its words, and its absence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from holdfast.report import inside
from holdfast.report.html import render

NAMES = ("none", "refusal_sft", "sgt")


def tables(seeds: int = 3, layers: int = 4) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make an analysis of three line-ups: those further down the list move less."""
    generator = np.random.default_rng(1)
    told = {"attack": "harmful_sft", "variant": "lr=0.001", "unit": "examples", "depth": layers}
    rows, points = [], []
    for i, name in enumerate(NAMES):
        for seed in range(seeds):
            own = {**told, "lineup": name, "seed": seed}
            for budget in (16.0, 64.0, 512.0):
                for layer in range(1, layers + 1):
                    lost = (1 - i * 0.3) * layer / layers * np.log2(budget) / 10 * (1 + seed / 20)
                    rows.append(
                        {
                            **own, "budget": budget, "layer": layer, "prompts": 32, "k": 5,
                            "cka": 1 - 0.5 * lost, "knn": 1 - 0.7 * lost, "knn_chance": 5 / 31,
                            "drift": 3 * lost,
                        }
                    )  # fmt: skip
            states = ("released", "attacked") if name == "none" else tuple(inside.STATES)
            for state in states:
                middle = {
                    "undefended": (-2, 0),
                    "goal": (2, 1),
                    "released": (1, 0.5),
                    "attacked": (0, -i),
                }[state]
                for n, (x, y) in enumerate(generator.normal(middle, 0.4, size=(32, 2)).tolist()):
                    points.append(
                        {
                            **own, "budget": 512.0 if state == "attacked" else 0.0, "uid": f"u{n}",
                            "layer": layers, "state": state, "x": x, "y": y, "share_x": 0.55,
                            "share_y": 0.2,
                        }
                    )  # fmt: skip
    return rows, points


@pytest.fixture(scope="module")
def source(make_study) -> str:
    from tests.planted import META, lineup_rows

    rows, points = tables()
    study = make_study(seeds=1, entities=4)
    return render(study, lineup_rows(1), META, analysis=rows, scatter=points)


def test_a_report_without_an_analysis_has_no_such_section(make_study, lineups, meta) -> None:
    page = render(make_study(seeds=1, entities=4), lineups, meta)
    assert "Inside the models" not in page
    assert 'href="#inside"' not in page


def test_both_figures_stand_there_with_words_for_who_cannot_see_them(source: str) -> None:
    section = source[source.index('id="inside"') : source.index('id="samples"')]
    assert 'href="#inside"' in source
    labels = re.findall(r'role="img" aria-label="([^"]+)"', section)
    assert len(labels) == 3 + 4
    assert labels[0].startswith("States of none in the plane of their two largest axes: as release")
    assert "middles at (" in labels[2]
    assert labels[3].startswith("Linear CKA with the release by budget, at the deepest block, ")
    assert "Last values: none 0." in labels[4]
    assert labels[5].startswith("Linear CKA with the release by block, at 512 examples, under harm")
    for words in (
        "first axis, 55 % of variance", "do not say whether a model is safe", "0.16 by chance",
        "panels compare in shape", "figures 6 and 7", "Dotted: what chance alone would keep.",
        "the undefended model", "after the attack", "Block 4 of 4, seed 0; triangles: after 512",
    ):  # fmt: skip
        assert words in section.replace("&#39;", "'"), words
    assert section.count("<figcaption>") == 7


def test_states_differ_in_shape_and_not_in_colour_alone() -> None:
    from holdfast.report import figures

    shapes = {(marker, filled) for _, marker, filled in figures.CLOUDS.values()}
    assert len(shapes) == len(figures.CLOUDS) == 4
    keys = {re.sub(r"#[0-9a-f]{3,6}", "", figures.cloud_key(name)) for name in figures.CLOUDS}
    assert len(keys) == 4


def test_no_id_stands_twice_and_no_style_is_inline(source: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert " style=" not in source


def test_the_table_tells_the_numbers_behind_the_curves() -> None:
    rows, points = tables()
    found = inside.gather(rows, points, NAMES)
    assert found is not None
    by = {(one["name"], one["measure"]): one["cells"] for one in found["table"]}
    assert found["budgets"] == [16.0, 64.0, 512.0]
    deep = [r["cka"] for r in rows if (r["lineup"], r["layer"], r["budget"]) == ("sgt", 4, 512.0)]
    assert by["sgt", "Linear CKA"][2] == (
        f"{np.mean(deep):.2f}", f"{min(deep):.2f}–{max(deep):.2f}",
    )  # fmt: skip
    one, _ = tables(seeds=1, layers=1)
    alone = inside.gather(one, points, NAMES)
    assert alone is not None
    assert alone["table"][0]["cells"][0][1] == ""
    assert len(alone["curves"]) == 2  # one block: nothing to show by block


def test_tables_read_back_from_disk_make_the_same_section() -> None:
    rows, points = tables(seeds=1)
    first = inside.gather(rows, points, NAMES)
    second = inside.gather(pa.Table.from_pylist(rows), pa.Table.from_pylist(points), NAMES)
    assert first == second
    assert inside.gather((), (), NAMES) is None
    assert set(rows[0]) == set(inside.COLUMNS)
    assert set(points[0]) == set(inside.SCATTER_COLUMNS)
