"""What a masked language model would put in the place of a word: candidates that fit the sentence, as in TinyBERT.

B sequences of a batch, E hidden, V tokens of the vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cofi.data.augment.candidates import Candidates
from cofi.data.features import load_tokenizer
from cofi.data.split import TokenizedSplit
from cofi.errors import UserError
from cofi.files import read_json
from cofi.models.load import load_model

BATCH_TOKENS = 2048  # of a batch with its padding; logits of 200 short sentences take 200 MB with XLM-R's vocabulary
# the layers of Hugging Face's model between its encoder's states and its logits, by model type
HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, x: model.cls(x),
    "roberta": lambda model, x: model.lm_head(x),
    "xlm-roberta": lambda model, x: model.lm_head(x),
    "distilbert": lambda model, x: model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(x)))
    ),
    "electra": lambda model, x: model.generator_lm_head(model.generator_predictions(x)),
}


@dataclass(frozen=True)
class MaskedModel:
    """A masked language model of transformers in eval mode, and the token that it fills in."""

    model: Any
    mask_token: int

    @property
    def n_tokens(self) -> int:
        return int(self.model.config.vocab_size)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> MaskedModel:
        """The same on `device`, in `dtype` if there is one."""
        return MaskedModel(self.model.to(device=device, dtype=dtype), self.mask_token)

    @torch.no_grad()
    def logits(self, ids: Tensor, types: Tensor, mask: Tensor, columns: Tensor) -> Tensor:
        """(B, V) fp32 logits of column `columns` (B,) of each sequence. ids, types, mask: (B, S) int64."""
        has_types = getattr(self.model.config, "type_vocab_size", 0) > 0
        inputs = {"token_type_ids": types} if has_types else {}
        states = self.model.base_model(input_ids=ids, attention_mask=mask, **inputs)[0]
        asked = states[torch.arange(len(ids), device=ids.device), columns]
        logits: Tensor = HEADS[self.model.config.model_type](self.model, asked)
        return logits.float()


def load_masked_model(directory: Path, tokenizer: Any, longest: int) -> MaskedModel:
    """The masked language model in a directory, from safetensors; no code from there is run.

    tokenizer: whose ids it is given; longest: tokens of the longest row. Raises UserError where it is no such model,
    has another vocabulary or fewer positions.
    """
    from transformers import AutoModelForMaskedLM

    named = f"--augment-mlm {directory}"
    model_type = read_json(directory / "config.json").get("model_type")
    if model_type not in HEADS:
        raise UserError(f"{named} must be a masked language model of {', '.join(HEADS)}, got {model_type!r}")
    if not any(directory.glob("model*.safetensors")):
        raise UserError(f"{named} must hold its weights as safetensors")
    vocabulary = tokenizer.get_vocab()
    if load_tokenizer(directory).get_vocab() != vocabulary or tokenizer.mask_token_id is None:
        raise UserError(f"{named} must have the vocabulary of --model, with a token that masks")
    encoder = load_model(directory, head="none").model.config  # compares sizes before any memory is taken
    room = encoder.longest
    if max(vocabulary.values()) >= encoder.vocab_size:
        raise UserError(f"{named} knows {encoder.vocab_size} tokens, its tokenizer has {max(vocabulary.values()) + 1}")
    if longest > room:
        raise UserError(f"{named} has {room} positions, a row has {longest} tokens: lower --max-length")
    with _quiet():
        try:
            model, info = AutoModelForMaskedLM.from_pretrained(
                str(directory),
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
            )
        except Exception as error:  # transformers' checks raise types of their own
            raise UserError(f"{named} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if info["missing_keys"]:
        raise UserError(
            f"{named} has no trained head of a masked language model: {min(info['missing_keys'])} is missing"
        )
    return MaskedModel(model.eval().requires_grad_(False), int(tokenizer.mask_token_id))


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar of transformers, and no list of the weights that a checkpoint has and this model does not."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


class Questions:
    """The places that a model is asked for, each in a copy of its row with that one token masked, in `batches` of
    their numbers: rows of similar length together, at most BATCH_TOKENS with padding."""

    def __init__(self, split: TokenizedSplit, places: NDArray[np.int64], words: NDArray[np.int64], count: int) -> None:
        self.split, self.places, self.words, self.count = split, places, words, count
        self._rows = np.searchsorted(split.input_ids.starts, places, side="right") - 1
        self.batches = self._in_batches(split.lengths[self._rows])

    def _in_batches(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        order, batches = np.argsort(-lengths, kind="stable"), []
        while len(order):
            size = max(1, BATCH_TOKENS // int(lengths[order[0]]))
            batches.append(order[:size])
            order = order[size:]
        return batches

    def ask(self, model: MaskedModel, batch: NDArray[np.int64]) -> NDArray[np.int32]:
        """(B, K) the words that `model` finds most likely at the places of `batch`, the one that is there left out."""
        device = model.model.device
        ids, types, mask, columns = (torch.from_numpy(part).to(device) for part in self._inputs(model, batch))
        words = torch.from_numpy(self.words).to(device)
        logits = model.logits(ids, types, mask, columns)[:, words]
        there = np.searchsorted(self.words, self.split.input_ids.values[self.places[batch]])
        logits[torch.arange(len(batch), device=device), torch.from_numpy(there).to(device)] = -torch.inf
        best: NDArray[np.int32] = words[logits.topk(self.count, dim=1).indices].cpu().numpy().astype(np.int32)
        return best

    def _inputs(self, model: MaskedModel, batch: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """ids, types and mask, (B, S) with padding, and the masked columns (B,)."""
        rows, split = self._rows[batch], self.split
        columns = self.places[batch] - split.input_ids.starts[rows]
        padding = model.model.config.pad_token_id or 0
        mask = np.arange(split.lengths[rows].max()) < split.lengths[rows][:, None]
        ids, types = np.full(mask.shape, padding, dtype=np.int64), np.zeros(mask.shape, dtype=np.int64)
        ids[mask], types[mask] = split.input_ids.take(rows), split.token_type_ids.take(rows)
        ids[np.arange(len(batch)), columns] = model.mask_token
        return [ids, types, mask.astype(np.int64), columns]

    def collect(self, answers: Sequence[NDArray[np.int32]]) -> Candidates:
        """The answers to all batches, in their order, as candidates."""
        table = np.empty((len(self.places), self.count), dtype=np.int32)
        for batch, answer in zip(self.batches, answers, strict=True):
            table[batch] = answer
        return Candidates(self.places, table, by_place=True)
