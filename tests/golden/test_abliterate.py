"""Abliteration on hand-worked numbers, against a float64 twin, and on planted refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as kinds
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast import evaluate, nn
from holdfast.api import Run
from holdfast.attacks.abliterate import (
    Abliterate,
    directions,
    moved_to_benign,
    projected_out,
    spread_over_groups,
)
from holdfast.attacks.abliterate.writers import added_by_blocks
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, DataError, HoldfastError, ModelError
from holdfast.evaluate import Sampler
from holdfast.testing import tiny
from holdfast.train import attack

STREAM = Abliterate(forms=("stream",), layers=(2,), evaluate_at=(1.0,))
EACH = Abliterate(forms=("each",), evaluate_at=(1.0,))
BLOCK = Abliterate(forms=("block",), layers=(2,), evaluate_at=(1.0,))


def run_of(model: Any, pool: Pool | None = None, encoder: Encoder | None = None) -> Run:
    return Run(model, encoder or tiny.encoder(), pool or tiny.pool(), 0, where="abliterate")


def found(method: Abliterate, model: Any, c: float = 1.0) -> dict[str, Tensor]:
    run = run_of(model)
    with torch.no_grad():
        return method.edit(run, c, method.setup(run))


# ---- the formulas


def test_the_direction_worked_by_hand() -> None:
    """Means (2, 0) and (0, -4) lie (2, 4) apart, of length sqrt 20."""
    restricted = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    benign = torch.tensor([[-1.0, -4.0], [1.0, -4.0]])
    expected = torch.tensor([[2.0], [4.0]]) / 20**0.5
    torch.testing.assert_close(directions(restricted, benign, 1), expected)


def test_the_projection_worked_by_hand() -> None:
    """r = (0.6, 0.8): r^T W = (3, 4.4), half of which is taken out along r."""
    weight, r = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.6], [0.8]])
    expected = torch.tensor([[0.1, 0.68], [1.8, 2.24]])
    torch.testing.assert_close(projected_out(weight, r, 0.5), expected)
    torch.testing.assert_close(projected_out(weight.T, r, 0.5, -1), expected.T)
    bias = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(projected_out(bias, r, 0.5, -1), expected[:, 0])


def test_the_move_to_the_benign_mean_worked_by_hand() -> None:
    """h lies 1.4 beyond the mean along r; half of that goes."""
    h, mean, r = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([[0.6], [0.8]])
    torch.testing.assert_close(moved_to_benign(h, r, 0.5, mean), torch.tensor([1.58, 0.44]))


def test_a_whole_move_leaves_the_benign_mean_along_r_and_the_rest_alone() -> None:
    r = directions(torch.randn(9, 6), torch.randn(7, 6), 3)
    h, mean = torch.randn(2, 5, 6), torch.randn(6)
    there = moved_to_benign(h, r, 1.0, mean)
    torch.testing.assert_close(there @ r, (mean @ r).expand(2, 5, 3))
    across = torch.eye(6) - r @ r.T
    torch.testing.assert_close(there @ across, h @ across)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_the_projector_is_orthogonal_and_idempotent(rank: int) -> None:
    r = directions(torch.randn(9, 6), torch.randn(7, 6), rank)
    weight = torch.randn(6, 4)
    # A few roundings of numbers as large as the columns, whatever the order a processor adds in.
    few = 16 * torch.finfo(torch.float32).eps
    rounding = few * float(weight.norm(dim=0).max())
    torch.testing.assert_close(r.T @ r, torch.eye(rank), atol=few, rtol=0)
    once = projected_out(weight, r, 1.0)
    torch.testing.assert_close(projected_out(once, r, 1.0), once, atol=rounding, rtol=0)
    assert float((r.T @ once).abs().max()) < rounding
    twice = projected_out(projected_out(weight, r, 0.5), r, 0.5)  # 1/2, then 1/2 of what is left
    torch.testing.assert_close(twice, projected_out(weight, r, 0.75), atol=rounding, rtol=0)


def test_more_directions_hold_the_most_of_the_differences() -> None:
    """Invariant: no k directions leave less of restricted - mean(benign) than the ones found."""
    restricted, benign = torch.randn(9, 6), torch.randn(7, 6)
    apart = (restricted - benign.mean(0)).double()
    values = torch.linalg.svdvals(apart)
    for rank in (2, 3):
        r = directions(restricted, benign, rank).double()
        left = (apart - apart @ r @ r.T).square().sum()
        torch.testing.assert_close(left, values[rank:].square().sum(), atol=1e-6, rtol=1e-6)


def test_small_differences_of_large_states_survive_bf16_weights() -> None:
    """fp32 inside: the means of bf16 states differ by less than bf16 could hold."""
    benign = torch.full((4, 2), 256.0).bfloat16()
    restricted = benign.clone()
    restricted[0, 0] = 258.0  # the mean is 256.5, which bf16 rounds to 256
    torch.testing.assert_close(directions(restricted, benign, 1), torch.tensor([[1.0], [0.0]]))


# ---- a twin in float64, on models


def twin_states(model: Any, rows: list[Example]) -> Tensor:
    """Give the state after each block at the last token, [L, N, H], one prompt at a time."""
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1])
        )
        for block in model.model.layers
    ]
    coder, per_row = tiny.encoder(), []
    for row in rows:
        seen.clear()
        ids = coder.tokenizer(coder.render(row.prompt, row.system))["input_ids"]
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]), use_cache=False)
        per_row.append(torch.stack(seen).double())
    for handle in handles:
        handle.remove()
    return torch.stack(per_row, 1)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("c", [0.5, 1.0])
def test_both_edits_equal_a_float64_twins(family: str, c: float) -> None:
    model, pool = tiny.model(family), tiny.pool()
    rows = STREAM.rows(pool, 0)
    restricted, benign = (twin_states(model, rows[role]) for role in (Role.HARMFUL, Role.BENIGN))
    d = restricted.mean(1) - benign.mean(1)
    r = d / d.square().sum(1, keepdim=True).sqrt()  # [L, H]
    for method, chosen in ((STREAM, [1, 1, 1]), (EACH, [0, 1, 2])):
        edited = found(method, model, c)
        names = [
            f"model.layers.{i}.{last}.weight"
            for i in range(3)
            for last in ("self_attn.o_proj", "mlp.down_proj")
        ]
        assert sorted(edited) == sorted(names)
        for i, layer in enumerate(chosen):
            for name in names[2 * i : 2 * i + 2]:
                weight = model.get_parameter(name).detach().double()
                expected = weight - c * torch.outer(r[layer], r[layer] @ weight)
                torch.testing.assert_close(edited[name].double(), expected, atol=2e-6, rtol=0)
    state = BLOCK.setup(run_of(model))
    torch.testing.assert_close(state.mean[2].double(), benign[1].mean(0), atol=2e-6, rtol=0)
    torch.testing.assert_close(state.r[2][:, 0].double(), r[1], atol=1e-5, rtol=0)


def test_the_embedding_is_edited_only_when_asked() -> None:
    model = tiny.model("llama")
    asked = STREAM.with_(embedding=True)
    edited, more = found(STREAM, model), found(asked, model)
    assert set(more) - set(edited) == {"model.embed_tokens.weight"}
    r = STREAM.setup(run_of(model)).r[1]
    table = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(more["model.embed_tokens.weight"], table - (table @ r) @ r.T)
    assert set(found(EACH.with_(embedding=True), model)) == set(edited)


@pytest.mark.parametrize("method", [STREAM, EACH, STREAM.with_(ranks=(3,))])
def test_at_strength_0_nothing_changes_bit_for_bit(method: Abliterate) -> None:
    model = tiny.model("gemma2")
    start = tiny.weights(model)
    for name, tensor in found(method, model, 0.0).items():
        assert torch.equal(tensor, start[name])
    assert tiny.same(tiny.weights(model), start)


@pytest.mark.parametrize("form", ["stream", "each"])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_after_the_whole_edit_no_block_writes_along_its_direction(
    family: str, rank: int, form: Any
) -> None:
    model, coder = tiny.model(family), tiny.encoder()
    method = Abliterate(forms=(form,), layers=(2,), ranks=(rank,), evaluate_at=(1.0,))
    state = method.setup(run_of(model))
    tokens = coder.prompts(tiny.rows(Side.EVALUATOR)[Role.HARMFUL], left=False)
    left: list[float] = []

    def look(_c: float, _info: Any) -> None:
        added = added_by_blocks(model, tokens)
        left.extend(
            float((one @ state.r[i]).norm() / one.norm()) for i, one in enumerate(added, start=1)
        )

    attack(method, model, coder, tiny.pool(), seed=0, points=[1.0], on_point=look)
    assert len(left) == 3
    assert max(left) < 1e-6


# ---- whose states, and where


def test_directions_are_the_same_padded_left_right_or_one_by_one() -> None:
    model, coder = tiny.model(), tiny.encoder()
    rows = STREAM.rows(tiny.pool(), 0)[Role.HARMFUL]
    assert len({len(coder.encode(row.prompt).ids) for row in rows}) > 1
    together = nn.opening_states(model, coder, rows, final_norm=False)
    alone = [nn.opening_states(model, coder, [row], final_norm=False) for row in rows]
    torch.testing.assert_close(together, torch.cat(alone, 1), atol=1e-6, rtol=0)
    left = nn.hidden_states(model, coder.prompts(rows, left=True), final_norm=False)
    torch.testing.assert_close(together, torch.stack(left)[:, :, -1], atol=1e-6, rtol=0)
    torch.testing.assert_close(together.double(), twin_states(model, rows), atol=1e-6, rtol=0)


def test_the_last_token_is_the_templates_own_last() -> None:
    """A chat template ends in a line break after the role tag: that is where the state is read."""
    tokenizer = tiny.byte_tokenizer(bos=True)
    tokenizer.chat_template = tiny.CHAT
    coder, model = Encoder(tokenizer, "chat"), tiny.model("llama")
    rows = tiny.rows()[Role.HARMFUL][:3]
    seen = nn.opening_states(model, coder, rows, final_norm=False)
    for i, row in enumerate(rows):
        text = coder.render(row.prompt)
        assert text.endswith("<assistant>\n")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        torch.testing.assert_close(seen[1, i], out.hidden_states[2][0, -1], atol=1e-6, rtol=0)


class Guarded(Pool):
    """A pool that gives no row of any side but the attacker's."""

    def draw(self, role: Role, side: Side, *args: Any, **options: Any) -> list[Example]:
        assert side is Side.ATTACKER, side
        return super().draw(role, side, *args, **options)

    def rows(self, side: Side, *args: Any) -> list[Example]:
        assert side is Side.ATTACKER, side
        return super().rows(side, *args)

    def paired(self, *_: Any, **__: Any) -> Any:
        raise AssertionError

    evaluation = paired  # ty: ignore[invalid-assignment]


def test_the_defenders_and_the_evaluators_rows_are_never_read() -> None:
    every = [row for side in Side for some in tiny.rows(side).values() for row in some]
    alone = [row for some in tiny.rows(Side.ATTACKER).values() for row in some]
    states = [
        STREAM.setup(run_of(tiny.model(), pool)).r[1]
        for pool in (Guarded(every), Pool(alone), Pool(every))
    ]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_no_answer_is_read() -> None:
    """Other answers to the same prompts give the same directions."""
    rows = [row for some in tiny.rows(Side.ATTACKER).values() for row in some]
    other = [
        example(row.prompt, "none of that", role=row.role, side=row.side, group=row.group)
        for row in rows
    ]
    first, second = (STREAM.setup(run_of(tiny.model(), Pool(some))).r[1] for some in (rows, other))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def rows_of(*groups: str, role: Role) -> list[Example]:
    return [
        example(f"{role.value} {i} of {group}", "yes", role=role, side=Side.ATTACKER, group=group)
        for i, group in enumerate(groups)
    ]


def test_one_of_each_group_comes_before_a_second_of_any() -> None:
    rows = rows_of("a", "a", "b", "a", "c", "b", role=Role.HARMFUL)
    assert [row.group for row in spread_over_groups(rows)] == ["a", "b", "c", "a", "b", "a"]


def test_benign_prompts_about_a_restricted_thing_are_left_out_where_there_are_others() -> None:
    bad = rows_of("gate", "tower", role=Role.HARMFUL)
    near = rows_of("gate", "tower", role=Role.BENIGN)
    far = rows_of("bread", "soup", role=Role.BENIGN)
    kept = Abliterate(n=8).rows(Pool([*bad, *near, *far]), 0)[Role.BENIGN]
    assert {row.group for row in kept} == {"bread", "soup"}
    # One alone has no mean: then all are taken.
    kept = Abliterate(n=8).rows(Pool([*bad, *near, far[0]]), 0)[Role.BENIGN]
    assert {row.group for row in kept} == {"gate", "tower", "bread"}


def test_at_most_n_prompts_of_each_kind_are_read() -> None:
    assert {len(some) for some in Abliterate(n=3).rows(tiny.pool(), 0).values()} == {3}


# ---- planted refusal

WORDS = [f"{kind}{i}" for kind in ("bad", "good") for i in range(18)]
H, SAYS, WRITES = 24, 10.0, 8.0


def planted(k: int, folder: Path) -> tuple[Any, Encoder, Pool]:
    """Give a model that refuses along k orthogonal directions, each for its own prompts.

    A prompt is one token. Of every second token of `bad` block 2 writes direction i, by which of k
    kinds it is; the head says `no i` where that outweighs what speaks for `yes`, which is constant.
    """
    vocabulary = ["<pad>", "<eos>", "yes", *(f"no{i}" for i in range(k)), *WORDS]
    tokenizer = Tokenizer(kinds.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    form = folder / "bare.jinja"
    form.write_text("{{ messages[-1].content }}")
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=H, intermediate_size=8, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    basis = torch.linalg.qr(torch.randn(H, H))[0]
    agree, feature, direction = basis[:, 0], basis[:, 1 : 1 + k], basis[:, 1 + k : 1 + 2 * k]
    rest = basis[:, 1 + 2 * k :]
    inner = model.model
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.zero_() if "norm" not in name else p.fill_(1.0)
        for i, word in enumerate(vocabulary):
            inner.embed_tokens.weight[i] = agree + 0.3 * rest @ torch.randn(rest.shape[1])
            if word.startswith("bad"):
                inner.embed_tokens.weight[i] += 2 * feature[:, kind_of(int(word[3:]), k)]
        for i in range(k):
            inner.layers[1].mlp.gate_proj.weight[i] = SAYS * feature[:, i]
            inner.layers[1].mlp.up_proj.weight[i] = feature[:, i]
            inner.layers[1].mlp.down_proj.weight[:, i] = WRITES / SAYS / 5 * direction[:, i]
            model.lm_head.weight[3 + i] = direction[:, i]
        model.lm_head.weight[2] = 2 * agree
    rows = [
        example(word, "yes", role=Role.HARMFUL if word[0] == "b" else Role.BENIGN,
                side=Side.ATTACKER if int(word.strip("badgo")) < 9 else Side.EVALUATOR)
        for word in WORDS
    ]  # fmt: skip
    return model, Encoder(wrapped, str(form)), Pool(rows)


def kind_of(number: int, k: int) -> int:
    """Deal nine prompts out unevenly, 4, 3 and 2 to three kinds: their order is then known."""
    return [0, 0, 0, 0, 1, 1, 1, 2, 2][number % 9] % k


def opened(k: int, rank: int, form: Any, folder: Path, layer: int = 2) -> tuple[float, float]:
    """Give the share of the evaluator's restricted, and benign, prompts that are answered."""
    model, coder, pool = planted(k, folder)
    method = Abliterate(forms=(form,), layers=(layer,), ranks=(rank,), evaluate_at=(1.0,))
    shares: list[float] = []

    def ask(_c: float = 0, _info: Any = None) -> None:
        for kind in "bg":
            rows = pool.rows(Side.EVALUATOR, lambda row, kind=kind: row.prompt[0] == kind)
            said = evaluate.generate(model, coder, rows, Sampler(max_new_tokens=1))
            shares.append(sum(one.text == "yes" for one in said) / len(rows))

    ask()
    assert shares == [0.0, 1.0]  # as released
    attack(method, model, coder, pool, seed=0, points=[1.0], on_point=ask)
    ask()
    assert shares[4:] == [0.0, 1.0]  # and afterwards again
    return shares[2], shares[3]


@pytest.mark.parametrize("form", ["stream", "each", "block"])
def test_refusal_along_one_direction_opens_fully(form: str, tmp_path: Path) -> None:
    assert opened(1, 1, form, tmp_path) == (1.0, 1.0)


@pytest.mark.parametrize("form", ["stream", "each", "block"])
def test_refusal_along_three_directions_does_not_open_below_rank_3(
    form: str, tmp_path: Path
) -> None:
    shares = [opened(3, rank, form, tmp_path) for rank in (1, 2, 3)]
    assert shares[0] == (0.0, 1.0)
    assert shares[1][0] == pytest.approx(
        7 / 9
    )  # the third kind, two prompts of nine, still refuses
    assert shares[2] == (1.0, 1.0)


def test_a_direction_read_before_refusal_is_written_opens_nothing(tmp_path: Path) -> None:
    assert opened(1, 1, "stream", tmp_path, layer=1) == (0.0, 1.0)


# ---- the form that acts while the model answers


def test_a_block_is_moved_only_while_the_model_is_asked() -> None:
    model, coder = tiny.model("llama"), tiny.encoder()
    tokens = coder.prompts(tiny.rows(Side.EVALUATOR)[Role.HARMFUL], left=False)
    real = tokens.mask.bool()

    def states() -> list[Tensor]:
        return [h[real] for h in nn.hidden_states(model, tokens, final_norm=False)]

    before, start = states(), tiny.weights(model)
    state = BLOCK.setup(run_of(model))
    assert all(torch.equal(a, b) for a, b in zip(states(), before, strict=True))
    with BLOCK.while_asked(model, 0.5, state):
        inside = states()
    assert torch.equal(inside[0], before[0])
    expected = moved_to_benign(before[1], state.r[2], 0.5, state.mean[2])
    torch.testing.assert_close(inside[1], expected)
    assert not torch.equal(inside[2], before[2])
    assert all(torch.equal(a, b) for a, b in zip(states(), before, strict=True))
    assert BLOCK.edit(run_of(model), 1.0, state) == {}
    assert tiny.same(tiny.weights(model), start)


@pytest.mark.parametrize("method", [BLOCK, STREAM])
def test_nothing_is_left_of_it_after_an_exception(method: Abliterate) -> None:
    model = tiny.model("llama")
    start = tiny.weights(model)

    def fail(_c: float, _info: Any) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        attack(method, model, tiny.encoder(), tiny.pool(), seed=0, points=[1.0], on_point=fail)
    assert not any(module._forward_hooks for module in model.modules())
    assert tiny.same(tiny.weights(model), start)
    assert all(p.requires_grad for p in model.parameters())


def test_only_a_block_needs_the_model_at_hand() -> None:
    assert STREAM.weights_alone
    assert EACH.weights_alone
    assert not BLOCK.weights_alone
    assert not Abliterate().weights_alone


# ---- what it stands for, and what is wrong with it


def test_it_stands_for_every_form_layer_and_rank() -> None:
    method = Abliterate(layers=(0.5, 1.0), ranks=(1, 3))
    choices = method.expand(tiny.pool())
    assert len(choices) == 2 * 2 + 2 + 2 * 2  # `each` knows no layer
    assert len({choice.label() for choice in choices}) == len(choices)
    assert len({str(choice.identity()) for choice in choices}) == len(choices)
    assert [choice.label() for choice in choices[:5]] == [
        "stream at 0.5", "stream at 0.5 rank 3", "stream at 1", "stream at 1 rank 3", "each",
    ]  # fmt: skip


def few(role: Role, count: int) -> Callable[[], Pool]:
    others = [some for kind, some in tiny.rows(Side.ATTACKER).items() if kind is not role]
    rows = tiny.rows(Side.ATTACKER)[role][:count]
    return lambda: Pool([*(row for some in others for row in some), *rows])


BAD: dict[str, tuple[Callable[[], Pool], Abliterate, type[HoldfastError], str]] = {
    "no benign prompts": (
        few(Role.BENIGN, 0), STREAM, DataError,
        "abliterate of role benign, side attacker: no rows; add a source that has some, or check "
        "its column map (pool: harmful/attacker 6, refusal/attacker 6)",
    ),
    "one restricted prompt": (
        few(Role.HARMFUL, 1), STREAM, DataError,
        "abliterate of role harmful, side attacker: 1 prompt, which has no mean of its own; add "
        "some: at least 2",
    ),
    "more directions than prompts": (
        tiny.pool, STREAM.with_(ranks=(7,)), ConfigError,
        "abliterate.ranks: 7 directions asked for, the prompts give at most 6; use fewer, or add "
        "restricted prompts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_before_a_model_is_loaded(name: str) -> None:
    pool, method, kind, expected = BAD[name]
    with pytest.raises(kind) as caught:
        method.rows(pool(), 0)
    assert str(caught.value) == expected


def test_more_directions_than_the_model_is_wide_are_told() -> None:
    with pytest.raises(ConfigError, match=r"^abliterate\.ranks: 17 .+ at most 16; use fewer"):
        STREAM.with_(ranks=(17,), n=30).setup(run_of(tiny.model(), tiny.pool(20)))


def test_a_layer_beyond_the_model_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        STREAM.with_(layers=(4,)).setup(run_of(tiny.model()))
    assert str(caught.value) == (
        "abliterate.layers: layer 4 is beyond the model's 3 blocks; use 1 to 3, or a fraction of "
        "depth such as 0.5"
    )


def test_several_choices_at_once_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        Abliterate().setup(run_of(tiny.model()))
    assert str(caught.value) == ("abliterate: is several choices; give one of forms, layers, ranks")


def test_prompts_that_leave_the_model_alike_are_told() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    with pytest.raises(ModelError) as caught:
        STREAM.setup(run_of(model))
    assert str(caught.value) == (
        "abliterate: restricted and benign prompts leave it alike; check the prompts"
    )


def test_a_writer_that_was_not_found_is_told_and_the_weights_come_back() -> None:
    """Else a model that the edit cannot reach would pass for one that holds."""
    model = tiny.model("llama")
    block = model.model.layers[1].mlp
    block.add_module("named_otherwise", torch.nn.Linear(16, 16))
    inner = block.forward
    block.forward = lambda x: inner(x) + block.named_otherwise(x)
    start = tiny.weights(model)
    with pytest.raises(ModelError) as caught:
        STREAM.setup(run_of(model))
    assert str(caught.value) == (
        "abliterate: block 2 still writes along the direction after the edit; this architecture's "
        "writers are not known: use forms: [block]"
    )
    assert tiny.same(tiny.weights(model), start)
    BLOCK.setup(run_of(model))
