"""CompactModel under masks: every subset, every precision, and a training step without a look at the host."""

from __future__ import annotations

import copy
import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cofi.masks import LayerMasks, Masks
from cofi.models import CompactModel, pack_padded

from .tiny import DROPS, MASK_SHAPES, model_of, padded_inputs, random_masks, tiny_config

TARGETS = {
    "classification": {"labels": torch.tensor([0, 1, 1])},
    "token_classification": {"labels": torch.tensor([0, 1, -100, 0, 1, -100, 0, 1, -100, 1, 0, 1, 1, -100, 0, 0])},
    "question_answering": {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 9, 0])},
}


@pytest.mark.parametrize(
    "kinds", [kinds for n in range(6) for kinds in itertools.combinations(MASK_SHAPES, n)], ids="+".join
)
def test_every_subset_of_masks(kinds):
    """An absent mask is a mask of ones; every present one changes the result and gets a gradient."""
    model, inputs = model_of(), padded_inputs()
    masks = random_masks(kinds)
    filled = Masks.from_kinds({kind: torch.ones(shape) for kind, shape in MASK_SHAPES.items()} | masks.by_kind())
    plain = model(**inputs).last_hidden_state
    absent = model(**inputs, masks=masks).last_hidden_state
    torch.testing.assert_close(absent, model(**inputs, masks=filled).last_hidden_state)
    for kind in kinds:
        one = Masks.from_kinds({kind: masks.by_kind()[kind].requires_grad_()})
        state = model(**inputs, masks=one).last_hidden_state
        assert not torch.allclose(state, plain)
        (state * torch.randn_like(state)).sum().backward()
        z = one.by_kind()[kind]
        grad = torch.zeros_like(z) if z.grad is None else z.grad  # none at all where every sublayer was skipped
        assert (grad[z == 0] == 0).all()
        assert (grad[z != 0] != 0).any() or not (z != 0).any()


def test_hidden_mask_behind_a_projection():
    """ELECTRA's narrow tables hold no hidden dims: the mask starts at the projection."""
    model, inputs = model_of(embedding_size=16), padded_inputs()
    z = (torch.rand(24) > 0.3).float().requires_grad_()
    states = model(**inputs, masks=Masks(z_hidden=z), output_hidden_states=True).hidden_states
    plain = model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[0], plain[0] * z)
    assert all((state[..., z == 0] == 0).all() for state in states)
    states[-1].square().sum().backward()
    assert (z.grad[z == 0] == 0).all()
    assert (z.grad[z != 0] != 0).any()


@pytest.mark.parametrize("embedding_size", [24, 16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_masks_keep_the_precision_of_the_model(dtype, embedding_size):
    model, inputs, masks = model_of(embedding_size=embedding_size), padded_inputs(), random_masks()
    expected = model(**inputs, masks=masks).last_hidden_state
    state = model.to(dtype)(**inputs, masks=masks).last_hidden_state
    assert state.dtype == dtype
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5  # bf16 has 8 bits, and the states are of unit size
    torch.testing.assert_close(state.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("is_teacher", [False, True], ids=["training", "frozen"])
def test_a_masked_layer_compiles_without_graph_break(is_teacher):
    """Values, and the gradients of weights, masks and input, are those of eager."""
    layer = model_of(attention_probs_dropout_prob=0.2, hidden_dropout_prob=0.3).layers[0]
    layer.requires_grad_(not is_teacher)
    batch, x = pack_padded(**padded_inputs()), torch.randn(16, 24)
    sites = None if is_teacher else torch.tensor([[7, 0], [7, 1], [7, 2]])
    z = {kind: torch.rand(shape) + 0.1 for kind, shape in MASK_SHAPES.items()}
    z["int"][0, ::3] = z["hidden"][5] = z["head"][0, 1] = 0.0
    leaves = [x, *(z[kind][0] if kind != "hidden" else z[kind] for kind in MASK_SHAPES)]
    leaves = [leaf.clone().requires_grad_(not is_teacher) for leaf in leaves]
    wanted = [*leaves, *layer.parameters()]

    def run(x, z_head, z_int, z_hidden, z_mha, z_ffn):
        return layer(x, batch, LayerMasks(z_head, z_int, z_hidden, z_mha, z_ffn), sites)

    dy = torch.randn(16, 24)
    results = []
    for call in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        y = call(*leaves)
        results.append([y, *(() if is_teacher else torch.autograd.grad(y, wanted, dy))])
    torch.testing.assert_close(results[1], results[0])


def training_step(model, batch, masks, state, targets):
    output = model(batch=batch, masks=masks, dropout_state=state, output_hidden_states=True, **targets)
    output.loss.backward()
    return output


@pytest.mark.parametrize("head", TARGETS)
def test_a_step_reads_nothing_on_the_host(head):
    """Fake tensors have no values: whatever asks for one fails. So a step can be captured in a CUDA graph."""
    batch = pack_padded(**padded_inputs())
    with FakeTensorMode() as fake:
        model = CompactModel(tiny_config(**(DROPS | {"head": head}))).train()
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        faked = {name: fake.from_tensor(t) for name, t in tensors.items() if isinstance(t, torch.Tensor)}
        masks = Masks.from_kinds({kind: torch.rand(shape, requires_grad=True) for kind, shape in MASK_SHAPES.items()})
        targets = {name: fake.from_tensor(value) for name, value in TARGETS[head].items()}
        state = torch.zeros(2, dtype=torch.int64)
        output = training_step(model, replace(batch, **faked), masks, state, targets)
    assert output.last_hidden_state.shape == (16, 24)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("head", TARGETS)
def test_a_step_on_the_gpu_is_that_of_the_cpu(head):
    model = model_of(**(DROPS | {"head": head})).train()
    batch, state = pack_padded(**padded_inputs()), torch.tensor([7, 1])
    masks = Masks.from_kinds({kind: z.requires_grad_() for kind, z in random_masks().by_kind().items()})
    on_gpu = copy.deepcopy(model).cuda()
    gpu_masks = Masks.from_kinds({k: z.detach().cuda().requires_grad_() for k, z in masks.by_kind().items()})
    gpu_targets = {name: value.cuda() for name, value in TARGETS[head].items()}
    expected = training_step(model, batch, masks, state, TARGETS[head])
    found = training_step(on_gpu, batch.to("cuda"), gpu_masks, state.cuda(), gpu_targets)
    torch.testing.assert_close(found.loss.cpu(), expected.loss, rtol=1e-4, atol=1e-5)
    gradients = dict(on_gpu.named_parameters()) | gpu_masks.by_kind()
    for name, want in (dict(model.named_parameters()) | masks.by_kind()).items():
        torch.testing.assert_close(gradients[name].grad.cpu(), want.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_masks_need_layers_of_one_size():
    model = model_of(per_layer_config={0: {"num_attention_heads": 1}})
    with pytest.raises(ValueError, match="layers must be of one size"):
        model(**padded_inputs(), masks=random_masks(["hidden"]))


def test_masks_of_another_model():
    with pytest.raises(ValueError, match=r"z_hidden must have shape \(24,\), got \(23,\)"):
        model_of()(**padded_inputs(), masks=Masks(z_hidden=torch.ones(23)))
