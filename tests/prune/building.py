"""Random small models and masks, for the tests of pruning and export."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from cofi.masks import MASK_KINDS, Masks, ModelShape
from cofi.models import CompactConfig, CompactModel

VOCAB, LABELS = 23, 3
# how a mask is drawn; hidden masks keep a dim in all of them
MODES = ("absent", "ones", "soft", "hard", "mixed", "sparse", "dead")
HIDDEN_MODES = ("absent", "ones", "soft", "hard", "mixed", "sparse", "one")


def random_model(config: CompactConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> CompactModel:
    """A model whose every parameter, biases and LayerNorms too, is far from where it is initialised."""
    generator = torch.Generator().manual_seed(seed)
    model = CompactModel(config)
    for name, parameter in model.named_parameters():
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        parameter.data = centre + 0.5 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()


def random_batch(config: CompactConfig, lengths: tuple[int, ...] = (5, 1, 3), seed: int = 1) -> dict[str, torch.Tensor]:
    """Padded inputs; the second row is padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = torch.zeros(shape, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, slice(-length, None) if row == 1 else slice(length)] = 1
    types = max(config.type_vocab_size, 1)
    return {
        "input_ids": torch.randint(config.vocab_size, shape, generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(types, shape, generator=generator),
    }


def random_masks(shape: ModelShape, modes: dict[str, str], seed: int = 2) -> Masks:
    """Masks of every kind whose mode is not "absent"."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for kind, mode in modes.items():
        if mode != "absent":
            values[kind] = _mask(MASK_KINDS[kind].units(shape), mode, generator)
            if kind == "hidden" and not values[kind].any():
                values[kind][0] = 1.0
    return Masks.from_kinds(values)


def _mask(units: tuple[int, ...], mode: str, generator: torch.Generator) -> torch.Tensor:
    soft = 0.1 + 0.9 * torch.rand(units, generator=generator)
    keep = (torch.rand(units, generator=generator) < (0.2 if mode == "sparse" else 0.6)).float()
    one = torch.zeros(units)
    one.view(-1)[one.numel() // 2] = 0.7
    drawn = {"ones": torch.ones(units), "soft": soft, "hard": keep, "dead": torch.zeros(units), "one": one}
    return drawn.get(mode, soft * keep)


@st.composite
def configs(draw: st.DrawFn, hidden: st.SearchStrategy[int], eps: tuple[float, ...] = (1e-12, 1e-5)) -> CompactConfig:
    """Every option of the families: tables of another width, token types, position offset, poolers and heads."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": draw(hidden),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": draw(st.integers(1, 4)),
        "head_dim": draw(st.integers(1, 5)),
        "intermediate_size": draw(st.integers(1, 12)),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        "type_vocab_size": draw(st.integers(0, 2)),
        "embedding_size": draw(st.none() | st.integers(8, 12)),
        "position_offset": draw(st.sampled_from([0, 2])),
        "max_position_embeddings": 12,
        "layer_norm_eps": draw(st.sampled_from(eps)),
        "head": draw(
            st.sampled_from(["none", "classification", "token_classification", "question_answering", "embedding"])
        ),
        "pooler": draw(st.sampled_from(["none", "tanh", "relu", "gelu"])),
        "pooling": draw(st.sampled_from(["mean", "first"])),
        "pooler_size": draw(st.none() | st.integers(1, 6)),
        "num_labels": LABELS,
    }
    return CompactConfig(**fields)


def mask_modes() -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries(
        {kind: st.sampled_from(HIDDEN_MODES if kind == "hidden" else MODES) for kind in MASK_KINDS}
    )
