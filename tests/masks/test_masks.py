import pytest
import torch

from cofi.masks import Masks, ModelShape, kept_parameters, sparsity

SHAPE = ModelShape(n_layers=3, n_heads=2, head_dim=4, d_hidden=8, d_int=5)


def all_masks() -> Masks:
    return Masks(
        z_head=torch.tensor([[0.5, 0.0], [1.0, 1.0], [0.0, 0.0]]),
        z_int=torch.tensor([[1.0, 0, 0, 0, 0.1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]),
        z_hidden=torch.tensor([1.0, 1, 0, 0.3, 1, 1, 1, 0]),
        z_mha=torch.tensor([0.7, 0.0, 1.0]),
        z_ffn=torch.tensor([0.0, 0.0, 0.2]),
    )


def test_units_under_a_removed_sublayer_are_not_kept():
    structure = all_masks().structure(SHAPE)
    assert structure.heads == (1, 0, 0)
    assert structure.intermediate == (0, 0, 0)
    assert structure.hidden == 6
    assert structure.mha == (True, False, True)  # the last one has no heads left: bias and LayerNorm
    assert structure.ffn == (False, False, True)
    assert structure.to_dict() == {"heads": [1, 0, 0], "intermediate": [0, 0, 0], "hidden": 6}


def test_absent_masks_keep_everything():
    structure = Masks().structure(SHAPE)
    assert structure.heads == (2, 2, 2)
    assert structure.intermediate == (5, 5, 5)
    assert structure.hidden == 8
    assert structure.mha == structure.ffn == (True, True, True)


def test_kept_parameters_are_the_weights_of_the_sliced_matrices():
    structure = Masks(z_head=all_masks().z_head, z_int=all_masks().z_int).structure(SHAPE)
    weights = 0
    for heads, width in zip(structure.heads, structure.intermediate, strict=True):
        inner = heads * SHAPE.head_dim
        matrices = [(inner, 8), (inner, 8), (inner, 8), (8, inner), (width, 8), (8, width)]
        weights += sum(rows * columns for rows, columns in matrices)
    assert kept_parameters(structure, SHAPE) == weights
    assert sparsity(structure, SHAPE) == pytest.approx(1 - weights / SHAPE.prunable_size)


def test_the_dense_model_is_barely_sparse():
    shape = ModelShape(n_layers=12, n_heads=12, head_dim=64, d_hidden=768, d_int=3072)
    structure = Masks().structure(shape)
    assert kept_parameters(structure, shape) == 84_934_656
    assert sparsity(structure, shape) == pytest.approx(0.00098, abs=1e-5)


def test_a_layer_lives_by_its_attention_or_its_ffn():
    masks = all_masks()
    assert masks.live_layers(3).tolist() == [True, False, True]
    assert Masks(z_mha=masks.z_mha, z_ffn=torch.zeros(3)).live_layers(3).tolist() == [True, False, True]
    assert Masks(z_mha=torch.zeros(3), z_ffn=masks.z_ffn).live_layers(3).tolist() == [False, False, True]


@pytest.mark.parametrize("masks", [Masks(), Masks(z_mha=torch.zeros(3)), Masks(z_ffn=torch.zeros(3))])
def test_a_sublayer_without_layer_mask_keeps_its_layer_alive(masks):
    assert masks.live_layers(3).tolist() == [True, True, True]


def test_a_layer_of_dead_units_still_lives():
    assert Masks(z_head=torch.zeros(3, 2), z_int=torch.zeros(3, 5)).live_layers(3).all()


def test_layer_gives_the_rows_of_one_layer():
    masks = all_masks()
    layer = masks.layer(1)
    assert layer.z_head.tolist() == [1.0, 1.0]
    assert layer.z_int.shape == (5,)
    assert layer.z_hidden is masks.z_hidden
    assert layer.z_mha.shape == layer.z_ffn.shape == ()
    empty = Masks().layer(0)
    assert [empty.z_head, empty.z_int, empty.z_hidden, empty.z_mha, empty.z_ffn] == [None] * 5


def test_layers_are_what_layer_gives_in_value_and_gradient():
    masks = all_masks()
    assert len(masks.layers(3)) == len(Masks().layers(3)) == 3
    values = masks.by_kind()
    gradients = []
    for layers_of in (lambda: masks.layers(3), lambda: [masks.layer(i) for i in range(3)]):
        for z in values.values():
            z.grad = None
            z.requires_grad_(True)
        each = layers_of()
        kept = (each[0].z_head, each[2].z_head, each[1].z_int, each[0].z_hidden, each[2].z_mha, each[1].z_ffn)
        sum(((i + 1) * z).sum() for i, z in enumerate(kept)).backward()
        gradients.append({name: z.grad for name, z in values.items()})
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert gradients[0]["head"].tolist()[1] == [0.0, 0.0] and set(gradients[0]["head"].tolist()[2]) == {2.0}


def test_detach_and_to_keep_what_is_absent_absent():
    z_mha = torch.ones(3, requires_grad=True)
    masks = Masks(z_mha=z_mha * 1)
    assert masks.z_mha.requires_grad
    assert not masks.detach().z_mha.requires_grad
    moved = masks.to("meta")
    assert moved.z_mha.device.type == "meta"
    assert list(moved.by_kind()) == ["mha"]


def test_unknown_kinds_and_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="head, int, hidden, mha, ffn.*'heads'"):
        Masks.from_kinds({"heads": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=r"z_int must have shape \(3, 5\), got \(3, 4\)"):
        Masks(z_int=torch.ones(3, 4)).structure(SHAPE)
