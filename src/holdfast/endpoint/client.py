"""Send many chats to an OpenAI-compatible server: some at once, each until it is answered.

openai's own client sends; what it leaves open is done here: a bound on the whole call, retries of
answers that are no use, a budget, and a cache in which every answer is kept as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import operator
import queue
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from holdfast.disk import cache_folder
from holdfast.endpoint.cache import Cache, Later, Spent
from holdfast.endpoint.chat import LETTERS, Answer, Chat, digest, read
from holdfast.endpoint.faults import (
    LONGEST_WAIT,
    Fault,
    not_served,
    not_taken,
    other_weights,
    silent,
    sort,
    too_patient,
    unreached,
)
from holdfast.endpoint.loop import Loop
from holdfast.endpoint.models import Facts, listed
from holdfast.endpoint.probe import TRIALS, Honours, declined, probe
from holdfast.errors import ConfigError, EndpointError, install

if TYPE_CHECKING:
    from holdfast.endpoint.fields import Endpoint

OUTAGE = 8
"""Requests in a row that no retry saved: the server is gone, not the request at fault; ours."""
SLACK = 30.0
"""Seconds after its time-out by which a request is certainly over; ours."""
LOOK = 0.1
"""Seconds between two looks at what another process is waiting for; ours."""
LONGEST_PAUSE = 60.0
"""Seconds between two retries, at most; ours."""

log = logging.getLogger(__name__)


class _BudgetSpentError(EndpointError):
    """Stops what is not sent yet and lets what is on its way come in."""


def check(endpoint: Endpoint) -> None:
    """Refuse what this machine alone can tell is wrong, before any long work.

    Raises:
        ConfigError: openai is not installed, or there is no key.
    """
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("endpoint", "needs the package openai", f"install it: {install('api')}")
    endpoint.key()


class Client:
    """A server and the cache of what it answered; use it in a `with`, or `open` and `close` it.

    It works from any thread, also where an event loop is running: it has a loop of its own.

    Args:
        endpoint: the server.
        owner: who asks, as plain data (a judge's identity, say). Answers are kept for each owner
            apart, and a cache of another owner is refused.

    Raises (when it is opened):
        ConfigError: no key or a wrong one, a server that does not answer or does not serve the
            model, a cache of another owner.
        StoreError: the cache cannot be written.
    """

    def __init__(self, endpoint: Endpoint, owner: Mapping[str, Any]) -> None:
        self.endpoint, self.owner = endpoint, dict(owner)
        self._served: dict[str, Facts] = {}
        self._flying: dict[str, asyncio.Event] = {}
        self._in_row = self._asked = self._found = 0
        self._guessed = self._over = False
        self._seen: Honours | None = None
        self._chance = random.Random()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Reach the server, see that it serves the model, and open the cache."""
        check(self.endpoint)
        self._loop = Loop("holdfast endpoint")
        try:
            self._loop.run(self._connect())
            try:
                self._cache = Cache(self._path(), self.owner)
                try:
                    self._check_weights()
                except BaseException:
                    self._cache.close()
                    raise
            except BaseException:
                self._loop.run(self._api.close())
                raise
        except BaseException:
            self._loop.close()
            raise

    def _path(self) -> Path:
        """Give the file of the answers: the user's, or one for each asker."""
        if self.endpoint.cache is not None:
            return Path(self.endpoint.cache).expanduser()
        own = f"{self.owner.get('name', 'asker')}-{digest(self.owner)[:16]}.sqlite"
        return cache_folder() / "endpoint" / own

    def _check_weights(self) -> None:
        """Refuse kept answers of other weights that had the same name and address.

        Under `served_as` its user vouches for that.
        """
        facts = self._served.get(self.endpoint.model)
        if not facts or self.endpoint.served_as is not None:
            return
        name, now = f"weights {digest(self.endpoint.key_fields())}", json.dumps(facts)
        if (before := self._cache.note(name)) is None:
            self._cache.keep_note(name, now)
        elif before != now:
            raise other_weights(self.endpoint, self._cache.path)

    def close(self) -> None:
        """Cancel what is on its way and let go of the connection and the cache."""
        if self._found:
            log.info("%d of %d answers of '%s' were there already, in %s",
                     self._found, self._asked, self.endpoint.model, self._cache.path)  # fmt: skip
        if self._over and not self._fits(*self._total()):
            log.warning("the budget was passed by the last reply: %s spent", self._so_far()[1])
        if self._cache.repeated:
            log.warning("%d requests were on their way when a process ended, and were sent again",
                        self._cache.repeated)  # fmt: skip
        try:
            self._loop.run(self._api.close())
        finally:
            try:
                self._loop.close()  # what is on its way is settled before the cache closes
            finally:
                self._cache.close()

    def ask(self, chats: Iterable[Chat]) -> Iterator[tuple[int, Answer]]:
        """Give each chat's place, from 0, and its answer, as they come; each is kept by then.

        Chats are taken as there is room for them, `concurrency` at a time. Equal ones are sent
        once. A request that failed for good has an answer under `failed`. Whoever stops taking
        answers cancels what is on its way.

        Raises:
            ConfigError: wrong key, a model or field that the server does not take, a budget too
                small for one case.
            EndpointError: the budget is spent (what was on its way is given first), or the server
                answers no more.
        """
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        waiting: dict[int, Future[Answer]] = {}
        source = enumerate(chats)
        spent: _BudgetSpentError | None = None
        try:
            while True:
                while spent is None and len(waiting) < self.endpoint.concurrency:
                    place, chat = next(source, (-1, None))
                    if chat is None:
                        break
                    waiting[place] = self._loop.start(self._answer(chat))
                    waiting[place].add_done_callback(lambda _, place=place: done.put(place))
                if not waiting:
                    break
                place = done.get()
                try:
                    answer = waiting.pop(place).result()
                except _BudgetSpentError as error:
                    spent = error
                    continue
                yield place, answer
        finally:
            for future in waiting.values():
                future.cancel()
        if spent is not None:
            raise spent

    def ask_all(
        self, chats: Iterable[Chat], tell: Callable[[], None] = lambda: None
    ) -> list[Answer]:
        """Give the answers in the order of their chats, and `tell` that each came.

        Raises:
            As `ask`.
        """
        found = {}
        for place, answer in self.ask(chats):
            found[place] = answer
            tell()
        return [found[place] for place in sorted(found)]

    def spent(self) -> Spent:
        """Give what all answers of the cache have cost so far."""
        return self._cache.spent()

    def honours(self) -> Honours:
        """Give what the server does with what it is told.

        It is asked once for a model and its `extra`, then kept in the cache; a trial in which the
        server failed is made again by the next client.

        Raises:
            As `ask`.
        """
        if self._seen is None:
            self._seen = self._try()
        return self._seen

    def _try(self) -> Honours:
        """Give what is noted of the server, or try it and note what was seen."""
        name = f"honours {digest(self.endpoint.key_fields())}"
        kept = self._cache.note(name)
        if kept is not None:
            return Honours.of(kept)
        log.info("trying what %s does with what it is told: %d requests",
                 self.endpoint.base_url, TRIALS)  # fmt: skip
        said: list[Answer] = []

        def ask(chats: Iterable[Chat]) -> list[Answer]:
            said.extend(self.ask_all(chats))
            return said

        found = probe(ask)
        if not any(answer.failed and not declined(answer) for answer in said):
            self._cache.keep_note(name, found.text())
        return found

    def afford(self, chat: Chat) -> None:
        """Refuse a budget that is too small for one case such as this.

        Raises:
            ConfigError: in one line, what it may cost.
        """
        sent, answered = chat.most
        budget, money = self.endpoint.budget_tokens, self.endpoint.budget_money
        if budget is not None and sent + answered > budget:
            raise ConfigError(
                "endpoint.budget_tokens",
                f"{budget} tokens are too few for one case, which may take {sent + answered} "
                f"({sent} sent, {answered} answered)",
                "raise it",
            )
        cost = self.endpoint.money(sent, answered)
        if money is not None and cost > money:
            raise ConfigError(
                "endpoint.budget_money",
                f"{money:g} is too little for one case, which may cost {cost:.3g}",
                "raise it",
            )

    def _fits(self, sent: int, answered: int) -> bool:
        """Say whether so many tokens are within the budget."""
        budget, money = self.endpoint.budget_tokens, self.endpoint.budget_money
        if budget is not None and sent + answered > budget:
            return False
        return money is None or self.endpoint.money(sent, answered) <= money

    async def _connect(self) -> None:
        """Make openai's client, and see that the server is there and serves the model."""
        import openai

        endpoint = self.endpoint
        # A proxy of the environment is for other machines; openai's client would use it for
        # 127.0.0.1 too.
        carrier = openai.DefaultAsyncHttpxClient(trust_env=not endpoint.on_this_machine)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._landing = asyncio.Event()
        self._api = openai.AsyncOpenAI(
            api_key=endpoint.key() or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=endpoint.timeout,
            http_client=carrier,
        )
        try:
            self._served = await self._models()
            if self._served and endpoint.model not in self._served:
                raise not_served(endpoint, tuple(self._served))
        except BaseException:
            await self._api.close()
            raise

    async def _models(self) -> dict[str, Facts]:
        """Give the models that the server lists, by name; none where it has no such list."""
        import openai

        what = ""
        for attempt in range(min(self.endpoint.retries, 2) + 1):
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    page = await self._api.models.list()
            except openai.APIStatusError as error:
                if error.status_code in (400, 404, 405, 501):
                    return {}
                fault = sort(error, self.endpoint, ())
            except Exception as error:
                if unreached(error):
                    raise silent(self.endpoint, "no connection") from None
                fault = sort(error, self.endpoint, ())
            else:
                return listed(page)
            what = fault.what
            await self._pause(fault, attempt)
        raise silent(self.endpoint, what)

    async def _answer(self, chat: Chat) -> Answer:
        """Give the answer that is kept, or have the chat sent."""
        key = chat.key(self.endpoint.key_fields())
        self._asked += not chat.trial
        while True:
            kept = self._kept(chat, key)
            if kept is not None:
                return kept
            if key not in self._flying:
                break
            await self._flying[key].wait()
        self._flying[key] = asyncio.Event()
        try:
            return await self._request(chat, key)
        finally:
            self._flying.pop(key).set()

    def _kept(self, chat: Chat, key: str) -> Answer | None:
        """Give the answer that is kept, if one is."""
        found = self._cache.get(key)
        if found is None:
            return None
        answer, own = found
        self._found += not own and not chat.trial
        return answer

    async def _request(self, chat: Chat, key: str) -> Answer:
        """Send a chat until it is answered, and give up after the last retry."""
        fault = Fault("never sent", passing=True)
        for attempt in range(self.endpoint.retries + 1):
            if attempt:
                await self._pause(fault, attempt - 1)
            async with self._slots:
                found = await self._send(chat, key, again=attempt > 0)
            if isinstance(found, Answer):
                self._in_row = 0
                return found
            fault = found
            if fault.unknown is not None and not chat.trial:
                raise not_taken(self.endpoint, fault.unknown)
            if not fault.passing:
                self._in_row = 0  # the server answers
                return Answer(failed=fault.what)
        self._in_row += 1
        if self._in_row >= OUTAGE:
            raise EndpointError(
                "endpoint",
                f"{self.endpoint.base_url} answers no more ({fault.what})",
                "what it answered is kept; run the same command again when it does",
            )
        times = self.endpoint.retries + 1
        return Answer(failed=fault.what + (f", {times} times" if times > 1 else ""))

    async def _send(self, chat: Chat, key: str, *, again: bool) -> Answer | Fault:
        """Send a chat once, within the budget; keep its answer and what it cost."""
        flight = await self._reserve(chat, key, again=again)
        if isinstance(flight, Answer):
            return flight
        cost, guessed, kept = chat.most, True, None  # where nothing is known, all that it may cost
        try:
            found = await self._post(chat)
            if isinstance(found, Fault):
                cost, guessed = (chat.most, True) if found.paid else ((0, 0), False)
                if found.refused:
                    found = Answer(finish_reason="content_filter", refused=True)
            if isinstance(found, Answer):
                kept = found
                cost, guessed = (found.sent, found.answered), found.guessed
                self._over |= any(map(operator.gt, cost, chat.most))
            return found
        finally:
            self._cache.settle(flight, cost, guessed, key, kept)
            self._landing.set()
            self._landing = asyncio.Event()
            if kept is not None and kept.guessed:
                self._say_guessed()

    async def _reserve(self, chat: Chat, key: str, *, again: bool) -> int | Answer:
        """Set aside what a chat may cost, waiting for what is on its way to cost less than it may.

        Where another process asks the same, its answer is waited for and given.

        Raises:
            ConfigError: the whole budget is too small for it.
            EndpointError: too little of the budget is left.
        """
        while True:
            until = time.time() + self.endpoint.timeout + SLACK
            flight = self._cache.reserve(key, chat.most, until, again, self._fits)
            if isinstance(flight, int):
                return flight
            if flight is Later.BUSY:
                kept = self._kept(chat, key)
                if kept is not None:
                    return kept
            else:
                self.afford(chat)
                if flight is Later.SPENT:
                    raise self._budget_spent(chat)
            with contextlib.suppress(TimeoutError):  # what lands here may make room; so may others
                await asyncio.wait_for(self._landing.wait(), LOOK)

    def _budget_spent(self, chat: Chat) -> _BudgetSpentError:
        next_one = sum(chat.most)
        name, so_far = self._so_far(next_one)
        more = f"{next_one} tokens"
        if name == "budget_money":
            more = f"{self.endpoint.money(*chat.most):.3g}"
        return _BudgetSpentError(
            f"endpoint.{name}",
            f"{so_far} spent on {self._cache.count()} answers, which are kept, and the next may "
            f"take {more}",
            "raise it, and the same command goes on",
        )

    def _so_far(self, more: int = 0) -> tuple[str, str]:
        """Give the budget that has no room for so many more tokens, and how much of it is spent."""
        sent, answered = self._total()
        endpoint, tokens = self.endpoint, sent + answered
        if endpoint.budget_tokens is not None and tokens + more > endpoint.budget_tokens:
            return "budget_tokens", f"{tokens} of {endpoint.budget_tokens} tokens are"
        paid = endpoint.money(sent, answered)
        return "budget_money", f"{paid:.3g} of {endpoint.budget_money:g} is"

    def _total(self) -> tuple[int, int]:
        spent = self._cache.spent()
        return spent.sent, spent.answered

    async def _post(self, chat: Chat) -> Answer | Fault:
        """Send a chat, and give its answer or what went wrong."""
        endpoint = self.endpoint
        body = chat.body(endpoint.model, endpoint.limit, endpoint.extra)
        try:
            async with asyncio.timeout(endpoint.timeout):
                reply = await self._api.post("/chat/completions", cast_to=object, body=body)
        except Exception as error:
            return sort(error, endpoint, tuple(self._served))
        found = read(reply, chat)
        return found or Fault("an answer without choices", passing=True, paid=True)

    async def _pause(self, fault: Fault, attempt: int) -> None:
        """Wait before a retry: as long as the server asks, else twice as long as the last time.

        Raises:
            EndpointError: the server asks for longer than a run should wait.
        """
        wait = fault.wait
        if wait is None:
            longest = min(self.endpoint.wait * 2**attempt, LONGEST_PAUSE)
            wait = longest * self._chance.uniform(0.5, 1.0)
        if wait > LONGEST_WAIT:
            raise too_patient(self.endpoint, wait)
        await asyncio.sleep(wait)

    def _say_guessed(self) -> None:
        if not self._guessed:
            self._guessed = True
            log.warning("%s counts no tokens: they are estimated, one for every %d bytes",
                        self.endpoint.base_url, LETTERS)  # fmt: skip
