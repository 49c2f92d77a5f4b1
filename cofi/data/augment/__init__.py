"""Rows in more than one version: words replaced by others, in the manner of TinyBERT (Jiao et al. 2020, algorithm 1).

Token ids are replaced one by one, so lengths, token types, positions and answer spans stay as they are.
"""

from cofi.data.augment.candidates import CANDIDATES, Candidates, nearest_words
from cofi.data.augment.masked import MaskedModel, Questions, load_masked_model
from cofi.data.augment.versions import Editions, draw_places, in_editions, replaced
from cofi.data.augment.words import Words, find_words

__all__ = [
    "CANDIDATES",
    "Candidates",
    "Editions",
    "MaskedModel",
    "Questions",
    "Words",
    "draw_places",
    "find_words",
    "in_editions",
    "load_masked_model",
    "nearest_words",
    "replaced",
]
