"""docs/rows.md: each row that the page shows is read as the shape it is shown for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from holdfast.data.shapes import PROMPT, RESPONSE, SHAPES, layout
from holdfast.data.sources.local import FIXED_REFUSAL, Local

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rows.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| `(\{.*\})` \|$", PAGE, re.MULTILINE))


def test_every_shape_is_shown() -> None:
    assert set(ROWS) == {"columns", *SHAPES}
    assert f'"{FIXED_REFUSAL}"' in PAGE


@pytest.mark.parametrize("shape", ROWS)
def test_a_row_of_the_page_is_of_its_shape(tmp_path: Path, shape: str) -> None:
    assert layout(json.loads(ROWS[shape]), "auto", PROMPT, RESPONSE, "").shape == shape
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS[shape] + "\n", encoding="utf-8")
    (row,) = Local(path=str(path), role="benign").examples()
    assert " ".join(row.prompt.split()) == "placeholder prompt 1"
    assert row.response == "placeholder answer 1"
