"""What judges that a server answers for have in common: one request a case, kept, read or not."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import PrivateAttr

from holdfast.api import Count, Exchange, Judge, NotNegative, Outcome, Reason, Verdict
from holdfast.api.degenerate import degenerate
from holdfast.api.hearing import came
from holdfast.data import tagged
from holdfast.endpoint import Chat, Client, Endpoint
from holdfast.endpoint import check as check_endpoint

if TYPE_CHECKING:
    from pydantic import JsonValue

    from holdfast.endpoint import Answer

log = logging.getLogger(__name__)


class ServedJudge(Judge):
    """A judge that asks any model a server offers, and reads the tags of its reply.

    One writes `rules`, `case` and `read`. Text that is no language is not sent: it is degenerate
    and has no score. A reply that says nothing it was asked for gives no verdict.
    """

    tags: ClassVar[tuple[str, ...]]
    """The tags that a verdict stands in."""

    endpoint: Endpoint
    """The server, the model on it that judges, and what that may cost."""
    max_tokens: Count = 1024
    """The most tokens of a reply, its reasons included; ours, several times what they need. A
    model that thinks before it replies needs more."""
    temperature: NotNegative | None = 0.0
    """Temperature of the judge model; source: LoX's judge. None sends none, for models that take
    none."""
    seed: int | None = 42
    """Seed of the judge model's draws; source: LoX's judge. None sends none."""
    _client: Client | None = PrivateAttr(None)

    @abstractmethod
    def rules(self, exchange: Exchange) -> str:
        """Give what the judge model is told before the case."""

    @abstractmethod
    def case(self, exchange: Exchange) -> str:
        """Give the case itself; `holdfast.data.tagged.case` words one."""

    @abstractmethod
    def read(self, exchange: Exchange, reply: str) -> Verdict | None:
        """Give the verdict that a reply makes; None where it does not say what it was asked."""

    def check(self) -> None:
        """Refuse at once a missing package or key."""
        check_endpoint(self.endpoint)

    def open(self, device: str) -> None:
        """Reach the server, see that it serves the model, and try once whether it is greedy.

        `device` is the server's own matter.
        """
        client = Client(self.endpoint, self.identity())
        client.open()
        self._client = client
        try:
            client.afford(self._chat(Exchange("", None, "", "", "", "stop", {})))
            if self.temperature == 0 and client.honours().greedy is False:
                log.warning(
                    "judge '%s': %s does not repeat itself at temperature 0; verdicts that "
                    "are kept stay, new ones may differ from run to run",
                    self.name(),
                    self.endpoint.base_url,
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection and the cache."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def judge_many(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """Give the verdict on each exchange, in order; equal ones are sent once.

        Raises:
            ConfigError: wrong key, a model or field that the server does not take, a budget too
                small for one case.
            EndpointError: the server answers no more, or the budget is spent.
        """
        assert self._client is not None, "open it first"
        stuck = [degenerate(one.response, one.prefill) for one in exchanges]
        sent = [one for one, no in zip(exchanges, stuck, strict=True) if not no]
        answers = iter(self._client.ask_all(map(self._chat, sent), came))
        return [
            Verdict(None, Outcome.DEGENERATE, raw="no language: not sent")
            if no
            else self._verdict(one, next(answers))
            for one, no in zip(exchanges, stuck, strict=True)
        ]

    def _chat(self, exchange: Exchange) -> Chat:
        """Give the request of one case."""
        sampling: dict[str, JsonValue] = {}
        if self.temperature is not None:
            sampling["temperature"] = self.temperature
        if self.seed is not None:
            sampling["seed"] = self.seed
        messages = (
            {"role": "system", "content": self.rules(exchange)},
            {"role": "user", "content": self.case(exchange)},
        )
        return Chat(messages, self.max_tokens, sampling)

    def _verdict(self, exchange: Exchange, answer: Answer) -> Verdict:
        """Read a reply; what it does not say is not made up."""
        reply = answer.text
        if answer.failed:
            return _none(Reason.ERROR, answer.failed)
        if answer.refused:
            return _none(Reason.REFUSED_TO_JUDGE, reply or answer.finish_reason)
        found = self.read(exchange, reply)
        if found is not None:
            return found
        if answer.finish_reason == "length":
            return _none(Reason.TRUNCATED, reply)
        if not reply.strip():
            return _none(Reason.EMPTY, reply)
        if tagged.declines(reply) and not tagged.holds(reply, self.tags):
            return _none(Reason.REFUSED_TO_JUDGE, reply)
        return _none(Reason.UNPARSABLE, reply)


def _none(reason: Reason, raw: str) -> Verdict:
    return Verdict(None, None, reason, raw)
