"""The compact model computes what the masked one does, for any architecture and any masks."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofi.errors import UserError
from cofi.masks import Masks
from cofi.models import CompactConfig, CompactModel, CompactModelForSequenceClassification, CompactOutput
from cofi.prune import compact, compact_transform

from .building import configs, mask_modes, random_batch, random_masks, random_model

FIELDS = ("logits", "start_logits", "end_logits", "pooler_output", "last_hidden_state")
HEADED = {"vocab_size": 23, "num_labels": 3, "max_position_embeddings": 12, "head": "classification"}


def small_config(**changes: object) -> CompactConfig:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 3, "intermediate_size": 6}
    return CompactConfig(**(HEADED | sizes | changes))


def kept_dims(masks: Masks, hidden: int) -> torch.Tensor:
    return torch.ones(hidden, dtype=torch.bool) if masks.z_hidden is None else masks.z_hidden != 0


def difference(found: CompactOutput, expected: CompactOutput, masks: Masks) -> float:
    """Largest difference of any output, relative to its largest number (to 1 where that is smaller)."""
    worst = 0.0
    for name in FIELDS:
        a, b = found.get(name), expected.get(name)
        assert (a is None) == (b is None)
        if b is None:
            continue
        if name == "last_hidden_state":
            b = b[..., kept_dims(masks, b.shape[-1])]
        padding = b == torch.finfo(b.dtype).min
        assert a.shape == b.shape and torch.equal(a[padding], b[padding])
        a, b = a[~padding], b[~padding]
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=1.0)))
    return worst


def masked_against_compact(
    config: CompactConfig, modes: dict[str, str], seed: int, dtype: torch.dtype
) -> tuple[CompactModel, float]:
    model = random_model(config, seed, dtype)
    masks = random_masks(config.shape(), modes, seed)
    masks = Masks.from_kinds({kind: z.to(dtype) for kind, z in masks.by_kind().items()})
    batch = random_batch(config, seed=seed)
    small = compact(model, masks)
    with torch.no_grad():
        return small, difference(small(**batch), model(**batch, masks=masks), masks)


@settings(max_examples=100, deadline=None)
@given(configs(st.integers(8, 20), eps=(1e-5,)), mask_modes(), st.integers(0, 10**6))
def test_compact_equals_masked_in_fp32(config: CompactConfig, modes: dict[str, str], seed: int) -> None:
    # one kept dim makes a LayerNorm a constant; a few can be arbitrarily ill-conditioned in fp32: see the next test
    modes = modes | ({"hidden": "soft"} if modes["hidden"] == "sparse" else {})
    assert masked_against_compact(config, modes, seed, torch.float32)[1] <= 1e-5


@settings(max_examples=150, deadline=None)
@given(configs(st.integers(1, 20)), mask_modes(), st.integers(0, 10**6))
def test_compact_equals_masked_for_every_width(config: CompactConfig, modes: dict[str, str], seed: int) -> None:
    """In fp64, where a LayerNorm over two or three dims does not magnify the rounding into a difference."""
    assert masked_against_compact(config, modes, seed, torch.float64)[1] <= 1e-8


@settings(max_examples=15, deadline=None)
@given(configs(st.integers(4, 12)), mask_modes(), st.integers(0, 10**6))
def test_saved_and_loaded_gives_identical_output(
    tmp_path_factory: pytest.TempPathFactory, config: CompactConfig, modes: dict[str, str], seed: int
) -> None:
    small, _ = masked_against_compact(config, modes, seed, torch.float32)
    folder = tmp_path_factory.mktemp("model")
    small.save_pretrained(folder)
    loaded = CompactModel.from_pretrained(folder).eval()
    batch = random_batch(config)
    with torch.no_grad():
        expected, found = small(**batch), loaded(**batch)
    assert loaded.layout == small.layout
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_structure_is_what_the_masks_say() -> None:
    masks = Masks(
        z_head=torch.tensor([[0.5, 0.0], [0.0, 0.0]]),
        z_int=torch.tensor([[0.0, 0.3, 1.0, 0.0, 0.0, 0.0], [1.0] * 6]),
        z_hidden=torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.2, 1.0]),
        z_mha=torch.tensor([0.9, 0.4]),
        z_ffn=torch.tensor([0.6, 0.0]),
    )
    small = compact(random_model(small_config()), masks)
    assert (small.layout.heads, small.layout.mha) == ((1, 0), (True, True))
    assert (small.layout.intermediate, small.layout.ffn) == ((2, 0), (True, False))
    assert small.config.hidden_size == small.config.embedding_size == 6
    # the pooler's outputs are not pruned; a dead sublayer with its layer mask on is a bias and a LayerNorm
    assert (small.pooler.weight.shape, small.classifier.weight.shape) == ((8, 6), (3, 8))
    assert small.layers[1].attention.b_out.shape == (6,) and small.layers[1].ffn is None
    written = small.config.to_dict()["per_layer_config"]
    assert {int(layer): fields for layer, fields in written.items()} == {
        0: {"num_attention_heads": 1, "intermediate_size": 2},
        1: {"num_attention_heads": 0, "intermediate_size": 0, "attention_bias_only": True},
    }


def test_every_layer_removed_leaves_the_embeddings() -> None:
    model = random_model(small_config())
    masks = Masks(z_mha=torch.zeros(2), z_ffn=torch.zeros(2))
    small = compact(model, masks)
    assert not [name for name in small.state_dict() if name.startswith("layers.")]
    batch = random_batch(model.config)
    with torch.no_grad():
        assert difference(small(**batch), model(**batch, masks=masks), masks) <= 1e-6


def test_projection_stays_where_its_outputs_become_as_wide_as_the_tables() -> None:
    model = random_model(small_config(embedding_size=5))
    masks = Masks(z_hidden=torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.2, 1.0]))
    small = compact(model, masks)
    assert small.embeddings.projection.weight.shape == (5, 5)
    assert CompactConfig.from_dict(small.config.to_dict()).embedding_projection
    batch = random_batch(model.config)
    with torch.no_grad():
        assert difference(small(**batch), model(**batch, masks=masks), masks) <= 1e-5


def test_tables_of_another_width_need_a_projection() -> None:
    with pytest.raises(ValueError, match=r"embedding_projection must be true where embedding_size \(5\) is not"):
        small_config(embedding_size=5, embedding_projection=False)


def test_model_is_left_as_it_was_and_shares_no_memory() -> None:
    model = random_model(small_config())
    before = copy.deepcopy(model.state_dict())
    small = compact(model, Masks(z_head=torch.tensor([[1.0, 0.0], [0.5, 1.0]])))
    for parameter in small.parameters():
        parameter.data.fill_(7.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config == small_config()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_mode_class_and_gradients_are_the_models(dtype: torch.dtype) -> None:
    model = CompactModelForSequenceClassification(small_config()).to(dtype).train()
    small = compact(model, Masks(z_hidden=torch.tensor([0.5, 0.0] * 4)))
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small.training and type(small) is type(model)
    assert all(p.requires_grad and p.is_leaf for p in small.parameters())


def test_random_state_is_not_touched() -> None:
    model = random_model(small_config())
    before = torch.get_rng_state()
    compact(model, Masks(z_mha=torch.ones(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_that_require_gradients_are_taken_as_values() -> None:
    small = compact(random_model(small_config()), Masks(z_ffn=torch.ones(2, requires_grad=True)))
    assert all(p.is_leaf for p in small.parameters())


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (Masks(z_head=torch.ones(2, 3)), r"z_head must have shape \(2, 2\), got \(2, 3\)"),
        (Masks(z_int=torch.full((2, 6), 1.5)), r"z_int must be within \[0, 1\], got 1.5 to 1.5"),
        (Masks(z_mha=torch.tensor([1.0, float("nan")])), r"z_mha must be within \[0, 1\]"),
    ],
    ids=["shape", "range", "nan"],
)
def test_masks_that_do_not_fit_are_refused(masks: Masks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compact(random_model(small_config()), masks)


def test_no_hidden_dimension_left_is_an_error() -> None:
    with pytest.raises(UserError, match="no hidden dimension is left"):
        compact(random_model(small_config()), Masks(z_hidden=torch.zeros(8)))


def test_a_model_that_is_pruned_already_is_refused() -> None:
    model = random_model(small_config(per_layer_config={1: {"num_attention_heads": 1}}))
    with pytest.raises(ValueError, match="layers must be of one size"):
        compact(model, Masks(z_hidden=torch.ones(8)))


def test_transform_loses_the_columns_of_dead_dims() -> None:
    weight, z_hidden = torch.randn(5, 8), torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.2, 1.0])
    states = torch.randn(3, 8) * z_hidden
    sliced = compact_transform(weight, Masks(z_hidden=z_hidden))
    assert torch.equal(sliced, weight[:, z_hidden != 0])
    torch.testing.assert_close(states[:, z_hidden != 0] @ sliced.T, states @ weight.T)
    whole = compact_transform(weight, Masks())
    assert torch.equal(whole, weight) and whole.data_ptr() != weight.data_ptr()


def test_transform_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"z_hidden must have one element per column of weight \(5, 8\), got \(7,\)"):
        compact_transform(torch.randn(5, 8), Masks(z_hidden=torch.ones(7)))
