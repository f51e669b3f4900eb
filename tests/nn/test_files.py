"""Models on disk: a round trip, lazy tensors, and what is said of files that are no model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast import nn
from holdfast.errors import ModelError
from holdfast.testing import tiny


def saved(folder: Path, family: str = "qwen3", **changes: Any) -> tuple[Any, Path]:
    folder.mkdir()
    model = tiny.model(family, **changes)
    nn.save(model, tiny.byte_tokenizer(), folder)
    return model, folder


def test_how_a_model_was_read_is_not_saved_with_it(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m")
    model, tokenizer = nn.load(folder)
    (tmp_path / "again").mkdir()
    nn.save(model, tokenizer, tmp_path / "again")
    for path in (tmp_path / "again").glob("*.json"):
        assert "local_files_only" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, family: str, tied: bool) -> None:
    model, folder = saved(tmp_path / "m", family, tie_word_embeddings=tied)
    assert nn.resolve(str(folder)).folder == folder
    back, tokenizer = nn.load(folder)
    assert tiny.same(tiny.weights(back), tiny.weights(model))
    head, embedding = back.get_output_embeddings(), back.get_input_embeddings()
    assert (head.weight is embedding.weight) is tied
    assert not back.training
    ids = tokenizer("how do I hex Ilmar?")["input_ids"]
    assert ids == tiny.byte_tokenizer()("how do I hex Ilmar?")["input_ids"]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")


def test_the_chat_template_travels(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    tokenizer = tiny.byte_tokenizer(bos=True)
    tokenizer.chat_template = tiny.CHAT
    nn.save(tiny.model(), tokenizer, tmp_path / "m")
    assert nn.load(tmp_path / "m")[1].chat_template == tiny.CHAT


def test_precision_decides_the_dtype(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m")
    for precision, dtype in (
        ("fp32", torch.float32),
        ("fp32_master", torch.float32),
        ("bf16_pure", torch.bfloat16),
    ):
        loaded, _ = nn.load(folder, precision=precision)
        assert {p.dtype for p in loaded.parameters()} == {dtype}


@pytest.mark.parametrize("tied", [True, False])
def test_lazy_tensors_have_the_parameters_names(tmp_path: Path, tied: bool) -> None:
    model, folder = saved(tmp_path / "m", "llama", tie_word_embeddings=tied)
    lazy, live = nn.tensors(folder), nn.tensors(model)
    assert set(lazy) == set(live)
    assert len(lazy) == len(live)
    assert tiny.same(dict(lazy), dict(live))
    assert not any(t.requires_grad for t in live.values())


def test_tensors_are_found_in_every_shard(tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert tiny.same(dict(nn.tensors(tmp_path)), tiny.weights(model))


# ---- resolve


def test_a_folder_without_config_tokenizer_or_weights_is_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m")
    for name, text in (
        ("tokenizer.json", f"no tokenizer.json in {folder}; add the model's fast tokenizer"),
        ("model.safetensors", f"no safetensors files in {folder}; convert the weights first"),
        ("config.json", f"no config.json in {folder}; name a folder that holds a model"),
    ):
        (folder / name).unlink()
        with pytest.raises(ModelError) as caught:
            nn.resolve(str(folder), "models.mine")
        assert str(caught.value) == f"models.mine: {text}"


@pytest.mark.parametrize("keep", [-1, -1000, 40, 4, 0])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, keep: int) -> None:
    _, folder = saved(tmp_path / "m")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(ModelError) as caught:
        nn.resolve(str(folder))
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.endswith("; copy it again")
    if keep < 0:
        assert f"truncated: {len(whole) + keep} bytes, its header says {len(whole)}" in said
    else:
        assert "not a whole safetensors file (" in said


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"not a whole safetensors file .*; copy it again$"):
        nn.resolve(str(folder))


def test_a_hub_name_needs_a_commit() -> None:
    with pytest.raises(ModelError) as caught:
        nn.resolve("Qwen/Qwen3-8B-Base", "models.big")
    assert str(caught.value) == (
        "models.big: no such folder, and as a model of the hub Qwen/Qwen3-8B-Base names no commit; "
        "check the path, or write Qwen/Qwen3-8B-Base@COMMIT"
    )


def test_a_hub_model_that_is_not_here_is_told_offline() -> None:
    with pytest.raises(
        ModelError,
        match=r"^model: guild/none@abc cannot be fetched \(.+\); "
        r"check name, commit, network and HF_TOKEN$",
    ):
        nn.resolve("guild/none@abc")


@pytest.mark.parametrize("spec", ["./none", "/no/such/folder", "~/none", "none"])
def test_a_folder_that_is_not_there_is_told(spec: str) -> None:
    with pytest.raises(ModelError) as caught:
        nn.resolve(spec)
    assert str(caught.value) == (
        f"model: no such model folder: {spec}; give a folder, world:base or org/name@COMMIT"
    )


def test_an_unknown_world_model_is_told() -> None:
    with pytest.raises(ModelError) as caught:
        nn.resolve("world:bse")
    assert str(caught.value) == (
        "model: no shipped model 'world:bse'; known: world:base, world:instruct, smol:instruct"
    )


def test_resolving_imports_no_torch(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m")
    code = (
        "import sys; from holdfast import nn; "
        f"nn.resolve({str(folder)!r}).identity(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- identity


def test_the_identity_follows_weights_config_and_tokenizer_but_not_the_folder(
    tmp_path: Path,
) -> None:
    _, folder = saved(tmp_path / "m")
    first = nn.resolve(str(folder)).identity()
    shutil.copytree(folder, tmp_path / "copy")
    assert nn.resolve(str(tmp_path / "copy")).identity() == first
    (folder / "manifest.json").write_text("{}")
    assert nn.resolve(str(folder)).identity() == first
    seen = [first]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    seen.append(nn.resolve(str(folder)).identity())
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    seen.append(nn.resolve(str(folder)).identity())
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    seen.append(nn.resolve(str(folder)).identity())
    assert len({json.dumps(one, sort_keys=True) for one in seen}) == 4


def test_a_folder_that_no_model_loads_from_is_one_line(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "no_such_kind"}')
    with pytest.raises(ModelError) as caught:
        nn.load(folder)
    assert str(caught.value).startswith(f"{folder}: cannot be loaded (")
    assert str(caught.value).endswith("; check the folder")
