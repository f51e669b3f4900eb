"""TAR (Tamirisa et al., ICLR 2025): be good after simulated fine-tuning attacks, to first order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from holdfast import nn
from holdfast.api import (
    TRAINED,
    Blocks,
    Count,
    Effort,
    GradientDefence,
    Loop,
    Loss,
    NotNegative,
    Positive,
    Rows,
    Run,
    Share,
    Step,
    Term,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.fields import AsTuple, Fields
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import IGNORE, Encoder, Packed, Row, Tokens, collate
from holdfast.errors import ConfigError, DataError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.defences.tar.moving import Moving
    from holdfast.nn.vectors import ParamVector

SWITCH = (6.0, 3.0)
"""Where an attack that starts on benign rows turns: Beta(6, 3) x steps; source: released script."""

_OUTER: dict[str, Any] = {"steps": 100, "batch": 8, "lr": 6e-5, "warmup": 32}
_SCRIPT: dict[str, Any] = {"clip": None, "precision": "fp32_master"}


def dpo(chosen: Tensor, rejected: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Give -log sigmoid(beta * (chosen - rejected - reference)) of each pair, [B] each.

    Args:
        chosen: log p(refusal | prompt), summed over its tokens.
        rejected: the same of the harmful answer.
        reference: chosen - rejected under the model at the start.
    """
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected - reference))


def drift(student: Tensor, reference: Tensor) -> Tensor:
    """Give |h_s - h_r|_2 of each token, not squared: [..., H] -> [...], in fp32 at least.

    Where they are equal the gradient is 0.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    return torch.linalg.vector_norm(student.to(wide) - reference.to(wide), dim=-1)


def share(number: int, steps: int, decay: float) -> float:
    """Give s_k = exp(decay * (k - (K - 1))): 1 for the last of K inner steps, less before it."""
    return math.exp(decay * (number - (steps - 1)))


class Simulated(Fields):
    """The attack that training simulates."""

    steps: Count = 8
    """Inner steps K; source: the refusal script's 8 (bio and cyber: 64)."""
    every: Count = 1
    """The tampered model is judged after every so many inner steps, the last always; source: the
    refusal script's 1 (bio and cyber: 4)."""
    tasks: Count = 1
    """Attacks simulated in one outer step, their mean taken; source: bio and cyber's 1 (the
    refusal script draws 2)."""
    decay: NotNegative = 0.0625
    """lambda_s: the judgement after step k weighs exp(decay (k - (K - 1))); source: the scripts."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """What takes the inner steps, fresh for each attack; source: the paper's AdamW."""
    rates: Annotated[tuple[Positive, ...], AsTuple, Field(min_length=1)] = (2e-6, 2e-5, 4e-5)
    """Inner learning rates, one drawn for each attack; source: the released scripts."""
    weight_decay: NotNegative = 0.01
    """AdamW's decay of the inner steps; source: torch's default, which the scripts leave."""
    batch: Count = 4
    """Rows of an inner step, in one pass; source: the bio script's 4 a device (the
    refusal script: 4, twice)."""
    switch: Share = 0.0
    """Chance that an attack starts on benign rows and turns to harmful ones after Beta(6, 3) of its
    steps; source: the refusal script has none (bio: 1/3, cyber: 1/2)."""


@dataclass
class TARState:
    """Encoded rows to attack with, each harmful answer's refusal, and the model at the start (under
    LoRA the model itself, its adapter off); `step` counts outer steps.
    """

    encoder: Encoder
    harmful: list[Row]
    benign: list[Row]
    refusal: dict[tuple[int, ...], Row] = field(default_factory=dict)
    reference: PreTrainedModel | None = None
    seed: int = 0
    step: int = 0


@dataclass(frozen=True)
class _Tamper:
    """One micro-batch of the tamper-resistance loss: harmful rows, refusals, reference margins."""

    harmful: Tokens
    refusal: Tokens
    margin: Tensor | None


class TAR(GradientDefence):
    """Descend lambda_TR * E_attack sum_k s_k L_TR(w_k) + L_retain(w), w_k taken as if w."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful", "benign")
    starts_from: ClassVar[Literal["base", "aligned"]] = "aligned"
    paper: ClassVar[str] = "arXiv 2408.00761"
    equation: ClassVar[str] = (
        "tamper_weight * E_attack sum_k s_k L_TR(attack_k(w)) + retain_weight * (CE(D_ben) + "
        "hidden_weight * |h - h_start|)"
    )
    cost: ClassVar[str] = (
        "tasks x (steps + evaluations) x (1F + 1B) + 1F + 1B; the reference 2F (dpo: pairs)"
    )
    fidelity: ClassVar[str] = (
        "paper and released scripts read; AdamW for schedule-free AdamW, padding out of "
        "every mean; the refusal script never ran as published; `lite` is reduced; published "
        "numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"tamper_weight": 0.0, "hidden_weight": 0.0}
    plain: ClassVar[dict[str, float]] = {"benign": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {
            "tamper_loss": "entropy",
            "entropy_at": "all",
            "tamper_weight": 4.0,
            "attack": {"steps": 64, "every": 4, "switch": 1 / 3},
            "loop": {"steps": 750, "batch": 8, "lr": 2e-5, "warmup": 32} | _SCRIPT,
        },
        "refusal_script": {
            "hidden_weight": 0.0,
            "held_out": 0.0,
            "n": 256,
            "attack": {"tasks": 2, "batch": 8},
            "loop": _OUTER | _SCRIPT | {"micro_batch": 4},
        },
        "lite": {
            "attack": {
                "steps": 4,
                "every": 2,
                "decay": 0.125,
                "rates": (4e-6, 4e-5, 8e-5),
            }
        },
    }
    signal: ClassVar[str] = "harm_loss_after"
    moves: ClassVar[Literal["up", "down"]] = "up"

    tamper_loss: Literal["dpo", "entropy"] = "dpo"
    """What must be good after an attack. `dpo`: the refusal is preferred to the harmful answer
    (the paper's refusal setting); `entropy`: the next token is uncertain (bio and cyber)."""
    tamper_weight: NotNegative = 0.1
    """lambda_TR; source: the refusal script (bio and cyber: 4)."""
    retain_weight: NotNegative = 1.0
    """Weight of both parts of the retain loss; source: the released scripts."""
    hidden_weight: NotNegative = 1.0
    """Weight of the hidden states' distance beside the benign cross-entropy; source: the bio
    and cyber scripts, whose loss adds them (the refusal script leaves them out: 0)."""
    beta: Positive = 0.1
    """DPO's inverse temperature; source: the released refusal setting."""
    entropy_at: Literal["response", "all"] = "response"
    """Where entropy is raised: where the answer is written (ours, because prompts are shared with
    benign use), or at every token that is no padding (the paper's documents have no prompt)."""
    held_out: Share = 0.2
    """Share of the prompts kept for the tamper-resistance loss, which no simulated attack trains
    on; source: bio's 20 % (the refusal script: 0, the same rows for both)."""
    attack: Simulated = Simulated()
    """The simulated attack."""
    n: Count | None = None
    """Distinct prompts, each with a refusal and a harmful answer; None takes all."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's."""
    loop: Loop = Loop(**_OUTER)
    """Outer steps; source: the refusal script (100 steps, 4 x 2 rows, 6e-5, warm-up 32). Its
    schedule-free AdamW is plain AdamW at a constant rate here; clipping at 1 is ours: no script
    clips."""

    # ---- rows

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the pairs that the tamper-resistance loss reads, and the benign rows.

        The rows to attack with are no part of a step: `setup` keeps them.

        Raises:
            ConfigError: compiled blocks.
            DataError: too few pairs, or none left to attack with.
        """
        if self.loop.compile_layers:
            raise ConfigError(
                f"{self.name()}.loop.compile_layers",
                "compiled blocks hide the hidden states it compares",
                "leave it off",
            )
        judged, _ = self._split(pool, seed)
        return {
            Role.REFUSAL: [refusal for refusal, _ in judged],
            Role.HARMFUL: [harmful for _, harmful in judged],
            Role.BENIGN: self._benign(pool, seed),
        }

    def _benign(self, pool: Pool, seed: int) -> list[Example]:
        draw = seed_of(seed, "draw")
        return pool.draw(Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name())

    def _split(
        self, pool: Pool, seed: int
    ) -> tuple[list[tuple[Example, Example]], list[tuple[Example, Example]]]:
        """Give the pairs to judge by and those to attack with: apart, or all for both."""
        draw = seed_of(seed, "draw")
        pairs = pool.paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, self.n, draw)
        if self.held_out == 0:
            return pairs, pairs
        kept = max(1, round(self.held_out * len(pairs)))
        if kept >= len(pairs):
            raise DataError(
                f"{self.name()}.held_out",
                f"{self.held_out} of {len(pairs)} pairs leaves none to attack with",
                "lower it or give more prompts with both answers",
            )
        return pairs[:kept], pairs[kept:]

    # ---- training

    def _compares(self) -> bool:
        return self.tamper_loss == "dpo" or self.hidden_weight > 0

    def copies(self) -> int:
        """Count the reference; under LoRA the model is its own."""
        return 1 if self._compares() and self.loop.lora is None else 0

    def setup(self, run: Run) -> TARState:
        """Keep the rows to attack with, each harmful answer's refusal, and the model as it is."""
        judged, used = self._split(run.pool, run.seed)
        benign = self._benign(run.pool, run.seed) if self.attack.switch > 0 else []

        def coded(row: Example) -> Row:
            return run.encoder.row(row)

        state = TARState(
            run.encoder,
            [coded(harmful) for _, harmful in used],
            [coded(row) for row in benign],
            {coded(h).ids: coded(r) for r, h in [*used, *judged]},
            seed=run.seed,
        )
        if self._compares():
            shared = self.loop.lora is not None
            state.reference = nn.starting_model(run.model, shared)
        return state

    def on_step(self, step: int, state: TARState) -> None:
        """Have every outer step simulate its own attacks."""
        state.step = step

    def gradient(
        self, model: PreTrainedModel, step: Step, state: TARState
    ) -> tuple[ParamVector, Loss]:
        """Give the gradient of a whole outer step; exact however the step is split.

        The tamper-resistance loss reads the step's harmful rows and their refusals. Its gradients,
        taken where the simulated attacks lead, and the retain gradient at the weights themselves
        are added up in one buffer. What the attacks do hangs on (seed, step) alone.

        Raises:
            TrainingError: an attack does not move the weights, or its way is lost to rounding.
            DataError: a harmful row without its refusal.
        """
        from holdfast.defences.tar.moving import moving

        params, how = nn.trainable(model), self.attack
        parts = self._tampers(step[Role.HARMFUL], state)
        buffer: ParamVector | None = None
        judged: list[tuple[float, Term]] = []
        losses: list[tuple[float, float]] = []
        for task in range(how.tasks):
            draws = random.Random(seed_of(state.seed, "sampling", "attack", state.step, task))
            rate = draws.choice(how.rates)
            with moving(params, how.optimiser) as walk:
                for k, batch in enumerate(self.batches(state.harmful, state.benign, draws)):
                    losses.append(self.attacked(model, params, walk, batch, rate))
                    if (how.steps - 1 - k) % how.every:
                        continue
                    weight = share(k, how.steps, how.decay) / how.tasks
                    buffer, terms = nn.grad(
                        params,
                        lambda part: self._tamper(model, part),
                        parts,
                        self._tamper_counts,
                        into=buffer,
                        scale=self.tamper_weight * weight,
                    )
                    judged.append((weight, terms["tamper"]))
                walk.survived(self.name())
        assert buffer is not None  # the last inner step is always judged
        buffer, found = nn.grad(
            params,
            lambda part: self._retain(model, part, state),
            step[Role.BENIGN],
            self._retain_counts,
            into=buffer,
        )
        return buffer, found | self._told(judged, losses)

    def batches(
        self, harmful: list[Row], benign: list[Row], draws: random.Random
    ) -> Iterator[Tokens]:
        """Give the rows of each inner step, drawn without replacement in each."""
        how = self.attack
        turn = 0
        if how.switch > 0 and draws.random() < how.switch:
            turn = int(draws.betavariate(*SWITCH) * how.steps)
        for k in range(how.steps):
            rows = benign if k < turn else harmful
            chosen = draws.sample(rows, min(how.batch, len(rows)))
            yield collate(chosen, 0)  # masks come from lengths: any id fills

    def attacked(
        self,
        model: PreTrainedModel,
        params: dict[str, Tensor],
        walk: Moving,
        batch: Tokens,
        rate: float,
    ) -> tuple[float, float]:
        """Take one inner step; give the summed loss before it and its tokens."""

        def loss(tokens: Tokens) -> Loss:
            value, count = nn.nll(model, tokens)
            return {"attack": Term(value, count, 1.0, "tokens")}

        slope, terms = nn.grad(params, loss, [batch])
        if not any(bool(g.any()) for g in slope.values()):
            raise TrainingError(
                self.name(),
                "the simulated attack's gradient is 0",
                "check the harmful rows and the precision",
            )
        walk.step(slope, rate, self.attack.weight_decay)
        return float(terms["attack"].sum), terms["attack"].count

    def _tampers(self, harmful: Sequence[Tokens], state: TARState) -> list[_Tamper]:
        """Give the step's harmful rows with their refusals and the reference's margins [B]."""
        found = []
        for tokens in harmful:
            missing = [row for row in tokens.rows if row.ids not in state.refusal]
            if missing:
                raise DataError(
                    f"{self.name()}: {len(missing)} harmful rows of a batch",
                    "no refusal of the same prompt",
                    "give both responses for the same prompts",
                )
            refusals = [state.refusal[row.ids] for row in tokens.rows]
            refusal = collate(refusals, state.encoder.pad_id)
            margin = None
            if self.tamper_loss == "dpo":
                assert state.reference is not None  # `setup` makes one where a term asks for it
                with torch.no_grad(), nn.without_adapter(state.reference) as frozen:
                    margin = _row_chances(frozen, refusal) - _row_chances(frozen, tokens)
            found.append(_Tamper(tokens, refusal, margin))
        return found

    def _tamper(self, model: PreTrainedModel, part: _Tamper) -> Loss:
        """Give L_TR of one micro-batch at the weights as they are."""
        if part.margin is None:
            from holdfast.defences.tar.entropy import next_entropy

            value, count = next_entropy(model, part.harmful, everywhere=self.entropy_at == "all")
            return {"tamper": Term(-value, count, 1.0, "tokens")}
        chosen, rejected = _row_chances(model, part.refusal), _row_chances(model, part.harmful)
        value = dpo(chosen, rejected, part.margin, self.beta).sum()
        return {"tamper": Term(value, float(len(part.harmful)), 1.0, "pairs")}

    def _tamper_counts(self, part: _Tamper) -> dict[str, float]:
        if self.tamper_loss == "dpo":
            return {"tamper": float(len(part.harmful))}
        if self.entropy_at == "all":
            return {"tamper": float(part.harmful.mask.sum())}
        return {"tamper": float((part.harmful.labels != IGNORE).sum())}

    def _retain(self, model: PreTrainedModel, tokens: Tokens, state: TARState) -> Loss:
        """Give benign cross-entropy and the states' distance from one pass and the reference's.

        The distance is a mean over blocks and over all tokens, prompts included; padding none.
        """
        batch = nn.batch_for(model, tokens)
        gaps: list[Tensor] = []
        if self.hidden_weight > 0:
            assert state.reference is not None
            with torch.no_grad(), nn.without_adapter(state.reference) as frozen:
                goal = nn.hidden_states(frozen, batch)
            real = None if isinstance(batch, Packed) else tokens.mask.bool()

            def see(number: int, h: Tensor) -> None:
                apart = drift(h, goal[number])
                gaps.append((apart if real is None else apart[real.to(apart.device)]).sum())

            states = nn.forward(model, batch, see=see)
        else:
            states = nn.forward(model, batch)
        value, count = nn.response_nll(model, states.last, batch)
        terms: Loss = {"retain": Term(value, count, self.retain_weight, "tokens")}
        if gaps:
            weight = self.retain_weight * self.hidden_weight
            places = float(tokens.mask.sum())
            terms["hidden"] = Term(torch.stack(gaps).mean(), places, weight, "tokens")
        return terms

    def _retain_counts(self, tokens: Tokens) -> dict[str, float]:
        labelled = float((tokens.labels != IGNORE).sum())
        hidden = {"hidden": float(tokens.mask.sum())} if self.hidden_weight > 0 else {}
        return {"retain": labelled} | hidden

    def _told(self, judged: list[tuple[float, Term]], losses: list[tuple[float, float]]) -> Loss:
        """Give what is logged: L_TR as weighed and after the last step, the attack's own loss.

        `tamper` is the term itself; the others weigh nothing.
        """
        whole = sum(weight for weight, _ in judged)
        mean = torch.stack([weight * term.sum for weight, term in judged]).sum() / whole
        last = judged[-1][1]
        steps = self.attack.steps
        first = losses[-steps]
        return {
            "tamper": Term(mean, last.count, self.tamper_weight * whole, last.unit),
            "tamper_last": Term(last.sum, last.count, 0.0, last.unit),
            "attack_first": Term(torch.tensor(first[0]), first[1], 0.0, "tokens"),
            "attack_last": Term(torch.tensor(losses[-1][0]), losses[-1][1], 0.0, "tokens"),
        }

    def vectors(self) -> int:
        """Count the weights to come back to, an inner step's gradient and AdamW's moments."""
        return 4 if self.attack.optimiser == "adamw" else 2

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count every attack's inner steps and judgements, and the retain loss; the reference's
        passes. Where attacks may begin on benign rows, two thirds of such a one's steps do.
        """
        how, harmful, benign = self.attack, rows["harmful"], rows["benign"]
        refusal = replace(rows["refusal"], number=harmful.number)
        inner = [passed(replace(some, number=how.batch)) for some in (harmful, benign)]
        mild = how.switch * SWITCH[0] / sum(SWITCH)
        attacked = (inner[0] * (1 - mild) + inner[1] * mild) * how.steps
        judged = sum(not (how.steps - 1 - k) % how.every for k in range(how.steps))
        if self.tamper_loss == "dpo":
            tamper = passed(harmful) + passed(refusal)
            margins = tamper * (1 / TRAINED)
        else:
            asked = harmful.tokens if self.entropy_at == "all" else harmful.said
            tamper, margins = Effort(TRAINED * harmful.tokens, TRAINED * asked), Effort()
        retain = passed(benign)
        if self.hidden_weight > 0:
            retain += Effort(benign.tokens)
        return (attacked + tamper * judged) * how.tasks + margins + retain

    # ---- what it did

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Attack held-out pairs and measure what it took; see `tar.diagnostics`."""
        from holdfast.defences.tar.diagnostics import measured

        return measured(self, run)


def _row_chances(model: PreTrainedModel, tokens: Tokens) -> Tensor:
    """Give each row's log p(response | prompt), [B]."""
    values, rows = nn.log_probs(model, tokens)
    return nn.per_row(values, rows, len(tokens))
