"""Which tokens are whole words, told from how a tokenizer's vocabulary marks the beginning of words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cofi.data.split import Ragged
from cofi.errors import UserError


def _byte_characters() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2): bytes that can be printed are their
    own characters, the others are numbered from 256 on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_characters()


def _of_bytes(token: str) -> str:
    """The text of a byte-level token; nothing where its bytes are only a part of a character."""
    try:
        return bytes(_BYTES[character] for character in token).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True)
class _Kind:
    """marker: what a token starts with that begins a word, or else that continues one; text: of a token without it."""

    marker: str
    begins: bool
    text: Callable[[str], str] = str

    def count(self, tokens: list[str]) -> int:
        return sum(token.startswith(self.marker) and token != self.marker for token in tokens)

    def is_word(self, token: str) -> bool:
        """Whether it begins a word and has nothing but letters."""
        is_marked = token.startswith(self.marker)
        return is_marked == self.begins and _has_letters_alone(self.text(token.removeprefix(self.marker)))

    def continues(self, token: str) -> bool:
        """Whether it goes on with the word before it. Punctuation does not, and in doubt anything does."""
        is_marked = token.startswith(self.marker)
        if not self.begins:
            return is_marked
        return not is_marked and not _stands_apart(self.text(token))


KINDS = {
    "wordpieces": _Kind("##", begins=False),
    "byte-level BPE": _Kind("Ġ", begins=True, text=_of_bytes),
    "SentencePiece": _Kind("▁", begins=True),
}


def _has_letters_alone(text: str) -> bool:
    """Marks count: without them Hindi would have no words."""
    return text[:1].isalpha() and all(unicodedata.category(character)[0] in "LM" for character in text)


def _stands_apart(text: str) -> bool:
    """Whether a text begins with punctuation, a symbol or a blank."""
    return text != "" and (text[0].isspace() or unicodedata.category(text[0])[0] in "PSZ")


@dataclass(frozen=True)
class Words:
    """What the tokens of a vocabulary are, by token id. kind: a name of KINDS. is_word: (V,) bool, whole words of
    letters. continues: (V,) bool, those that go on with the word of the token before them."""

    kind: str
    is_word: NDArray[np.bool_]
    continues: NDArray[np.bool_]

    @property
    def ids(self) -> NDArray[np.int64]:
        """All whole words, ascending."""
        return np.flatnonzero(self.is_word)

    def places(self, ids: Ragged) -> NDArray[np.int64]:
        """Where in `ids.values` a token is a word and the next one does not go on with it; ascending."""
        continued = np.append(self.continues[ids.values[1:]], False)
        continued[ids.starts[1:] - 1] = False  # the next token is of another row
        return np.flatnonzero(self.is_word[ids.values] & ~continued)


def find_words(tokenizer: Any, n_tokens: int) -> Words:
    """The words of a tokenizer of transformers; special and added tokens are none, nor are those from id n_tokens on,
    which a model does not know. Raises UserError where the vocabulary marks words in no way of KINDS."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    counts = {name: kind.count(list(vocabulary)) for name, kind in KINDS.items()}
    name = max(counts, key=counts.__getitem__)  # RoBERTa has some tokens of two number signs, too
    if counts[name] == 0:
        raise UserError(
            "--augment needs a tokenizer whose vocabulary tells where words begin: wordpieces ('##' continues a word), "
            "byte-level BPE ('Ġ' begins one) or SentencePiece ('▁' begins one); no token of this one starts with "
            "any of them"
        )
    kind, special = KINDS[name], {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    is_word, continues = (np.zeros(max(vocabulary.values()) + 1, dtype=bool) for _ in range(2))
    for token, number in vocabulary.items():
        if number not in special:
            is_word[number] = number < n_tokens and kind.is_word(token)
            continues[number] = kind.continues(token)
    if is_word.sum() < 2:
        raise UserError("--augment needs a vocabulary with at least two whole words of letters")
    return Words(name, is_word, continues)
