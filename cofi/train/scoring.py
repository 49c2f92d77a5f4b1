"""What the heads and dims of a model are worth: gradients of their masks on training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from cofi.baselines import Evidence
from cofi.data.batches import BatchPlan, TaskBatch, collate
from cofi.masks import Masks
from cofi.models import CompactModel
from cofi.models.probed import ProbedModel
from cofi.train.randomness import derived_seed
from cofi.train.session import Session

SCORED_EXAMPLES = 1024  # of the training rows
TOKENS_AT_ONCE = 1024  # longer products are no faster on a core, and BERT-base takes under 1 GB for them


def evidence(session: Session, model: CompactModel, masks: Masks | None = None) -> Evidence:
    """What a method that chooses by gradients may look at; see `mask_gradients`."""
    return Evidence(model.config.shape(), session.config.sparsity, partial(mask_gradients, session, model, masks))


def mask_gradients(session: Session, model: CompactModel, masks: Masks | None = None) -> Iterator[dict[str, Tensor]]:
    """Gradients of the task's own loss in the masks of heads (B, L, H) and dims (B, L, I), for each of the B training
    examples of a batch on its own, on the CPU.

    Of the labels: a student that equals its teacher has nothing to learn from it yet.
    masks: where they are taken, those of every kind; None is all ones. A unit that is cut has the gradient 0.
    Raises Interrupted as `Session.interruptible` does.
    """
    shape, device = model.config.shape(), session.device
    ones = {
        "head": torch.ones(shape.n_layers, shape.n_heads, device=device),
        "int": torch.ones(shape.n_layers, shape.d_int, device=device),
    }
    probed = ProbedModel(model, Masks.from_kinds(ones | ({} if masks is None else masks.by_kind())))
    rows = BatchPlan(session.train.lengths, SCORED_EXAMPLES, seed=session.config.seed, epoch=0).batch(0)
    batches = together(rows, session.train.lengths[rows].tolist())
    for some in session.interruptible("scoring heads and dims, batch", batches):
        batch = collate(session.train, some, device)
        labels = _drawn(probed, batch, derived_seed(session.config.seed, f"scoring/{some[0]}"))
        yield {kind: found.cpu() for kind, found in probed.gradients(batch.packed, labels).items()}


def _drawn(probed: ProbedModel, batch: TaskBatch, seed: int) -> dict[str, Tensor]:
    """The labels of a batch; of embeddings, which have none, what the model itself makes of it and unit normal noise.

    The mean square of the gradient is then, but for a factor, the Fisher information of a model that says its embedding
    with normal errors: how far a mask moves it, in whatever direction.
    """
    if probed.model.config.head != "embedding":
        return batch.labels
    embedding = probed.embeddings(batch.packed)
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(seed), dtype=embedding.dtype)
    return {"labels": embedding + noise.to(embedding.device)}


def together(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The rows in their order, as many at once as have TOKENS_AT_ONCE tokens, or one that has more."""
    batches: list[list[int]] = []
    left = 0
    for row, length in zip(rows, lengths, strict=True):
        left -= length
        if left < 0:
            batches.append([])
            left = TOKENS_AT_ONCE - length
        batches[-1].append(row)
    return batches
