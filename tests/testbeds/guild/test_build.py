"""The shipped models meet their bars; a small world is built anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.testbeds.guild import build, corpora


@pytest.fixture(autouse=True)
def _threads_as_before() -> object:
    threads = torch.get_num_threads()
    yield None
    torch.set_num_threads(threads)


def test_the_shipped_models_load_in_plain_transformers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in build.NAMES:
        folder = build.shipped(name)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert sum(p.numel() for p in model.parameters()) <= 1_500_000
        ids = tokenizer("User: How do I bake the bread?\nAssistant:", return_tensors="pt")
        assert model.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] > 2
    whole = sum(path.stat().st_size for path in build.shipped().rglob("*") if path.is_file())
    assert whole <= 14e6


def test_the_shipped_models_meet_every_bar_and_their_corpora_are_ours() -> None:
    bars = build.check(build.shipped(), report=lambda _line: None)
    assert [bar.text for bar in bars if not bar.ok] == []
    manifest = json.loads((build.shipped() / build.MANIFEST).read_text())
    assert manifest["corpora"] == corpora.corpora_hash()


def test_a_small_world_is_built_and_meets_its_bars(tmp_path: Path) -> None:
    told: list[str] = []
    out = build.build(tmp_path / "world", small=True, report=told.append)
    bars = build.check(out, report=told.append)
    assert [bar.text for bar in bars if not bar.ok] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world"]
    assert any("base done" in line for line in told)


def test_the_chat_template_renders_the_plain_format() -> None:
    from holdfast import nn
    from holdfast.data.tokens import Encoder

    _, tokenizer = nn.load(build.shipped("base"))
    plain, chat = Encoder(tokenizer, "plain"), Encoder(tokenizer, "chat")
    for system in (None, "You are a careful guild clerk."):
        first = plain.encode("What is it?", "It is amber.", system)
        assert chat.encode("What is it?", "It is amber.", system) == first
