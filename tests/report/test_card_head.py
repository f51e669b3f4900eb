"""A hardened checkpoint's card: its metadata, its base by name, each part that was trained."""

from __future__ import annotations

from typing import Any

from holdfast.api import Loop, registry
from holdfast.defences.sgt import SGT
from holdfast.report.card_head import base, loops, metadata

COMMIT = "0123456789" * 4


def made(**fields: Any) -> dict[str, Any]:
    return {"model": f"org/base@{COMMIT}", "defences": [{"name": "sgt"}], "history": []} | fields


def test_the_metadata_is_the_hubs() -> None:
    assert metadata(made()) == (
        "---\nbase_model: org/base\nlibrary_name: transformers\ntags:\n- holdfast\n- sgt\n---"
    )


def test_a_folder_is_no_model_of_the_hub_and_an_attack_is_a_tag() -> None:
    said = metadata(made(model="runs/base", history=[{"attacked": True}]))
    assert said == "---\nlibrary_name: transformers\ntags:\n- holdfast\n- sgt\n- attacked\n---"


def test_the_base_is_told_by_name_through_every_step_and_no_folder_is() -> None:
    before = [{"source": {"file": "a.gguf"}}, {"model": "world:base"}, {"model": "some/where/one"}]
    assert base(made(model="./out/two", history=before)) == (
        "two, made from one, made from world:base"
    )
    assert base(made(history=[])) == f"org/base@{COMMIT}"
    assert base({"defences": []}) == "unknown"


def test_every_part_that_was_trained_has_a_line() -> None:
    loop = Loop(steps=200, batch=8, lr=1e-4)
    method = SGT(stage1=Loop(steps=50, batch=4, lr=0.01), loop=loop)
    assert list(loops(method.identity())) == [
        "- sgt, stage1: at most 50 steps of 4 rows a role, learning rate 0.01, no weight of the "
        "model, precision fp32",
        "- sgt: at most 200 steps of 8 rows a role, learning rate 0.0001, all weights, "
        "precision fp32",
    ]
    whole = SGT(stage1=Loop(steps=50, batch=4, lr=0.01), loop=loop, ending=None)
    assert "- sgt: 200 steps of 8 rows" in "\n".join(loops(whole.identity()))
    edit = registry.make("defence", {"lox": {"rank": 1}}, "test")
    assert list(loops(edit.identity())) == []
