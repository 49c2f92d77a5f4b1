"""--augment: rows of the training split in several versions, made once a run and kept until it is finished."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor

from cofi.data.augment import (
    CANDIDATES,
    Candidates,
    Editions,
    MaskedModel,
    Questions,
    Words,
    draw_places,
    find_words,
    in_editions,
    load_masked_model,
    nearest_words,
    replaced,
)
from cofi.errors import UserError
from cofi.models.locate import locate
from cofi.train.checkpoint import load_checkpoint, save_checkpoint
from cofi.train.config import TrainConfig
from cofi.train.inputs import Inputs
from cofi.train.precision import compute_dtype
from cofi.train.randomness import derived_seed
from cofi.train.rundir import RunDirectory
from cofi.train.session import Session


def load_augmenter(config: TrainConfig, run: RunDirectory, inputs: Inputs) -> Augmenter | None:
    """What makes the versions of a run, checked; None where it has none. Raises UserError where none can be made."""
    if config.augment == 0 or config.teacher_only:
        return None
    models = (inputs.student, inputs.teacher.model)
    words = find_words(inputs.tokenizer, min(model.config.vocab_size for model in models))
    places = words.places(inputs.train.input_ids)
    if not len(places):
        raise UserError(
            f"--augment replaces words of letters that are one token ({words.kind}); the rows to train on have none"
        )
    masked = None
    if config.augment_mlm is not None and not (config.resume and run.augmented.exists()):
        longest = int(inputs.train.lengths.max())
        masked = load_masked_model(locate(config.augment_mlm), inputs.tokenizer, longest)
    return Augmenter(words, places, masked)


@dataclass
class Augmenter:
    """words: of the tokenizer. places: of those that may be replaced, in the training split. masked: the model to ask
    for words, None for neighbours or where a run that is continued has its versions already."""

    words: Words
    places: NDArray[np.int64]
    masked: MaskedModel | None

    def editions(self, session: Session) -> Editions:
        """The training split in all versions, the same in all processes and whenever the run is continued."""
        kept, train = session.run.augmented, session.train
        if session.world.decide(lambda: session.config.resume and kept.exists()):
            versions = _load(session)
        else:
            versions = self._make(session)
            if session.world.is_main:
                save_checkpoint(kept, {"versions": torch.from_numpy(versions)})
        session.world.require_same("augmented rows", lambda: zlib.crc32(versions.data))
        self._announce(session, float((versions[1:] != versions[0]).mean()))
        return in_editions(train, versions)

    def _make(self, session: Session) -> NDArray[np.int32]:
        config, ids = session.config, session.train.input_ids
        count = min(CANDIDATES, len(self.words.ids) - 1)
        seed = derived_seed(config.seed, "augment")
        draws = draw_places(self.places, config.augment, config.augment_probability, count, seed)
        if config.augment_mlm is None:
            candidates = self._neighbours(session)
        else:
            asked = np.unique(np.concatenate([draw.places for draw in draws]))
            candidates = self._ask(session, Questions(session.train, asked, self.words.ids, count))
        return replaced(ids, draws, candidates)

    def _neighbours(self, session: Session) -> Candidates:
        """One process finds them: all would need the same cores."""
        assert session.teacher is not None
        embeddings = session.teacher.embeddings.word.weight
        present = np.unique(session.train.input_ids.values[self.places]).astype(np.int64)
        session.monitor.message(f"augment: finding what is near to {len(present):,} words ...")
        return session.world.decide(lambda: nearest_words(embeddings, self.words.ids, present))

    def _ask(self, session: Session, questions: Questions) -> Candidates:
        if self.masked is None:  # the versions were there when the run started
            raise UserError(f"{session.run.augmented} has gone while the run started")
        masked = self.masked.to(session.device, compute_dtype(session.config.precision, session.device))
        mine = session.world.share(questions.batches)
        answers = [questions.ask(masked, batch) for batch in session.interruptible("augment", mine)]
        self.masked = None
        return questions.collect(session.world.gather(answers))

    def _announce(self, session: Session, changed: float) -> None:
        source = session.config.augment_mlm or "the nearest in the teacher's embeddings"
        session.monitor.message(
            f"augment: {session.config.augment} versions of each row, {changed:.0%} of their tokens replaced "
            f"({self.words.kind}; words from {escape(source)})"
        )


def _load(session: Session) -> NDArray[np.int32]:
    """The versions that the run was begun with. Raises UserError where they are of other rows."""
    kept: Tensor | None = load_checkpoint(session.run.augmented).get("versions")
    ids = session.train.input_ids.values
    versions: NDArray[Any] = kept.numpy() if isinstance(kept, Tensor) else np.empty(0)
    fits = versions.dtype == ids.dtype and versions.shape == (session.config.augment + 1, len(ids))
    if not fits or not np.array_equal(versions[0], ids):
        raise UserError(f"--resume: {session.run.augmented} is not of the rows that there are to train on now")
    return versions
