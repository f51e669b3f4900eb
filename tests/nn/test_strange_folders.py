"""Folders of strangers: files that are waited for or are no JSON, and what cannot be built."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from holdfast import nn
from holdfast.errors import ModelError
from holdfast.nn.skeleton import check_names
from holdfast.testing import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "m"
    made.mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(), made)
    return made


def refused(folder: Path) -> str:
    """Give what is said of a folder, with its own name left out."""
    with pytest.raises(ModelError) as caught:
        check_names(nn.resolve(str(folder)))
    return str(caught.value).replace(str(folder), "M")


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
     "holdfast.json", "model.safetensors"],
)  # fmt: skip
def test_a_file_that_would_be_waited_for_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert refused(folder) == f"M/{name}: is no regular file; copy it again"


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "1"])
def test_a_small_file_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    path = folder / "generation_config.json"
    path.write_text(text)
    assert refused(folder) == "M/generation_config.json: is no JSON object; copy it again"


def test_more_layers_than_tensors_are_refused_before_they_are_built(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 10**6, "layer_types": None})
    )
    tensors = len(load_file(folder / "model.safetensors"))
    assert refused(folder) == (
        f"M: the config has 1000000 layers, the weights {tensors} tensors; check config.json"
    )


def test_a_tokenizer_that_is_wrong_in_any_way_is_one_line(folder: Path) -> None:
    from holdfast.data.tokens import load_tokenizer

    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | {"unk_token": ["x"]}))
    with pytest.raises(ModelError, match=r"--model: the tokenizer cannot be loaded \(Special"):
        load_tokenizer(folder, "--model")


def test_a_config_that_is_wrong_in_any_way_is_one_line(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"max_new_tokens": {"a": {}}}')
    with pytest.raises(ModelError, match=r": cannot be loaded \(.*\); check the folder"):
        nn.load(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "told"),
    [
        ("tokenizer_config.json", "model_max_length", "2048", "'2048', no number"),
        ("tokenizer_config.json", "model_max_length", {}, "{}, no number"),
        ("generation_config.json", "eos_token_id", "</s>", "'</s>', no token's number"),
        ("generation_config.json", "eos_token_id", [1, 2.5], "[1, 2.5], no token's number"),
    ],
)
def test_notes_that_the_libraries_would_trip_over_later_are_one_line(
    folder: Path, file: str, key: str, value: object, told: str
) -> None:
    (folder / file).write_text(json.dumps({key: value}))
    assert refused(folder) == f"M/{file}: {key} is {told}; copy it again"
