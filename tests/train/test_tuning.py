"""Tuning on a customer's rows: stages kept apart, rows without names, points, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.api import Loop, LoRA, Run, TuneDefence, registry
from holdfast.data.example import Role, Side, example
from holdfast.data.format import Format
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, DataError, HoldfastError, ModelError
from holdfast.testing import tiny
from holdfast.train import PointInfo, harden, tune

LOOP = Loop(steps=3, batch=4, lr=0.01)


def made(name: str = "plain_tuning", **fields: Any) -> Any:
    return registry.make("defence", {name: {"loop": LOOP.model_dump()} | fields}, "test")


def tuned(method: Any, rows: Any = None, model: Any = None, **more: Any) -> Any:
    model = model or tiny.model()
    rows = tiny.customer() if rows is None else rows
    encoder = more.pop("encoder", None) or tiny.encoder()
    done = tune(method, model, encoder, rows, tiny.pool(), seed=0, **more)
    return tiny.weights(model), done


class Seen(TuneDefence):
    """Notes what it is handed."""

    def loss(self, model: Any, batch: Any, state: Any) -> Any:
        """Never come to this."""
        raise AssertionError

    def admit(self, rows: Any, run: Run, state: Any) -> Any:
        """Note and stop."""
        raise LookupError([(row.role, row.category) for row in rows])


def test_a_host_sees_neither_what_a_row_was_called_nor_its_category() -> None:
    rows = [replace(row, category="near") for row in tiny.rows(Side.ATTACKER)[Role.HARMFUL]]
    with pytest.raises(LookupError) as stop:
        tuned(Seen(), rows, loop=LOOP)
    assert stop.value.args[0] == [(Role.TASK, "")] * len(rows)


def test_the_hosts_loop_stands_in_place_of_the_defences() -> None:
    first, _ = tuned(made(loop={"steps": 9, "lr": 0.5}), loop=LOOP)
    second, _ = tuned(made())
    assert tiny.same(first, second)


def test_points_are_met_with_the_weights_as_they_would_be_saved() -> None:
    for lora in (None, LoRA(rank=2)):
        loop = LOOP.with_(lora=lora)
        model, seen = tiny.model(), []

        def note(point: float, info: PointInfo, model: Any = model, seen: list[Any] = seen) -> None:
            seen.append((point, info.steps, tiny.weights(model)))

        weights, done = tuned(made(), model=model, loop=loop, points=(1, 3), on_point=note)
        assert [(point, steps) for point, steps, _ in seen] == [(1.0, 1), (3.0, 3)]
        assert done.steps == 3
        assert tiny.same(seen[1][2], weights)
        short, _ = tuned(made(), loop=loop.with_(steps=1))
        assert tiny.same(seen[0][2], short)


def test_it_continues_from_its_folder_to_the_same_bits_with_a_probe_of_its_own(
    tmp_path: Path,
) -> None:
    method = made("adaptive_kl", loop=LOOP.with_(checkpoint_every=1).model_dump(), smoothing=0.5)
    whole, _ = tuned(method)

    def stop(_name: str, done: int, _of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(method, work=tmp_path, progress=stop)
    again, _ = tuned(method, work=tmp_path)
    assert tiny.same(again, whole)
    assert (tmp_path / "probe" / "probe.json").is_file()


def test_another_reference_is_what_rows_are_held_to() -> None:
    other = tiny.weights(tiny.model(seed=7))
    own, _ = tuned(made("static_kl"))
    held, _ = tuned(made("static_kl"), sources={"reference": other})
    assert not tiny.same(own, held)


def no_eos() -> Encoder:
    tokenizer = tiny.byte_tokenizer(bos=True)
    tokenizer.chat_template = tiny.CHAT
    return Encoder(tokenizer, Format("chat", append_eos=False))


BLANK = example("placeholder prompt", "", role=Role.TASK, side=Side.ATTACKER)
ALONE = example("placeholder prompt", None, role=Role.TASK, side=Side.ATTACKER, source="job")


@pytest.mark.parametrize(
    ("call", "kind", "line"),
    [
        (
            lambda: tuned(made("refusal_sft")),
            ConfigError,
            "refusal_sft: acts at stage 'align', not while a customer trains; "
            "harden the model with it first (`holdfast defend`), then tune",
        ),
        (
            lambda: harden(made(), tiny.model(), tiny.encoder(), tiny.pool(), seed=0),
            ConfigError,
            "plain_tuning: acts while a customer's rows are trained on; "
            "use `holdfast tune`, or holdfast.train.tune",
        ),
        (
            lambda: tuned(made(), []),
            DataError,
            "plain_tuning.task: the customer sent no rows; give --data task=FILE",
        ),
        (
            lambda: tuned(made(), [BLANK], encoder=no_eos()),
            DataError,
            f"row {BLANK.uid} of role task: has no response token to train on; "
            "take it out, or give it a response",
        ),
        (
            lambda: tuned(made(), [ALONE]),
            DataError,
            f"row {ALONE.uid} of role task, source 'job': has no response to train on; name its "
            "column in `response`, or give refusals one text in `refusal`",
        ),
        (
            lambda: tuned(made(), points=(4,)),
            ConfigError,
            "plain_tuning.loop.steps: point 4 is not among its 3 steps; set it to that or more",
        ),
        (
            lambda: tuned(
                made("static_kl"), sources={"reference": tiny.weights(tiny.model(vocab_size=350))}
            ),
            ModelError,
            "static_kl.reference: 'model.embed_tokens.weight' is (340, 16) in the model, the "
            "reference has it as (350, 16); use a reference of the same shape and tokenizer",
        ),
    ],
)
def test_bad_input_is_one_line(call: Any, kind: type[HoldfastError], line: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == line


def test_a_checkpoint_that_also_sees_is_refused() -> None:
    model = tiny.model()
    model.config.vision_config = {"hidden_size": 8}
    with pytest.raises(ModelError) as error:
        tuned(made(), model=model)
    assert str(error.value) == (
        "plain_tuning: is asked to tune a vision-language checkpoint, whose pictures no critic "
        "reads; use a checkpoint of text alone"
    )
