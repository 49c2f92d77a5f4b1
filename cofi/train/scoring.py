"""What the heads and dims of a model are worth: gradients of their masks on training rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from cofi.baselines import Evidence
from cofi.data.batches import BatchPlan, collate
from cofi.masks import Masks
from cofi.models import CompactModel
from cofi.train.session import Session

SCORED_EXAMPLES = 1024  # of the training rows


def evidence(session: Session, model: CompactModel, masks: Masks | None = None) -> Evidence:
    """What a method that chooses by gradients may look at; see `mask_gradients`."""
    return Evidence(model.config.shape(), session.config.sparsity, partial(mask_gradients, session, model, masks))


def mask_gradients(session: Session, model: CompactModel, masks: Masks | None = None) -> Iterator[dict[str, Tensor]]:
    """Gradients of the task's own loss in the masks of heads and dims, one training example at a time, on the CPU.

    Of the labels: a student that equals its teacher has nothing to learn from it yet.
    masks: where they are taken, those of every kind; None is all ones. A unit that is cut has the gradient 0.
    Raises Interrupted between two examples where a signal asks the run to stop; one process of several goes on, since
    the others may not have been asked.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    shape, device = model.config.shape(), session.device
    sizes = {"head": (shape.n_layers, shape.n_heads), "int": (shape.n_layers, shape.d_int)}
    given = {} if masks is None else masks.detach().by_kind()
    ones = {kind: torch.ones(size, device=device) for kind, size in sizes.items()}
    z = {kind: given.get(kind, ones[kind]).clone().requires_grad_() for kind in sizes}
    here = Masks.from_kinds({**given, **z})
    plan = BatchPlan(session.train.lengths, 1, seed=session.config.seed, epoch=0)
    rows = range(min(SCORED_EXAMPLES, len(session.train)))
    with_bar = session.interruptible if session.world.size == 1 else session.monitor.track
    for index in with_bar("scoring heads and dims", rows):
        batch = collate(session.train, plan.batch(index), device)
        loss = model(batch=batch.packed, masks=here, **batch.labels).loss
        loss = loss + 0 * sum(units.sum() for units in z.values())  # of sublayers that are cut nothing is computed
        gradients = torch.autograd.grad(loss, list(z.values()))
        yield {kind: gradient.cpu() for kind, gradient in zip(z, gradients, strict=True)}
