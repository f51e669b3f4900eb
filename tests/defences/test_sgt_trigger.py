"""The trigger on disk: used again where it belongs, refused everywhere else, and looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from holdfast import nn
from holdfast.api import Loop, LoRA
from holdfast.data.example import Role, Side
from holdfast.data.tokens import Encoder
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT
from holdfast.defences.sgt.diagnostics import OPENING, openings, spread
from holdfast.defences.sgt.trigger import load_trigger
from holdfast.errors import ConfigError, ModelError
from holdfast.testing import tiny
from holdfast.train import Hardened, harden

LOOP = Loop(steps=5, batch=3, lr=0.01)
METHOD = SGT.model_validate(
    {"stage1": LOOP, "loop": LOOP, "trigger": {"length": 2, "position": "before_response"}}
)


def hardened(method: Any, model: Any = None, encoder: Any = None, pool: Any = None) -> Hardened:
    model = tiny.model() if model is None else model
    return harden(method, model, encoder or tiny.encoder(), pool or tiny.pool(), seed=0)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    hardened(METHOD).save_state(tmp_path)
    return tmp_path / "state" / "trigger.safetensors"


def given(path: Path, **fields: Any) -> SGT:
    trigger = {"length": 2, "position": "before_response", "file": str(path)} | fields
    return SGT.model_validate({"stage1": LOOP, "loop": LOOP, "trigger": trigger})


def test_its_file_says_what_it_was_made_for(kept: Path) -> None:
    with safe_open(kept, framework="pt") as file:
        assert list(file.keys()) == ["trigger"]
        assert json.loads(file.metadata()["holdfast"]) == {
            "kind": "holdfast trigger",
            "model": nn.model_hash(tiny.model()),
            "format": '{"format": "plain"}',
            "position": "before_response",
            "length": "2",
            "width": "16",
        }


def test_a_kept_trigger_gives_the_same_weights_without_stage_1(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = tiny.model(), tiny.model()
    hardened(METHOD, first)
    monkeypatch.setattr(SGT, "stage1_loss", None)
    hardened(given(kept), again)
    assert tiny.same(tiny.weights(again), tiny.weights(first))


def test_the_hash_follows_the_weights_and_not_the_precision() -> None:
    model = tiny.model()
    first = nn.model_hash(model)
    assert nn.model_hash(tiny.model().to(torch.bfloat16)) == first
    assert nn.model_hash(tiny.model(seed=1)) != first
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] += 0.1
    assert nn.model_hash(model) != first


@pytest.mark.parametrize(
    ("fields", "family", "encoder", "what"),
    [
        ({}, "llama", None, "trigger of another model ("),
        ({}, "qwen3", "chat", 'trained with format {"format": "plain"}, asked for {"end": "temp'),
        (
            {"position": "after_bos"},
            "qwen3",
            None,
            "trained with position before_response, asked for after_bos; set trigger.position",
        ),
    ],
)
def test_a_trigger_that_does_not_belong_is_refused(
    kept: Path, fields: Any, family: str, encoder: str | None, what: str
) -> None:
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = tiny.CHAT.replace("{{ bos_token }}", "")
    with pytest.raises(ModelError) as caught:
        hardened(
            given(kept, **fields),
            tiny.model(family),
            Encoder(tokenizer, encoder) if encoder else None,
        )
    assert str(caught.value).startswith(f"{kept}: {what}")
    assert "\n" not in str(caught.value)


def test_other_files_and_lengths_are_refused(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sgt\.trigger\.length: 1, the file's is 2"):
        hardened(given(kept, length=1))
    other = tmp_path / "other.safetensors"
    save_file({"trigger": torch.ones(1, 16)}, other)
    with pytest.raises(ModelError, match="holds no trigger"):
        hardened(given(other, length=1))
    other.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="no trigger file"):
        hardened(given(other, length=1))
    with pytest.raises(ModelError, match="no such trigger file"):
        load_trigger(tmp_path / "gone", tiny.model(), tiny.encoder(), "after_bos")


def test_its_bytes_enter_the_key(kept: Path, tmp_path: Path) -> None:
    first = given(kept).key_fields()["trigger"]["file"]
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(kept.read_bytes())
    assert given(copy).key_fields()["trigger"]["file"] == first
    copy.write_bytes(b"else")
    assert given(copy).key_fields()["trigger"]["file"] != first
    with pytest.raises(ConfigError, match=r"sgt\.trigger\.file: no such file"):
        given(tmp_path / "gone").rows(tiny.pool(), 0)


# ---- diagnostics


def test_what_it_measures_and_in_which_range() -> None:
    found = hardened(METHOD).diagnostics
    rates = {name for name in found if "_rate" in name}
    assert rates == {
        "trigger_refusal_rate",
        "trigger_refusal_rate_noise",
        "trigger_refusal_rate_benign",
        "base_refusal_rate",
        "refusal_rate",
        "refusal_rate_benign",
    }
    for name in (*rates, "cka_teacher", "cka_base", "teacher_spread"):
        assert 0.0 <= found[name] <= 1.0 + 1e-9, name
    layers = [found[f"anchor_error_layer_{i:02d}"] for i in (1, 2, 3)]
    assert found["anchor_error"] == pytest.approx(sum(layers) / 3, rel=1e-5)
    assert found["drift"] > 0
    assert found["drift_benign"] > 0


def test_a_model_that_did_not_move_has_not_drifted() -> None:
    still = SGT(stage1=LOOP, loop=LOOP.with_(steps=1, lr=1e-60))
    found = hardened(still).diagnostics
    assert found["drift"] == found["drift_benign"] == 0.0
    assert found["cka_base"] == pytest.approx(1.0)
    assert found["anchor_error"] == found["anchor_error_before"]
    assert found["refusal_rate"] == found["base_refusal_rate"]


def test_they_are_the_same_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hardened(METHOD, pool=tiny.pool(7)).diagnostics
    monkeypatch.setattr("holdfast.defences.sgt.diagnostics.PART", 3)
    assert hardened(METHOD, pool=tiny.pool(7)).diagnostics == pytest.approx(whole, abs=1e-5)


def test_the_rates_see_a_model_that_refuses() -> None:
    """No vector makes random weights refuse, so the base is taught to, prompts held out."""
    model = tiny.model("llama")
    still = SGT(stage1=LOOP, loop=LOOP.with_(steps=1, lr=1e-60), refusal="I cannot help")
    assert hardened(still, model).diagnostics["base_refusal_rate"] == 0.0
    loop = Loop(steps=60, batch=6, lr=0.02)
    hardened(RefusalSFT(loop=loop, benign_weight=0.0), model)
    found = hardened(still, model).diagnostics
    for name in ("base_refusal_rate", "refusal_rate", "refusal_rate_benign"):
        assert found[name] > 0.8, name


def test_cka_and_spread_worked_by_hand() -> None:
    x = torch.randn(9, 5)
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    assert nn.linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1.0)
    assert nn.linear_cka(x, torch.ones(9, 5)) == 0.0
    a, b = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    assert nn.linear_cka(a, b) == pytest.approx(0.25)
    assert spread(torch.tensor([[1.0, 2.0], [1.0, 2.0]])) == 0.0
    assert spread(torch.tensor([[1.0], [3.0]])) == pytest.approx(1 / 5)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("trigger", [False, True])
def test_openings_are_the_first_words_of_the_greedy_answer(family: str, trigger: bool) -> None:
    model, encoder = tiny.model(family, spread=0.4, seed=3), tiny.encoder(bos=True)
    rows = tiny.rows(Side.EVALUATOR)[Role.HARMFUL]
    asked = encoder.prompts(rows).rows
    phi = model.get_input_embeddings().weight[[70]].detach() if trigger else None
    found = openings(model, asked, OPENING, encoder.pad_id, trigger=phi)
    for row, said in zip(asked, found, strict=True):
        at = row.content[0]
        ids = torch.tensor([[*row.ids[:at], 70, *row.ids[at:]] if trigger else list(row.ids)])
        expected = []
        for _ in range(OPENING):
            with torch.no_grad():
                expected.append(int(model(ids).logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([[expected[-1]]])], dim=1)
        assert said == tuple(expected)


def test_under_lora_the_base_is_put_back_and_the_student_returns() -> None:
    method = METHOD.with_(loop=LOOP.with_(lora=LoRA(rank=2)))
    model = tiny.model()
    found = hardened(method, model).diagnostics
    assert found["drift"] > 0
    before = tiny.weights(tiny.model())
    assert not tiny.same(tiny.weights(model), before)
