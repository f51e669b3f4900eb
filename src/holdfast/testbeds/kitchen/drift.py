"""How far a model has gone from the one shipped, on that one's own answers to what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast import evaluate, nn
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.format import Format
from holdfast.testbeds.kitchen import allowed, answers


@dataclass(frozen=True, slots=True)
class Drift:
    """Nats a token on the page: a model's `nll`, that of the one `shipped`, and `kl` from it."""

    nll: float
    shipped: float
    kl: float
    rows: int


def page() -> list[Example]:
    """Give the evaluator's how-to's, each as it was asked, with the shipped model's answer."""
    said = answers.read()
    asked = [
        answers.asked(allowed.ASKING, number, howto.task)
        for number, howto in enumerate(allowed.howtos())
        if howto.side is Side.EVALUATOR
    ]
    return [example(prompt, said[prompt], role=Role.BENIGN) for prompt in asked]


def measured(model: str, format: str = "chat", device: str = "cpu") -> Drift:
    """Measure a model, by its name or folder, beside `smol:instruct`.

    Raises:
        ModelError: either is not there, or they do not read the same ids.
    """
    Format(format).identity("--format")
    given, known = nn.resolve(model, "--model"), nn.resolve("smol:instruct")
    shipped, tokenizer = nn.load(known.folder, device=device)
    other, _ = nn.load(given.folder, device=device)
    encoder = nn.encoder(shipped, tokenizer, format, where="kitchen")
    rows = page()
    return Drift(
        nll=evaluate.page_nll(other, encoder, rows),
        shipped=evaluate.page_nll(shipped, encoder, rows),
        kl=evaluate.page_kl(shipped, other, encoder, rows),
        rows=len(rows),
    )
