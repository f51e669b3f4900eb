"""GGUF files: what is made of them is the model they hold; what would be another is refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type  # spelling: theirs

from holdfast import nn
from holdfast.cli import run
from holdfast.errors import ModelError, StoreError
from holdfast.nn import gguf as ours
from holdfast.testing import tiny

WIDE = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
"""Every row of every matrix is whole blocks of 32."""
TODO = "give the checkpoint it was made from, in safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class File(NamedTuple):
    """A GGUF file, and the model whose weights it holds."""

    path: Path
    model: Any


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order a query's or key's rows as llama.cpp has them for Llama: the halves interleaved."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def written(
    path: Path,
    family: str = "llama",
    *,
    kind: Type = Type.F32,
    settings: Mapping[str, Any] | None = None,
    leave_out: str = "",
    tensors: Mapping[str, np.ndarray] | None = None,
    also: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    vocabulary: bool = True,
    rule: str = "gpt-2",
    **changes: Any,
) -> File:
    """Write a tiny random model and its tokenizer as a GGUF file.

    The model given back has the values that dequantising the file gives.
    """
    model: Any = tiny.model(family, **WIDE | changes)
    config, writer = model.config, gguf.GGUFWriter(path, family)
    held_settings = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
        **(settings or {}),
    }
    for name, value in held_settings.items():
        add = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool}
        add.get(type(value), writer.add_uint32)(f"{family}.{name}", value)
    if vocabulary:
        add_vocabulary(writer, rule)
    also(writer)
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, p in model.named_parameters():
        theirs = names.get_name(name, (".weight", ".bias"))
        assert theirs is not None
        if leave_out and leave_out in theirs:
            continue
        value = p.detach().numpy()
        held = kind if value.ndim == 2 else Type.F32
        raw = gguf.quantize(value, held)
        p.data = torch.from_numpy(gguf.dequantize(raw, held).reshape(value.shape).copy())
        if family == "llama" and (".attn_q." in theirs or ".attn_k." in theirs):
            heads = config.num_attention_heads if "_q." in theirs else config.num_key_value_heads
            raw = permuted(raw, heads)
        writer.add_tensor(theirs, raw, raw_dtype=held)
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return File(path, model)


def add_vocabulary(writer: gguf.GGUFWriter, rule: str) -> None:
    """Write the tests' byte-level tokenizer, with a template of its own."""
    said = json.loads(tiny.byte_tokenizer(bos=True).backend_tokenizer.to_str())
    words = sorted(said["model"]["vocab"], key=said["model"]["vocab"].__getitem__)
    words += [f"<unused{i}>" for i in range(len(words), tiny.VOCABULARY)]
    special = {one["content"] for one in said["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special or "unused" in word else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in said["model"]["merges"]])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(tiny.CHAT)


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        nn.resolve(str(path), "models.mine")
    line = str(caught.value)
    assert line.startswith(f"models.mine: {path} ")
    return line.removeprefix(f"models.mine: {path} ")


# ---- what is made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q4_1, Type.Q8_0], ids=lambda t: t.name)
def test_a_llama_becomes_the_model_it_was_made_from(tmp_path: Path, kind: Type, tied: bool) -> None:
    path, model = written(tmp_path / "tiny.gguf", kind=kind, tie_word_embeddings=tied)
    back, tokenizer = nn.load(nn.resolve(str(path)).folder)
    expected, got = tiny.weights(model), tiny.weights(back)
    assert tiny.same(got, expected)
    text = "how do I hex the tall gate?\n\n 12 take two"
    reference = tiny.byte_tokenizer(bos=True)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == [reference(text)["input_ids"]]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == text
    assert torch.equal(back(ids).logits, model(ids).logits)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)
    assert tokenizer("a<eos>")["input_ids"][-1] == 1
    assert (tokenizer.chat_template, tokenizer.model_max_length) == (tiny.CHAT, 256)
    assert back.generation_config.eos_token_id == 1
    assert (back.config.tie_word_embeddings, back.dtype) == (tied, torch.float32)


def test_another_family_becomes_the_model_it_was_made_from(tmp_path: Path) -> None:
    # 128 is every Qwen3's width of a head; transformers reads no other out of a file.
    path, model = written(tmp_path / "TINY.GGUF", "qwen3", kind=Type.Q8_0, head_dim=128)
    back, _ = nn.load(nn.resolve(str(path)).folder)
    assert tiny.same(tiny.weights(back), tiny.weights(model))


def test_text_is_cut_as_the_file_says(tmp_path: Path) -> None:
    """SmolLM2's rule: each digit is cut out first, and what stands before it stays behind."""
    path, _ = written(tmp_path / "tiny.gguf", rule="smollm")
    _, tokenizer = nn.load(nn.resolve(str(path)).folder)
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in   2026 two")
    assert [word for word, _ in cut] == ["in", "ĠĠĠ", "2", "0", "2", "6", "Ġtwo"]


def test_it_is_made_once_whole_and_says_where_it_comes_from(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = written(tmp_path / "tiny.gguf", kind=Type.Q4_1)
    with caplog.at_level(logging.INFO, "holdfast"):
        files = nn.resolve(str(path))
    (line,) = caplog.messages
    assert line == f"making tiny.gguf into {files.folder}, once: about 10 s"
    assert sorted(one.name for one in (cache / "models").iterdir() if one.name[0] != ".") == [
        files.folder.name
    ]
    said = json.loads((files.folder / "holdfast.json").read_text())
    assert said["source"] == {
        "file": "tiny.gguf",
        "sha256": ours.sha256(path),
        "weights": "dequantised from Q4_1 to fp32",
    }
    assert said["files"]["model.safetensors"]["sha256"] == ours.sha256(
        files.folder / "model.safetensors"
    )
    monkeypatch.setattr(ours, "_make", None)  # which would fail
    moved = path.rename(tmp_path / "moved.gguf")
    assert nn.resolve(str(moved)).folder == files.folder


def test_what_is_not_whole_is_made_again_and_is_the_same(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "tiny.gguf")
    first = nn.resolve(str(path))
    identity, stamp = first.identity(), (first.folder / "model.safetensors").stat().st_mtime_ns
    (first.folder / "config.json").unlink()
    again = nn.resolve(str(path))
    assert (again.folder, again.identity()) == (first.folder, identity)
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == stamp == 0
    shutil.rmtree(first.folder)
    assert nn.resolve(str(path)).identity() == identity


def test_nothing_is_shown_and_the_settings_of_the_library_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as notes

    before = notes.get_verbosity(), notes.is_progress_bar_enabled()
    path, _ = written(tmp_path / "tiny.gguf")
    nn.resolve(str(path))
    assert (notes.get_verbosity(), notes.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_converted_file_is_found_without_torch(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "tiny.gguf")
    nn.resolve(str(path))
    code = (
        "import sys; from holdfast import nn; "
        f"nn.resolve({str(path)!r}); sys.exit(bool({{'torch', 'gguf'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_command_takes_a_file_and_says_that_it_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("tiny.gguf"))
    Path("asked.jsonl").write_text('{"prompt": "placeholder prompt 1"}\n')
    words = [
        "generate",
        "--format",
        "chat",
        "--prompts",
        "asked.jsonl",
        "--set",
        "max_new_tokens=4",
    ]
    for out, told in (("first.jsonl", 1), ("second.jsonl", 0)):
        assert run([*words, "--model", "tiny.gguf", "--out", out]) == 0
        lines = capsys.readouterr().err.splitlines()
        lines = [line for line in lines if not line.startswith("answers ")]
        assert len(lines) == told
        assert all(line.startswith("holdfast: making tiny.gguf into ") for line in lines)
    assert Path("first.jsonl").read_bytes() == Path("second.jsonl").read_bytes()
    assert logging.getLogger("holdfast").level == logging.NOTSET


# ---- what is refused


def test_a_folder_that_holds_one_is_told_to_be_named_by_the_file(tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf")
    with pytest.raises(ModelError) as caught:
        nn.resolve(str(tmp_path), "models.mine")
    assert str(caught.value) == (
        f"models.mine: {tmp_path} holds no model's folder but a GGUF file; name the file itself, "
        f"{tmp_path}/tiny.gguf"
    )


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    cause = "cannot be read (no such file or directory); check the path and its rights"
    assert refused(path) == cause
    path.write_bytes(b"")
    assert refused(path) == "is no GGUF file; give a .gguf file or a model's folder"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert refused(path) == "is no GGUF file; give a .gguf file or a model's folder"


@pytest.mark.parametrize("keep", [6, 200, 5000, -1000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int, cache: Path) -> None:
    path, _ = written(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    line = refused(path)
    assert line.startswith("is not a whole GGUF file (")
    assert line.endswith("); copy it again")
    assert not cache.exists()


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_package_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path, _ = written(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError) as caught:
        nn.resolve(str(path))
    assert str(caught.value) == (
        "model: a GGUF file is read with the packages gguf and accelerate (import of "
        f"{package} halted; None in sys.modules); pip install '.[smol]' in the clone of holdfast"
    )


def test_an_architecture_that_is_not_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "rwkv6")
    add_vocabulary(writer, "gpt-2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert refused(path) == (
        "is not read by transformers (ValueError: GGUF model with architecture rwkv6 is not "
        f"supported yet.); {TODO}"
    )


EXTRA = np.ones(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"vocabulary": False}, f"holds no tokenizer; {TODO}"),
        (
            {"rule": "default"},
            f"cuts text by the rule 'default', which transformers does not know; {TODO}",
        ),
        (
            {"also": lambda writer: writer.add_type("adapter")},
            "holds no whole model but: adapter; give the model's own file",
        ),
        (
            {"also": lambda writer: writer.add_uint16("split.count", 3)},
            "is one of 3 parts; join them with `llama-gguf-split --merge` and give that",
        ),
        (
            {"tensors": {"rope_freqs.weight": EXTRA}},
            f"scales positions (rope_freqs.weight), which transformers leaves out; {TODO}",
        ),
        (
            {"tensors": {"blk.0.attn_norm.bias": EXTRA}},
            f"holds 49,636 numbers, of which the model takes 49,632; {TODO}",
        ),
        (
            {"leave_out": "blk.2.ffn_up"},
            "holds no model.layers.2.mlp.up_proj.weight, which its architecture needs; " + TODO,
        ),
        (
            {"settings": {"rope.scaling.type": "yarn"}},
            f"has llama.rope.scaling.type = yarn, which transformers does not read; {TODO}",
        ),
        (
            {"settings": {"attention.scale": 0.25}},
            f"has llama.attention.scale = 0.25, which transformers does not read; {TODO}",
        ),
        (
            {"settings": {"attention.key_length": 4, "rope.dimension_count": 4}},
            "holds model.layers.0.self_attn.k_proj.weight in the shape (16, 32), and the model has "
            f"(8, 32); {TODO}",
        ),
        (
            {"settings": {"block_count": 2}},
            f"holds 49,632 numbers, of which the model takes 40,352; {TODO}",
        ),
    ],
)
def test_what_would_be_another_model_is_refused(
    tmp_path: Path, cache: Path, how: dict[str, Any], line: str
) -> None:
    path, _ = written(tmp_path / "m.gguf", **how)
    assert refused(path) == line
    assert not [one for one in cache.glob("models/*") if one.name[0] != "."]


def test_what_cannot_be_dequantised_is_refused(tmp_path: Path) -> None:
    def integers(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.more.weight", np.ones((4, 32), dtype=np.int8))

    path, _ = written(tmp_path / "m.gguf", also=integers)
    assert refused(path) == f"is quantised as I8, which cannot be undone; {TODO}"


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    path, _ = written(tmp_path / "m.gguf")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ours.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(StoreError) as caught:
        nn.resolve(str(path))
    assert str(caught.value) == (
        f"{cache}/models/gguf1-{ours.sha256(path)[:32]}: needs 0.0 GiB, and 0.0 GiB are free; "
        "free some space, or name another folder with HOLDFAST_CACHE"
    )


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = written(tmp_path / "m.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"cannot be written \(.+\); check the folder and its"):
        nn.resolve(str(path))
