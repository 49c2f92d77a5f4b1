"""What a head is to the rest of the project.

B sequences, T packed tokens, S padded length, E hidden, C labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

import cofi_kernels

if TYPE_CHECKING:
    from cofi.models.border import Border
    from cofi.models.model import CompactModel
    from cofi.models.packed import PackedBatch

HEAD_SITES = 2  # of dropout: before the pooler's dense layer, before the last linear one


class Head:
    """One kind of head: what it makes of the encoder's last states, and its loss.

    It has no weights of its own: they are modules of the model, called as in Hugging Face's.

    name:          in CompactConfig.head
    outputs:       what it is for, by names of CompactOutput
    of_tokens:     whether these have a row a token; else they have one a sequence
    module:        of the model, its last linear layer, "classifier" or "qa_outputs"; None without weights
    is_classifier: whether that layer has an output for each of num_labels
    has_pooler:    whether a dense layer may lie between the first token and the rest; other heads read all tokens
    architecture:  how the names of Hugging Face's classes with this head end
    """

    name: str
    outputs: tuple[str, ...] = ()
    of_tokens = False
    module: str | None = None
    is_classifier = False
    has_pooler = False
    architecture: str | None = None

    def width(self, model: CompactModel) -> int:
        """Numbers in a row of an output; 0 where each is a number alone."""
        return model.config.num_labels or 0

    def packed(self, model: CompactModel, x: Tensor, batch: PackedBatch, sites: Tensor | None) -> dict[str, Tensor]:
        """Fields of the output from the last states (T, E), those of tokens packed.

        sites: of dropout, the head's own at the end; None without
        """
        raise NotImplementedError

    def leave(self, fields: dict[str, Tensor], border: Border) -> dict[str, Tensor]:
        """Those of `packed` as the caller gets them: of tokens padded, if the input was."""
        return fields

    def padded(self, model: CompactModel, states: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Fields from padded last states (B, S, E), without gradients, where the compiled model does not make them.

        mask: (B, S), 0 at padding; None without
        """
        return {}

    def loss(self, model: CompactModel, fields: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Of the fields that the caller gets. Raises ValueError where the labels do not fit them."""
        raise ValueError(f"labels need a classification head, the model's head is {self.name!r}")

    def loss_of_spans(self, fields: dict[str, Tensor], border: Border, start: Tensor, end: Tensor) -> Tensor:
        """Of the packed fields. Raises ValueError for a head that predicts no spans."""
        raise ValueError(f"positions need a question answering head, the model's head is {self.name!r}")


def drop(model: CompactModel, x: Tensor, sites: Tensor | None, site: int) -> Tensor:
    """Dropout of the head at one of its sites."""
    p = model.config.head_dropout
    return x if sites is None or p == 0 else cofi_kernels.counter_dropout(x, p, sites[site])
