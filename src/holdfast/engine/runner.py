"""What a step does when its turn comes: harden, attack and answer, judge.

Nothing here knows other steps: each reads finished artefacts and publishes its own.
"""

from __future__ import annotations

from typing import Self

from holdfast.engine import attacking, hardening
from holdfast.engine.judging import Judging
from holdfast.engine.session import Progress, Session
from holdfast.engine.store import Store
from holdfast.study.plan import Plan


class Runner:
    """Runs steps in this process, one at a time; a method for each kind of task.

    As a `with` it closes the judge that is open in the end, after an error and Ctrl-C too.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        threads: int = 1,
        device: str = "cpu",
        keep_weights: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.session = Session(
            plan,
            store,
            threads=threads,
            device=device,
            keep_weights=keep_weights,
            progress=progress,
        )
        self._judging = Judging(self.session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._judging.close()
        self.session.forget()

    def defend(self, key: str) -> None:
        """Harden one model with one defence and publish its checkpoint."""
        hardening.defend(self.session, key)

    def measure(self, key: str) -> None:
        """Take a defence's diagnostic on the model of plain refusal fine-tuning."""
        hardening.measure(self.session, key)

    def attack(self, own: str) -> None:
        """Run one trajectory (or none: the model as released) and ask at every point of it."""
        attacking.attack(self.session, own)

    def judge(self, number: int, own: str) -> None:
        """Have one judge read every answer of a trajectory that it has not read yet."""
        self._judging.judge(number, own)
