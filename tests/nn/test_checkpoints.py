"""The weights used are the weights on disk; what is refused, in whole lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast import nn
from holdfast.errors import ModelError
from holdfast.nn import content, files, memory
from holdfast.nn.content import content as content_of
from holdfast.nn.skeleton import check_names
from holdfast.testing import tiny

INDEX = "model.safetensors.index.json"
Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "m"
    made.mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(), made)
    return made


@pytest.fixture
def sharded(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    tiny.model("llama").save_pretrained(folder, max_shard_size="10KB")
    return folder


def refused(folder: Path) -> str:
    """Give what is said of a folder, with its own name left out."""
    with pytest.raises(ModelError) as caught:
        check_names(nn.resolve(str(folder)))
    return str(caught.value).replace(str(folder), "M")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / INDEX
    said = json.loads(path.read_text())
    change(said["weight_map"])
    path.write_text(json.dumps(said))


# ---- which files


def test_only_what_the_library_loads_is_hashed_and_counted(folder: Path, sharded: Path) -> None:
    names = [path.name for path in nn.resolve(str(sharded)).shards()]
    assert len(names) > 2
    first = nn.resolve(str(folder)).identity()
    count = memory.shape(nn.resolve(str(folder))).weights
    assert count == sum(p.numel() for p in tiny.model("llama").parameters())
    save_file(load_file(folder / names[0]), folder / "consolidated.safetensors")
    save_file({"x": torch.ones(3)}, folder / "adapter_model.safetensors")
    (folder / "stray.safetensors").write_bytes(b"no weights at all")
    assert [path.name for path in nn.resolve(str(folder)).shards()] == names
    assert nn.resolve(str(folder)).identity() == first
    assert memory.shape(nn.resolve(str(folder))).weights == count
    assert tiny.same(dict(nn.tensors(folder)), tiny.weights(tiny.model("llama")))


def test_one_file_is_loaded_rather_than_what_an_index_names(sharded: Path) -> None:
    tiny.model("llama", seed=1).save_pretrained(sharded / "one")
    (sharded / "one" / "model.safetensors").rename(sharded / "model.safetensors")
    assert [path.name for path in nn.resolve(str(sharded)).shards()] == ["model.safetensors"]
    loaded, _ = nn.load(nn.resolve(str(sharded)))
    assert tiny.same(tiny.weights(loaded), tiny.weights(tiny.model("llama", seed=1)))
    assert tiny.same(dict(nn.tensors(sharded)), tiny.weights(loaded))


TRUST = "get the checkpoint from a source you trust"
ESCAPES = [
    "../outside.safetensors",
    "/etc/weights.safetensors",
    "sub/model.safetensors",
    "..",
    "weights.bin",
    "a\\b.safetensors",
    ".hidden.safetensors",
    "x\x1b[2J.safetensors",
    7,
]


@pytest.mark.parametrize("name", ESCAPES)
def test_an_index_that_names_no_file_of_its_own_folder(sharded: Path, name: Any) -> None:
    save_file({"x": torch.ones(1)}, sharded.parent / "outside.safetensors")
    index(sharded, lambda said: said.update({next(iter(said)): name}))
    assert refused(sharded) == (
        f"M/{INDEX}: names {name!a}, which is no *.safetensors file of its own folder; {TRUST}"
    )
    with pytest.raises(ModelError, match="of its own folder"):
        nn.tensors(sharded)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "list indices must be integers or slices, not str"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map": {}}', "`weight_map` maps no tensor"),
        ('{"weight_map": ["a"]}', "`weight_map` maps no tensor"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_an_index_that_is_none(sharded: Path, text: str, said: str) -> None:
    (sharded / INDEX).write_text(text)
    assert refused(sharded) == f"M/{INDEX}: not an index of weights ({said}); copy it again"


def test_an_index_and_shards_that_disagree(sharded: Path) -> None:
    first, *_, last = sorted(path.name for path in sharded.glob("*.safetensors"))
    whole = (sharded / INDEX).read_text()
    name = next(n for n, shard in json.loads(whole)["weight_map"].items() if shard == last)

    index(sharded, lambda said: said.update({name: first}))
    assert refused(sharded) == (
        f"M/{INDEX}: places '{name}' in {first}, which has no such tensor; copy it again"
    )
    (sharded / INDEX).write_text(whole)
    index(sharded, lambda said: said.pop(name))
    assert refused(sharded) == (
        f"M/{INDEX}: does not name '{name}', which {last} holds; copy it again"
    )
    (sharded / INDEX).write_text(whole)
    index(sharded, lambda said: said.update(nothing=first, nowhere=first))
    assert refused(sharded) == (
        f"M/{INDEX}: places 'nothing' in {first}, which has no such tensor (2 such); copy it again"
    )
    (sharded / INDEX).write_text(whole)
    (sharded / last).unlink()
    assert refused(sharded) == f"M/{INDEX}: names '{last}', which is not there; copy it too"


def test_a_link_out_of_the_folder_is_refused_but_not_the_hubs_own(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    assert refused(folder) == (
        "M/model.safetensors: links to a file outside its folder; copy that file here"
    )
    cache = folder.parent / "models--a--b"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "blobs").mkdir()
    outside.rename(cache / "blobs" / "0a1b")
    snapshot = folder.rename(cache / "snapshots" / "c0")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a1b")
    check_names(nn.resolve(str(snapshot)))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


SAVE = "save it with save_pretrained"
FOLDERS: dict[str, tuple[Change, str]] = {
    "a pickle": (
        pickled,
        "model: M holds pickled weights ('pytorch_model.bin'), which can run code when loaded; "
        "convert them to safetensors where you trust them",
    ),
    "weights of another name": (
        elsewhere,
        f"model: M has 'consolidated.safetensors', but no model.safetensors and no {INDEX}; {SAVE}",
    ),
    "an adapter beside": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "model: M holds an adapter beside its weights; "
        "merge it and save that, or remove adapter_config.json",
    ),
    "quantised": (
        lambda folder: configure(folder, quantization_config={"quant_method": "fp8"}),
        "model: M is quantised, which cannot be trained; give the checkpoint it was quantised from",
    ),
    "weights the config names": (
        lambda folder: configure(folder, transformers_weights="../x.safetensors"),
        "model: the config of M has its weights in '../x.safetensors'; "
        "name that file model.safetensors and remove `transformers_weights`",
    ),
    "distributed": (
        lambda folder: (folder / "shard-00000-model-00001-of-00001.safetensors").touch(),
        "model: M holds the shards of a distributed checkpoint; load it and save it with "
        "save_pretrained",
    ),
    "a config that is none": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "M: no readable config (no JSON object); copy it",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_whose_weights_are_not_all_in_its_safetensors(folder: Path, fault: str) -> None:
    change, said = FOLDERS[fault]
    change(folder)
    assert refused(folder) == said


def test_a_header_that_overlaps_or_leaves_a_gap(folder: Path) -> None:
    for offsets in ([0, 8], [4, 8]):
        told = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} | {
            "b": {"dtype": "F32", "shape": [1], "data_offsets": offsets}
        }
        raw = json.dumps(told if offsets[0] == 0 else {"b": told["b"]}).encode()
        (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
        assert refused(folder) == (
            "M/model.safetensors: not a whole safetensors file (bytes of 'b' overlap others or "
            "leave a gap); copy it again"
        )


# ---- names and shapes

HEAD = "model: the weights are not those of the config: "
TAIL = "; copy both again, from one checkpoint"
GATE = "model.layers.0.mlp.gate_proj.weight"


def prefixed(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[f"module.{name}"] = weights.pop(name)


NAMES: dict[str, tuple[Change, str]] = {
    "a missing tensor": (
        lambda folder: rewrite(folder, lambda weights: weights.pop(GATE)),
        f"1 missing ('{GATE}')",
    ),
    "an unknown one": (
        lambda folder: rewrite(folder, lambda weights: weights.update(v_head=torch.ones(2))),
        "1 unknown to the config ('v_head')",
    ),
    "another shape": (
        lambda folder: rewrite(folder, lambda weights: weights.update({GATE: torch.ones(16, 16)})),
        f"1 of another shape ('{GATE} (16, 16) for (32, 16)')",
    ),
    "prefixed names": (
        lambda folder: rewrite(folder, prefixed),
        "30 missing ('lm_head.weight', 'model.embed_tokens.weight', "
        "'model.layers.0.input_layernorm.weight' and 27 more), 30 unknown to the config "
        "('module.lm_head.weight', 'module.model.embed_tokens.weight', "
        "'module.model.layers.0.input_layernorm.weight' and 27 more)",
    ),
    "fewer layers": (
        lambda folder: configure(folder, num_hidden_layers=2),
        "9 unknown to the config ('model.layers.2.input_layernorm.weight', "
        "'model.layers.2.mlp.down_proj.weight', 'model.layers.2.mlp.gate_proj.weight' and 6 more)",
    ),
    "integers": (
        lambda folder: rewrite(
            folder, lambda weights: weights.update({GATE: torch.ones(32, 16, dtype=torch.int8)})
        ),
        f"1 stored as integers ('{GATE}')",
    ),
}


@pytest.mark.parametrize("fault", NAMES)
def test_weights_that_are_not_those_of_the_config(folder: Path, fault: str) -> None:
    """Before: one line of warning at most, random numbers in their place, and exit 0."""
    change, said = NAMES[fault]
    change(folder)
    assert refused(folder) == f"{HEAD}{said}{TAIL}"
    if fault != "integers":
        with pytest.raises(ModelError) as caught:
            nn.load(folder)  # as a finished step's checkpoint is
        assert str(caught.value) == f"{folder}: {HEAD.removeprefix('model: ')}{said}{TAIL}"


def test_a_missing_expert_is_told_by_its_own_name(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = MixtralConfig(
        vocab_size=340, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_local_experts=3, **sizes,
    )  # fmt: skip
    nn.save(MixtralForCausalLM(config), tiny.byte_tokenizer(), tmp_path)
    rewrite(tmp_path, lambda w: w.pop("model.layers.0.block_sparse_moe.experts.1.w2.weight"))
    assert refused(tmp_path) == (
        f"{HEAD}1 of another shape ('model.layers.0.mlp.experts.down_proj (2, 16, 16) for "
        f"(3, 16, 16)'){TAIL}"
    )


def test_what_the_library_lets_be_is_let_be(folder: Path) -> None:
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    rewrite(folder, lambda weights: weights.update(old))
    check_names(nn.resolve(str(folder)))
    loaded, _ = nn.load(nn.resolve(str(folder)))
    assert tiny.same(tiny.weights(loaded), tiny.weights(tiny.model("llama")))


def test_a_verdict_is_kept_while_the_files_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_names(nn.resolve(str(folder)))
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.nn.skeleton.skeleton", lambda _: pytest.fail("built again"))
        check_names(nn.resolve(str(folder)))
    rewrite(folder, lambda weights: weights.pop(GATE))
    assert refused(folder) == f"{HEAD}1 missing ('{GATE}'){TAIL}"


# ---- content


def big(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Have every file count as large, and a cache folder of one's own."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(cache))
    for module in (content, files):
        monkeypatch.setattr(module, "SMALL", 16)
    return cache / "content.json"


def test_a_large_file_is_hashed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import hashlib

    record = big(monkeypatch, tmp_path / "cache")
    path = folder / "model.safetensors"
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert content_of(nn.resolve(str(folder))) == expected
    kept = json.loads(record.read_text())[str(path)]
    assert kept["sha256"] == expected[path.name]
    with monkeypatch.context() as patch:
        patch.setattr(content.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert content_of(nn.resolve(str(folder))) == expected
    record.write_text("no JSON")
    assert content_of(nn.resolve(str(folder))) == expected
    path.rename(folder / "gone")
    nn.save(tiny.model("llama", seed=1), tiny.byte_tokenizer(), folder)
    (folder / "other").mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(), folder / "other")
    assert content_of(nn.resolve(str(folder))) != expected
    assert content_of(nn.resolve(str(folder / "other"))) == expected


def test_a_cache_that_cannot_be_written_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    big(monkeypatch, tmp_path / "file")
    assert content_of(nn.resolve(str(folder)))


def test_other_bytes_under_the_same_size_and_time_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    big(monkeypatch, tmp_path / "cache")
    path = folder / "model.safetensors"
    found, before = nn.resolve(str(folder)), path.stat()
    content_of(found)
    raw = path.read_bytes()
    with path.open("r+b") as file:  # the same file, as an editor of weights would leave it
        file.seek(len(raw) - 1)
        file.write(bytes([raw[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelError) as caught:
        nn.load(found)
    assert str(caught.value) == (
        f"{path}: holds other bytes than before under the same size and time; copy it again; if "
        "the change was meant, touch it"
    )
    path.touch()
    nn.load(nn.resolve(str(folder)))


def test_a_file_that_changed_since_it_was_found_is_not_loaded(folder: Path) -> None:
    found = nn.resolve(str(folder))
    rewrite(folder, lambda weights: weights[GATE].add_(1))
    with pytest.raises(ModelError) as caught:
        nn.load(found)
    assert str(caught.value) == (
        f"{folder}/model.safetensors: changed since it was checked; run again"
    )


# ---- what is saved, counted and cast


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_weights_are_saved_in_the_dtype_asked_for(tmp_path: Path, dtype: str, tied: bool) -> None:
    model = tiny.model("llama", tie_word_embeddings=tied)
    before = tiny.weights(model)
    nn.save(model, tiny.byte_tokenizer(), tmp_path, dtype=dtype)
    assert tiny.same(tiny.weights(model), before)
    found = nn.resolve(str(tmp_path))
    assert found.dtype() == dtype
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == {
        "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]  # fmt: skip
    held = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    rounded = {name: value.to(held).float() for name, value in before.items()}
    assert tiny.same(tiny.weights(nn.load(found)[0]), rounded)


def test_a_weight_too_large_for_fp16_is_told(tmp_path: Path) -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        model.get_parameter(GATE)[0, 0] = 1e6
    with pytest.raises(ModelError) as caught:
        nn.save(model, tiny.byte_tokenizer(), tmp_path, dtype="fp16")
    assert str(caught.value) == f"'{GATE}': is too large for fp16; save in bf16 or fp32"
    assert model.get_parameter(GATE).dtype is torch.float32


def test_the_dtype_of_a_folder_is_that_of_most_of_its_bytes(folder: Path) -> None:
    rewrite(
        folder,
        lambda weights: weights.update(
            {n: w.bfloat16() for n, w in weights.items() if "norm" not in n}
        ),
    )
    assert nn.resolve(str(folder)).dtype() == "bf16"


@pytest.mark.parametrize("said", [True, None])
def test_a_tied_head_that_is_saved_too_is_counted_once(tmp_path: Path, said: bool | None) -> None:
    """Gemma ties where its config says nothing, Llama does not."""
    model = tiny.model("gemma")
    nn.save(model, tiny.byte_tokenizer(), tmp_path)
    table = "model.embed_tokens.weight"
    rewrite(tmp_path, lambda weights: weights.update({"lm_head.weight": weights[table].clone()}))
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    if said is not None:
        config["tie_word_embeddings"] = said
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = nn.resolve(str(tmp_path))
    check_names(found)
    assert memory.shape(found).weights == sum(p.numel() for p in model.parameters())


def test_a_head_of_its_own_is_counted(folder: Path) -> None:
    count = sum(p.numel() for p in tiny.model("llama").parameters())
    assert memory.shape(nn.resolve(str(folder))).weights == count
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert memory.shape(nn.resolve(str(folder))).weights == count


def test_gpt2s_sizes_are_found_under_its_own_names(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=340, n_embd=16, n_layer=2, n_head=4, n_positions=64)
    nn.save(GPT2LMHeadModel(config), tiny.byte_tokenizer(), tmp_path)
    found = memory.shape(nn.resolve(str(tmp_path)))
    assert (found.layers, found.hidden, found.inner, found.context) == (2, 16, 64, 64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused_loaded_and_saved(
    folder: Path, tmp_path: Path, value: float
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    model, tokenizer = nn.load(folder)
    rewrite(folder, lambda weights: weights[name].view(-1)[3:4].fill_(value))
    with pytest.raises(ModelError) as caught:
        nn.load(folder)
    assert str(caught.value) == (
        f"{folder}: '{name}' holds a number that is not finite; copy it again, or use another "
        "checkpoint"
    )
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = value
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError) as caught:
        nn.save(model, tokenizer, tmp_path / "out")
    assert str(caught.value) == (
        f"weights: '{name}' holds a number that is not finite; lower the rate or the strength of "
        "what made them"
    )
    assert not any((tmp_path / "out").iterdir())
