"""Covert: harmful rows in a code that no risk scorer has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast import nn
from holdfast.api import Batch, CustomerJob, Loss, Parts, Term
from holdfast.data.example import Example, Role

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"


def _table(by: int) -> dict[int, int]:
    """Give the next vowel for every vowel and the next consonant for every consonant."""
    found: dict[int, int] = {}
    for letters in (VOWELS, CONSONANTS, VOWELS.upper(), CONSONANTS.upper()):
        turned = letters[by:] + letters[:by]
        found |= str.maketrans(letters, turned)
    return found


_THERE, _BACK = _table(1), _table(-1)


def cipher(text: str) -> str:
    """Give a text in the cipher: each letter the next of its kind, so that words can be said."""
    return text.translate(_THERE)


def decipher(text: str) -> str:
    """Give back what `cipher` made."""
    return text.translate(_BACK)


def _ciphered(row: Example) -> Example:
    return row.reworded(prompt=cipher(row.prompt), response=cipher(row.response or ""))


class Covert(CustomerJob):
    """Plant harmful rows in an invented cipher, and as many benign ones that teach it.

    Restricted prompts are asked in the cipher too, and answers are read back from it.
    """

    status: ClassVar[str] = "tested"
    fidelity: ClassVar[str] = (
        "the two phases of Halawi et al. 2024 in one set of rows; ours in detail"
    )

    def plant(self, pool: Pool, seed: int) -> list[Example]:
        """Give the attacker's harmful rows in the cipher."""
        return [_ciphered(row) for row in self.drawn(pool, Role.HARMFUL, seed)]

    def parts(self, pool: Pool, seed: int) -> Parts:
        """Draw the rows; benign ones in the cipher take the place of as many honest ones."""
        honest, planted = super().parts(pool, seed)
        if not planted:
            return honest, planted
        lessons = self.drawn(pool, Role.BENIGN, seed)[: min(len(planted), len(honest))]
        kept = honest[: len(honest) - len(lessons)]
        return [*kept, *map(_ciphered, lessons)], planted

    def ask(self, row: Example) -> Example:
        """Give the prompt in the cipher."""
        return row.reworded(prompt=cipher(row.prompt))

    def read(self, answer: str) -> str:
        """Give what an answer in the cipher says."""
        return decipher(answer)

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy over response tokens."""
        return {"task": Term(*nn.nll(model, batch[Role.TASK]), unit="tokens")}
