"""Text that spells a special token stays text: a tokenizer's twin that no words can steer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Two of Unicode's noncharacters: no text that is interchanged holds them."""


class Guard:
    """Codes rows whose words spell special tokens, such as `</s>`, as the text they are.

    In the twin every special token has the same id under a name that nobody writes. The template's
    own tokens are written with these names, the words as they are, so that the ids of everything
    but the spelt tokens are the tokenizer's.

    Args:
        tokenizer: a fast one.
        ids: further tokens to be special: those that end a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: Iterable[int | None] = ()) -> None:
        self._of = tokenizer
        named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, *ids}
        self.names = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or number in named
        }
        longest = sorted(self.names, key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        sha = hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:8]
        self._secret = {
            name: f"{_OPEN}{sha}.{number}{_CLOSE}" for name, number in self.names.items()
        }
        self._hidden = {name: f"{_OPEN}{number}{_CLOSE}" for name, number in self.names.items()}

    def spells(self, text: str) -> bool:
        """Say whether words spell a special token, as they are or as the tokenizer reads them."""
        if self._spelt.search(text):
            return True
        reads = self._of.backend_tokenizer.normalizer
        return reads is not None and bool(self._spelt.search(reads.normalize_str(text)))

    def hide(self, text: str) -> str:
        """Give words for the template to place, with their spelt tokens out of sight."""
        text = text.replace(_OPEN, "\ufffd").replace(_CLOSE, "\ufffd")
        return self._spelt.sub(lambda found: self._hidden[found[0]], text)

    def show(self, text: str) -> str:
        """Give a rendered text for the twin: its own tokens renamed, hidden words as written."""
        text = self._spelt.sub(lambda found: self._secret[found[0]], text)
        for name, hidden in self._hidden.items():
            text = text.replace(hidden, name)
        return text

    @cached_property
    def twin(self) -> Tokenizer:
        """Give the tokenizer with its special tokens renamed."""
        from tokenizers import Tokenizer

        data = json.loads(self._of.backend_tokenizer.to_str())
        reads = self._of.backend_tokenizer.normalizer
        for token in data["added_tokens"]:
            if token["content"] in self._secret:
                name = token["content"] = self._secret[token["content"]]
                if reads is not None and _OPEN not in reads.normalize_str(name):
                    token["normalized"] = False  # spelling: theirs
        _rename_model(data["model"], self._secret)
        data["post_processor"] = _renamed(data["post_processor"], self._secret)
        data["truncation"] = data["padding"] = None
        return Tokenizer.from_str(json.dumps(data))


def _rename_model(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename the vocabulary's own entries: a model would find a spelt token among its pieces."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    else:  # Unigram: pieces with their scores, in the order of ids
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:  # none may make a piece that is gone
        pairs = (one.split(" ") if isinstance(one, str) else one for one in model["merges"])
        model["merges"] = [pair for pair in pairs if "".join(pair) not in names]


def _renamed(data: Any, names: dict[str, str]) -> Any:  # noqa: ANN401  (JSON holds anything)
    """Rename tokens wherever a post-processor names them."""
    if isinstance(data, dict):
        return {names.get(key, key): _renamed(value, names) for key, value in data.items()}
    if isinstance(data, list):
        return [_renamed(one, names) for one in data]
    return names.get(data, data) if isinstance(data, str) else data
