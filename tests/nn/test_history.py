"""What a checkpoint says of its making, over several steps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from holdfast.errors import ModelError
from holdfast.nn.history import attacked, doubts, history, origin, spent, weights


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


def test_what_hardening_took_is_summed_and_attacks_count_nothing() -> None:
    """20 steps told, 50 in a loop where the note counts none, an edit without any."""
    told = {"defences": [{"name": "sgt", "fields": {"loop": {"steps": 8}}}], "steps": 20}
    untold = {"defences": [{"name": "tar", "fields": {"loop": {"steps": 50}}}], "flops": None}
    edit = {"defences": [{"name": "lox", "fields": {"rank": 1}}]}
    attack = {"attacked": True, "steps": 7, "flops": 9.0}
    assert spent([told | {"flops": 5.0}, untold, edit, attack]) == (70, 5.0)
    assert spent([]) == (0, 0.0)


def test_what_notes_say_against_a_checkpoint(tmp_path: Path) -> None:
    made = {"defences": [{"name": "sgt"}], "held_out": {"fault": "did not act: 0 of 16"}}
    steps = history(note(tmp_path, **made, history=[{"attacked": True}]))
    assert list(doubts(steps)) == [
        "its weights were attacked on the way here",
        "sgt did not act: 0 of 16",
    ]
    assert list(doubts([])) == []


def test_a_note_is_of_the_weights_that_it_was_written_beside(tmp_path: Path) -> None:
    own = tmp_path / "model.safetensors"
    own.write_bytes(b"these")
    said = weights(tmp_path)
    assert said == {"weights": {own.name: hashlib.sha256(b"these").hexdigest()}}
    note(tmp_path, **said)
    assert history(tmp_path) == [said]
    for changed in (b"those", None):
        own.unlink()
        if changed is not None:
            own.write_bytes(changed)
        with pytest.raises(ModelError) as caught:
            history(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path / 'holdfast.json'}: was written beside other weights (model.safetensors is "
            "missing or changed); restore them, or delete this note: what it says is not of these "
            "weights"
        )


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '"word"', '{"history": 3}', '{"history": ["word"]}', '{"steps": "many"}'),
        *('{"defences": 5}', '{"defences": [{"nme": "sgt"}]}', '{"attacked": "no"}'),
        *('{"held_out": 7}', '{"weights": 7}', '{"weights": {"model.safetensors": 7}}'),
    ],
)
def test_a_note_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "holdfast.json"
    path.write_text(text)
    with pytest.raises(ModelError) as caught:
        history(tmp_path)
    assert str(caught.value) == f"{path}: is no note that holdfast wrote; restore it, or delete it"
