"""What a checkpoint says of its making, over several steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.errors import ModelError
from holdfast.nn.history import attacked, history, origin


def note(folder: Path, **said: object) -> Path:
    (folder / "holdfast.json").write_text(json.dumps(said))
    return folder


def test_a_folder_without_a_note_says_nothing(tmp_path: Path) -> None:
    assert history(tmp_path) == []
    assert not attacked([])
    assert origin([]) == ""


def test_marks_of_earlier_steps_stay(tmp_path: Path) -> None:
    first = {"source": {"file": "a.gguf", "weights": "dequantised from Q4_1 to fp32"}}
    second = {"model": "a.gguf", "attacked": True}
    steps = history(note(tmp_path, model="b", attacked=False, history=[first, second], files={}))
    assert steps == [first, second, {"model": "b", "attacked": False}]
    assert attacked(steps)
    assert origin(steps) == "a.gguf, dequantised from Q4_1 to fp32"


@pytest.mark.parametrize("text", ["{", "[]", '"word"', '{"history": 3}', '{"history": ["word"]}'])
def test_a_note_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "holdfast.json"
    path.write_text(text)
    with pytest.raises(ModelError) as caught:
        history(tmp_path)
    assert str(caught.value) == f"{path}: is no note that holdfast wrote; restore it, or delete it"
