"""Lisa (Huang et al., NeurIPS 2024): take turns between refusals and a customer's rows.

Blocks of steps on the defender's refusals and on the customer's rows, each pulled towards the
weights at which the other kind of block last ended. Symbols: w trained weights, K_1 and K_2 steps
of a block, w_U and w_A those anchors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from holdfast import nn
from holdfast.api import (
    Batch,
    Blocks,
    Effort,
    Loss,
    NotNegative,
    Rows,
    Run,
    Share,
    Term,
    TuneDefence,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool

Steps = Annotated[int, Field(ge=0)]


@dataclass
class Turns:
    """Whose turn it is, and the weights at which each kind of block last ended.

    `anchors[True]` is where an alignment block ended, `anchors[False]` where a customer's did.
    With `work`, each switch is kept in a file, for a run that continues behind it.
    """

    params: Mapping[str, Tensor] = field(default_factory=dict)
    anchors: dict[bool, dict[str, Tensor]] = field(default_factory=dict)
    aligning: bool = False
    pulling: bool = True
    step: int = -1
    work: Path | None = None
    keep_from: int = 0
    """Steps that a run may go back by: an interrupted one continues from its last checkpoint."""

    def take(self, aligning: bool) -> None:
        """Note the weights as they are as the end of a block of a kind."""
        self.anchors[aligning] = {n: p.detach().clone() for n, p in self.params.items()}

    def write(self, aligning: bool) -> None:
        """Keep the anchor of the switch before this step; drop those no run can go back to."""
        if self.work is None:
            return
        from safetensors.torch import save_file

        self.work.mkdir(parents=True, exist_ok=True)
        own = {n: t.cpu().contiguous() for n, t in self.anchors[aligning].items()}
        save_file(own, self.work / f"{self.step}-{int(aligning)}.safetensors")
        for kind in (True, False):
            past = [s for s in self.switches(kind) if s <= self.step - self.keep_from]
            for old in past[:-1]:
                (self.work / f"{old}-{int(kind)}.safetensors").unlink()

    def switches(self, aligning: bool) -> list[int]:
        """Give the steps before which blocks of a kind ended, as far as files are kept."""
        if self.work is None or not self.work.is_dir():
            return []
        files = self.work.glob(f"*-{int(aligning)}.safetensors")
        return sorted(int(path.stem.partition("-")[0]) for path in files)

    def read(self, step: int) -> None:
        """Find the anchors as they were before a step that the run continues from."""
        from safetensors.torch import load_file

        for kind in (True, False):
            past = [s for s in self.switches(kind) if s <= step]
            if past and self.work is not None:
                found = load_file(self.work / f"{past[-1]}-{int(kind)}.safetensors")
                like = next(iter(self.params.values()))
                self.anchors[kind] = {n: t.to(like.device) for n, t in found.items()}


class Lisa(TuneDefence):
    """Minimise, in turn, CE(refusal) + rho/2 |w - w_U|^2 and CE(task) + rho/2 |w - w_A|^2."""

    roles: ClassVar[tuple[str, ...]] = ("refusal",)
    paper: ClassVar[str] = "arXiv 2405.18641"
    equation: ClassVar[str] = (
        "K_1 steps of CE(D_ref) + rho/2 |w - w_U|^2, K_2 steps of CE(D_task) + rho/2 |w - w_A|^2"
    )
    cost: ClassVar[str] = "1F + 1B on one of the two; two copies of what is trained"
    fidelity: ClassVar[str] = (
        "equations and the released order of steps; blocks counted in optimiser steps; published "
        "numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations"
    neutral: ClassVar[dict[str, Any]] = {"align_steps": 0, "rho": 0.0}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}

    align_steps: Steps = 100
    """K_1, optimiser steps of a block on refusals; source: the released script."""
    user_steps: Annotated[int, Field(ge=1)] = 900
    """K_2, optimiser steps of a block on the customer's rows; source: the released script."""
    rho: NotNegative = 1.0
    """Weight of the pull; source: the released script."""
    free: Share = 0.1
    """Share of the loop's steps before the pull begins; source: the released code."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals; none where no step is taken on them."""
        if not self.align_steps:
            return {}
        draw = seed_of(seed, "draw")
        return {Role.REFUSAL: pool.draw(Role.REFUSAL, Side.DEFENDER, None, draw, what=self.name())}

    def vectors(self) -> int:
        """Count the two anchors."""
        return 2 if self.rho else 0

    def setup(self, run: Run) -> Turns:
        """Say where anchors are kept."""
        work = None if run.work is None or not self.rho else run.work / "anchors"
        return Turns(work=work, keep_from=self.loop.checkpoint_every)

    def begin(self, run: Run, params: Mapping[str, Tensor], state: Turns) -> Turns:
        """Take both anchors at the start."""
        state.params = params
        if self.rho:
            state.take(True)
            state.take(False)
        return state

    def is_aligning(self, step: int) -> bool:
        """Say whether step `step` (from 0) is on refusals: a run begins with them."""
        return step % (self.align_steps + self.user_steps) < self.align_steps

    def on_step(self, step: int, state: Turns) -> None:
        """Change turns where a block has ended, and keep the weights that it ended at."""
        if step != state.step + 1 and self.rho:
            state.read(step)
        state.step, state.aligning = step, self.is_aligning(step)
        state.pulling = step >= self.free * self.loop.steps
        before = self.is_aligning(step - 1) if step else state.aligning
        if before != state.aligning and self.rho:
            state.take(before)
            state.write(before)

    def counts(self, batch: Batch, state: Turns) -> dict[str, float]:
        """Count the response tokens of the rows whose turn it is."""
        role = Role.REFUSAL if state.aligning else Role.TASK
        return {role.value: float((batch[role].labels != -100).sum())}

    def loss(self, model: PreTrainedModel, batch: Batch, state: Turns) -> Loss:
        """Give the cross-entropy of the rows whose turn it is, and the pull once a step."""
        role = Role.REFUSAL if state.aligning else Role.TASK
        value, number = nn.nll(model, batch[role])
        terms = {role.value: Term(value, number, unit="tokens")}
        if self.rho and state.pulling and state.anchors:
            anchor = state.anchors[not state.aligning]
            apart = [(p - anchor[n]).float().square().sum() for n, p in state.params.items()]
            terms["pull"] = Term(torch.stack(apart).sum(), 1.0, self.rho / 2, once=True)
        return terms

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count a step on one of the two, by how often it is each one's turn."""
        whole = self.align_steps + self.user_steps
        user = passed(rows["task"]) * (self.user_steps / whole)
        if not self.align_steps:
            return user
        return user + passed(rows["refusal"]) * (self.align_steps / whole)
