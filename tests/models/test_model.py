"""CompactModel: borders, masks, dropout, heads and the two routes through the encoder."""

from __future__ import annotations

import copy
import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cofi_kernels
from cofi.masks import Masks
from cofi.models import CompactConfig, CompactModel, from_lists, pack_padded, pad_packed
from cofi.models.dropout import SITES_PER_STEP, dropout_sites

from .tiny import flipped, padded_inputs, tiny_config

PRUNED = {
    0: {"num_attention_heads": 1, "intermediate_size": 7},
    1: {"num_attention_heads": 0},
    2: {"intermediate_size": 0},
    3: {"num_attention_heads": 0, "attention_bias_only": True, "intermediate_size": 0, "ffn_bias_only": True},
    4: {"num_attention_heads": 0, "intermediate_size": 0},
}
KINDS = {"head": (2, 4), "int": (2, 40), "hidden": (24,), "mha": (2,), "ffn": (2,)}

COUNTER_DROPOUT = cofi_kernels.counter_dropout
DROPS = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "head": "classification"}


def model_of(**changes):
    model = CompactModel(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_masks(kinds=tuple(KINDS)):
    return Masks.from_kinds({kind: torch.rand(KINDS[kind]) * (torch.rand(KINDS[kind]) > 0.3) for kind in kinds})


def test_the_example_of_the_documentation():
    with torch.device("meta"):
        model = CompactModel(
            CompactConfig(
                hidden_size=764,
                head_dim=64,
                num_hidden_layers=12,
                per_layer_config={0: {"num_attention_heads": 2, "intermediate_size": 500}},
            )
        )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["layers.0.attention.w_qkv"] == (3, 128, 764)
    assert shapes["layers.0.ffn.w_down"] == (500, 764)
    assert shapes["layers.11.attention.w_out"] == (768, 764)
    assert shapes["layers.11.ffn.w_up"] == (3072, 764)


def test_removed_sublayers_have_no_parameters_and_change_nothing():
    model = model_of(num_hidden_layers=5, per_layer_config=PRUNED)
    names = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters()}
    assert "layers.1.attention" not in names
    assert "layers.2.ffn" not in names
    assert {"layers.3.attention", "layers.3.ffn"} <= names
    assert not any(name.startswith("layers.4.") for name in names)
    states = model(**padded_inputs(), output_hidden_states=True).hidden_states
    assert torch.equal(states[5], states[4])
    assert not torch.allclose(states[4], states[3])  # bias and LayerNorm only, but that


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
def test_both_routes_agree(pruned):
    """Inference runs compact_encoder; with states asked for, layer by layer."""
    changes = {"num_hidden_layers": 5, "per_layer_config": PRUNED} if pruned else {}
    model = model_of(head="classification", num_labels=3, **changes)
    inputs = padded_inputs()
    with torch.no_grad():
        fused = model(**inputs)
        layered = model(**inputs, output_hidden_states=True)
    assert fused.hidden_states is None
    torch.testing.assert_close(fused.last_hidden_state, layered.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(fused.logits, layered.logits, rtol=0, atol=1e-5)


def test_route_is_chosen_by_what_is_asked(monkeypatch):
    model, inputs, calls = model_of(), padded_inputs(), []
    original = cofi_kernels.compact_encoder
    monkeypatch.setattr(cofi_kernels, "compact_encoder", lambda *args: calls.append(1) or original(*args))
    with torch.no_grad():
        model(**inputs)
    assert len(calls) == 1
    model(**inputs)  # with gradients
    with torch.no_grad():
        model(**inputs, output_hidden_states=True)
        model(**inputs, masks=random_masks())
        model.train()(**inputs)
    assert len(calls) == 1


@pytest.mark.parametrize("head", ["classification", "question_answering"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(head, side):
    """Padded on either side, packed, or alone: the same numbers."""
    model = model_of(head=head, num_labels=3)
    inputs = padded_inputs()
    given = inputs if side == "right" else flipped(inputs)
    mask = given["attention_mask"] != 0
    with torch.no_grad():
        padded = model(**given)
        packed = model(batch=pack_padded(**inputs))
    torch.testing.assert_close(padded.last_hidden_state[mask], packed.last_hidden_state)
    if head == "classification":
        torch.testing.assert_close(padded.logits, packed.logits)
    else:
        torch.testing.assert_close(padded.start_logits[mask], packed.start_logits)
        torch.testing.assert_close(padded.end_logits[mask], packed.end_logits)
    for row in range(3):
        alone = model(**{name: value[row : row + 1, mask[row]] for name, value in given.items()})
        torch.testing.assert_close(
            padded.last_hidden_state[row, mask[row]], alone.last_hidden_state[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("side", ["right", "left"])
def test_span_loss_is_that_of_each_examples_own_tokens(side):
    model = model_of(head="question_answering")
    inputs = padded_inputs()
    shift = torch.tensor([0, 3, 8]) if side == "left" else torch.zeros(3, dtype=torch.long)
    lengths = inputs["attention_mask"].sum(1)
    start, end = torch.tensor([2, 5, 0]) + shift, torch.tensor([8, 7, 0]) + shift  # the second end is behind its text
    output = model(**(flipped(inputs) if side == "left" else inputs), start_positions=start, end_positions=end)
    losses = []
    for logits, targets in ((output.start_logits, start), (output.end_logits, end)):
        rows = [
            torch.nn.functional.cross_entropy(logits[i][logits[i] > -1e30], targets[i] - shift[i])
            for i in range(3)
            if targets[i] - shift[i] < lengths[i]
        ]
        losses.append(torch.stack(rows).mean())
    torch.testing.assert_close(output.loss, sum(losses) / 2)
    packed = model(batch=pack_padded(**inputs), start_positions=start - shift, end_positions=end - shift)
    torch.testing.assert_close(packed.loss, output.loss)


def test_span_loss_without_any_answer_inside_is_zero():
    model = model_of(head="question_answering")
    outside = torch.full((3,), 9)
    loss = model(**padded_inputs(), start_positions=outside, end_positions=outside).loss
    assert loss.item() == 0.0


@pytest.mark.parametrize("kinds", [kinds for n in range(6) for kinds in itertools.combinations(KINDS, n)], ids="+".join)
def test_every_subset_of_masks(kinds):
    """An absent mask is a mask of ones; every present one changes the result and gets a gradient."""
    model, inputs = model_of(), padded_inputs()
    masks = random_masks(kinds)
    filled = Masks.from_kinds({kind: torch.ones(shape) for kind, shape in KINDS.items()} | masks.by_kind())
    plain = model(**inputs).last_hidden_state
    absent = model(**inputs, masks=masks).last_hidden_state
    torch.testing.assert_close(absent, model(**inputs, masks=filled).last_hidden_state)
    for kind in kinds:
        one = Masks.from_kinds({kind: masks.by_kind()[kind].requires_grad_()})
        state = model(**inputs, masks=one).last_hidden_state
        assert not torch.allclose(state, plain)
        (state * torch.randn_like(state)).sum().backward()
        z = one.by_kind()[kind]
        assert (z.grad[z == 0] == 0).all()
        assert (z.grad[z != 0] != 0).any() or not (z != 0).any()


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


def training_step(model, batch, masks, state, targets):
    output = model(batch=batch, masks=masks, dropout_state=state, output_hidden_states=True, **targets)
    output.loss.backward()
    return output


TARGETS = {
    "classification": {"labels": torch.tensor([0, 1, 1])},
    "question_answering": {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 9, 0])},
}


@pytest.mark.parametrize("head", TARGETS)
def test_a_step_reads_nothing_on_the_host(head):
    """Fake tensors have no values: whatever asks for one fails. So a step can be captured in a CUDA graph."""
    batch = pack_padded(**padded_inputs())
    with FakeTensorMode() as fake:
        model = CompactModel(tiny_config(**(DROPS | {"head": head}))).train()
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        faked = {name: fake.from_tensor(t) for name, t in tensors.items() if name != "max_seqlen"}
        masks = Masks.from_kinds({kind: torch.rand(shape, requires_grad=True) for kind, shape in KINDS.items()})
        targets = {name: fake.from_tensor(value) for name, value in TARGETS[head].items()}
        state = torch.zeros(2, dtype=torch.int64)
        output = training_step(model, replace(batch, **faked), masks, state, targets)
    assert output.last_hidden_state.shape == (16, 24)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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
    model = model_of(num_hidden_layers=5, per_layer_config=PRUNED)
    with pytest.raises(ValueError, match="layers must be of one size"):
        model(**padded_inputs(), masks=random_masks(["hidden"]))


def test_masks_of_another_model():
    with pytest.raises(ValueError, match=r"z_hidden must have shape \(24,\), got \(23,\)"):
        model_of()(**padded_inputs(), masks=Masks(z_hidden=torch.ones(23)))


def test_dropout_follows_its_state():
    model, inputs = model_of(**DROPS).train(), padded_inputs()
    state = torch.tensor([11, 3])
    first, again = (model(**inputs, dropout_state=state).logits for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, model(**inputs, dropout_state=torch.tensor([11, 4])).logits)
    assert not torch.allclose(first, model(**inputs, dropout_state=torch.tensor([12, 3])).logits)
    assert not torch.allclose(first, model.eval()(**inputs, dropout_state=state).logits)


def test_dropout_without_a_state_draws_from_torch():
    model, inputs = model_of(**DROPS).train(), padded_inputs()
    torch.manual_seed(1)
    first, second = model(**inputs).logits, model(**inputs).logits
    torch.manual_seed(1)
    assert torch.equal(first, model(**inputs).logits)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("changes", "drops"),
    [
        ({"hidden_dropout_prob": 0.5}, True),
        ({"attention_probs_dropout_prob": 0.5}, True),
        ({"classifier_dropout": 0.5}, True),
        ({"classifier_dropout": 0.5, "pooler_dropout": True}, True),
        ({"classifier_dropout": 0.0}, False),
    ],
    ids=str,
)
def test_each_probability_has_an_effect(changes, drops):
    model, inputs = model_of(head="classification", **changes), padded_inputs()
    expected = model(**inputs).logits
    assert torch.allclose(model.train()(**inputs).logits, expected) is not drops


def test_dropout_keeps_the_mean():
    """The average over many states approaches the output without dropout before the last linear layer."""
    model, inputs = model_of(head="classification", classifier_dropout=0.5), padded_inputs()
    expected = model(**inputs).logits
    model.train()
    with torch.no_grad():
        drawn = torch.stack([model(**inputs, dropout_state=torch.tensor([5, step])).logits for step in range(400)])
    error = (drawn.mean(0) - expected).abs()
    assert (error < 5 * drawn.std(0) / 400**0.5).all()


def test_every_place_that_drops_has_a_site_of_its_own(monkeypatch):
    seen = []
    for name in ("masked_attention", "masked_layer_norm", "counter_dropout"):
        monkeypatch.setattr(cofi_kernels, name, recording(getattr(cofi_kernels, name), seen))
    model = model_of(**(DROPS | {"pooler_dropout": True})).train()
    model(**padded_inputs(), dropout_state=torch.tensor([7, 3]))
    assert len(seen) == 1 + 3 * 2 + 2  # embeddings; three in each of two layers; before pooler and classifier
    assert len(set(seen)) == len(seen)
    assert all(seed == 7 and offset // SITES_PER_STEP == 3 for seed, offset in seen)


def recording(run, seen):
    def recorded(*args, **kwargs):
        state = args[2] if run is COUNTER_DROPOUT else kwargs.get("dropout_state")
        if state is not None:
            seen.append(tuple(state.tolist()))
        return run(*args, **kwargs)

    return recorded


def test_sites_of_steps_never_meet():
    sites = torch.cat([dropout_sites(torch.tensor([9, step]), SITES_PER_STEP) for step in range(3)])
    assert len(set(map(tuple, sites.tolist()))) == len(sites)
    assert (sites[:, 0] == 9).all()


@pytest.mark.parametrize("state", [torch.zeros(3, dtype=torch.int64), torch.zeros(2)], ids=["shape", "dtype"])
def test_bad_dropout_state(state):
    with pytest.raises(ValueError, match="dropout_state must be int64 of shape"):
        model_of(**DROPS).train()(**padded_inputs(), dropout_state=state)


@pytest.mark.parametrize("pooler", ["none", "tanh", "relu", "gelu"])
def test_pooler(pooler):
    model, inputs = model_of(pooler=pooler), padded_inputs()
    output = model(**inputs)
    first = output.last_hidden_state[:, 0]
    if pooler == "none":
        assert output.pooler_output is None
        return
    act = {"tanh": torch.tanh, "relu": torch.relu, "gelu": torch.nn.functional.gelu}[pooler]
    expected = act(first @ model.pooler.weight.T + model.pooler.bias)
    torch.testing.assert_close(output.pooler_output, expected)


def test_classifier_reads_a_pooler_of_another_size():
    model = model_of(head="classification", pooler_size=10, num_labels=3)
    assert model.classifier.weight.shape == (3, 10)
    assert model(**padded_inputs()).logits.shape == (3, 3)


def test_tuple_output():
    model, inputs = model_of(head="classification"), padded_inputs()
    output = model(**inputs)
    plain = model(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert all(torch.equal(ours, want) for ours, want in zip(plain, output.to_tuple(), strict=True))
    loss, logits = model(**inputs, labels=torch.zeros(3), return_dict=False)[:2]
    assert loss.dim() == 0
    assert torch.equal(logits, output.logits)


def test_packed_states_match_padded_states():
    model, inputs = model_of(), padded_inputs()
    batch = pack_padded(**inputs)
    packed = model(batch=batch, output_hidden_states=True).hidden_states
    padded = model(**inputs, output_hidden_states=True).hidden_states
    for ours, want in zip(packed, padded, strict=True):
        assert ours.shape == (batch.n_tokens, 24)
        torch.testing.assert_close(pad_packed(ours, batch.cu_seqlens, 9), want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, i: m(), "exactly one of input_ids and batch"),
        (lambda m, i: m(**i, batch=from_lists([[1]])), "batch must be given alone"),
        (lambda m, i: m(attention_mask=i["attention_mask"], batch=from_lists([[1]])), "batch must be given alone"),
        (lambda m, i: m(input_ids=torch.ones(1, 41, dtype=torch.long)), "at most 40 tokens, got 41"),
        (lambda m, i: m(**i, labels=torch.zeros(3)), "labels need a classification head"),
        (lambda m, i: m(**i, **_span()), "positions need a question answering head"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call(model_of(), padded_inputs())


def _span():
    return {"start_positions": torch.zeros(3), "end_positions": torch.zeros(3)}


def test_half_a_span():
    with pytest.raises(ValueError, match="given together"):
        model_of(head="question_answering")(**padded_inputs(), start_positions=torch.zeros(3))
