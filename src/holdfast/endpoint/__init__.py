"""Talk to a server with an OpenAI-compatible API: many requests, each answered and kept once."""

from holdfast.endpoint.chat import Answer, Chat
from holdfast.endpoint.client import Client, check
from holdfast.endpoint.fields import Endpoint, Prices
from holdfast.endpoint.probe import Honours, declined
from holdfast.endpoint.reach import reach

__all__ = [
    "Answer",
    "Chat",
    "Client",
    "Endpoint",
    "Honours",
    "Prices",
    "check",
    "declined",
    "reach",
]
