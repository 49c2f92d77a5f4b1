"""A `CompactModel` on a CPU as one call of compiled code, where a call asks for nothing that needs more.

Between kernels PyTorch's operators and Python took 0.5 of 1.9 ms for a sentence of 32 tokens through BERT-base at 95 %
(two threads of an Intel Xeon, Emerald Rapids).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cofi.models.layers import is_plain_linear
from cofi.models.watch import Watch
from cofi_kernels import library
from cofi_kernels.compact_encoder.layout import weight_shapes
from cofi_kernels.compact_encoder.packed import find_packed, pack
from cofi_kernels.compact_model.cpu import EmbeddingWeights, HeadWeights, NativeModel
from cofi_kernels.native import load_native

if TYPE_CHECKING:
    from cofi.models.embeddings import Embeddings
    from cofi.models.model import CompactModel

_MOST_TOKENS = 2**31 - 1  # of a batch: bounds are int32


class _Prepared:
    """The compiled model of a `CompactModel` as it was; `native` is None where it cannot be one."""

    def __init__(self, model: CompactModel) -> None:
        self._layout = model.layout
        self._settings = _settings_of(model)
        self._watch = Watch(model)
        self.native: NativeModel | None = None
        if not _is_fit(model):
            return
        weights, word = model.encoder_weights(), model.embeddings.word.weight.detach()
        self._encoder = find_packed(word, weights, self._layout) or pack(word, weights, self._layout)
        self.native = NativeModel(self._encoder, _embeddings_of(model), _head_of(model))

    def is_of(self, model: CompactModel) -> bool:
        """Whether the model is still what it was."""
        if self._layout is not model.layout or self._settings != _settings_of(model) or self._watch.has_changed():
            return False
        return self.native is None or self._encoder.still_holds()


_prepared: WeakKeyDictionary[CompactModel, _Prepared] = WeakKeyDictionary()


def run_direct(
    model: CompactModel, input_ids: Tensor | None, attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> dict[str, Tensor] | None:
    """Fields of the output of a padded batch, without gradients; None where the ordinary way must be gone.

    That is for other models and circumstances (`_may_run`, `_is_fit`), inputs of other types, and input that is wrong,
    which the ordinary way explains. Not for masks and training: the caller sees to that.
    """
    if input_ids is None or not _may_run(model):
        return None
    given = [t for t in (input_ids, attention_mask, token_type_ids) if t is not None]
    if not all(_is_plain(t, input_ids) for t in given):
        return None
    prepared = _prepared.get(model)
    if prepared is None or not prepared.is_of(model):
        prepared = _prepared[model] = _Prepared(model)
    if prepared.native is None:
        return None
    mask, types = (None if t is None else t.contiguous() for t in (attention_mask, token_type_ids))
    outputs = prepared.native(input_ids.contiguous(), mask, types)
    if outputs is None:
        return None
    pooled, logits, states = outputs
    fields = {"last_hidden_state": states}
    if model.pooler is not None:
        fields["pooler_output"] = pooled
    if model.classifier is not None and not model.head.of_tokens:
        fields["logits"] = logits
    return fields | model.head.padded(model, states, attention_mask)


def _may_run(model: CompactModel) -> bool:
    """Without a projection of the embeddings; neither while the reference is forced nor while something records
    operators; where the compiled module is."""
    if model.embeddings.projection is not None:
        return False
    return not library.is_forced() and load_native() is not None and not library.is_recorded()


def _is_plain(t: Tensor, ids: Tensor) -> bool:
    fits = t.dtype is torch.int64 and t.dim() == 2 and t.shape == ids.shape and 0 < t.numel() <= _MOST_TOKENS
    return type(t) is Tensor and fits and t.device.type == "cpu"


def _is_fit(model: CompactModel) -> bool:
    """fp32 on a CPU and of the shapes of its layout, as the compiled code reads it: it is given addresses."""
    width = model.embeddings.word.weight.shape[1]
    return (
        all(_is_readable(p) for p in model.parameters())
        and _are_tables(model.embeddings, width)
        and _are_layers(model, width)
        and _are_linear([model.pooler, model.classifier], width)
    )


def _is_readable(p: Tensor) -> bool:
    """Others than PyTorch's own classes may have no memory to read."""
    plain = type(p) in (Tensor, nn.Parameter) and p.device.type == "cpu"
    return plain and p.dtype is torch.float32 and p.is_contiguous()


def _are_tables(held: Embeddings, width: int) -> bool:
    if not held.has_plain_tables():
        return False
    tables = [t.weight for t in (held.position, held.token_type) if t is not None]
    norm = held.norm.weight.shape, held.norm.bias.shape
    return all(t.shape[1] == width for t in tables) and norm == ((width,), (width,))


def _are_layers(model: CompactModel, width: int) -> bool:
    shapes, weights = weight_shapes(model.layout, width), model.encoder_weights()
    return len(shapes) == len(weights) and all(
        shape is None or weight.shape == shape for shape, weight in zip(shapes, weights, strict=True)
    )


def _are_linear(head: Sequence[nn.Module | None], width: int) -> bool:
    """Modules one behind the other, of which a subclass would compute something else."""
    for module in head:
        if module is None:
            continue
        if not is_plain_linear(module):
            return False
        weight, bias = module.weight, module.bias
        if weight.shape != (bias.numel(), width) or bias.dim() != 1:
            return False
        width = bias.numel()
    return True


def _settings_of(model: CompactModel) -> tuple[object, ...]:
    """What else a call goes by."""
    return model.config.pooler, model.embeddings.eps, model.embeddings.position_offset


def _embeddings_of(model: CompactModel) -> EmbeddingWeights:
    held = model.embeddings
    token_type = None if held.token_type is None else held.token_type.weight
    tables = (held.word.weight, held.position.weight, token_type)
    return EmbeddingWeights(*tables, held.norm.weight, held.norm.bias, held.eps, held.position_offset)


def _head_of(model: CompactModel) -> HeadWeights:
    pooler = model.pooler
    classifier = None if model.head.of_tokens else model.classifier
    return HeadWeights(
        None if pooler is None else pooler.weight,
        None if pooler is None else pooler.bias,
        "tanh" if pooler is None else model.config.pooler,
        None if classifier is None else classifier.weight,
        None if classifier is None else classifier.bias,
    )
