"""The masked model against the official masked BERT: outputs, states, every mask gradient, weight gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cofi_kernels import masked_layer_norm

from .golden_models import load_official, model_inputs, official_gradients, official_masks, squeezed, with_prefix
from .goldens import OFFICIAL_KINDS, assert_gradient, load, tensor

CASES = [
    "none",
    "ones",
    "soft",
    "hard",
    "softzeros",
    "hard_mha0_ffn1_pruned",
    "softzeros_ffn0_pruned",
    "soft_all_pruned_but_last_ffn",
    "only_hidden",
    "only_heads",
    "only_mlp",
]
QA_CASES = ["none", "soft", "hard", "hard_mha0_ffn1_pruned"]
ATOL = 1e-5


@pytest.fixture(scope="module")
def golden(golden_dir):
    return load(golden_dir, "bert_tiny2_forward")


@pytest.fixture
def model(golden_dir, golden, tmp_path):
    weights = load(golden_dir, "bert_tiny2_weights")
    n_heads = golden["none__attn0"].shape[1]
    return load_official(tmp_path / "bert", weights, n_heads, "SequenceClassification")


def run(model, golden, case):
    masks = official_masks(golden, f"{case}__z_")
    labels = tensor(golden["labels"])
    return masks, model(**model_inputs(golden), labels=labels, masks=masks, output_hidden_states=True)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_states(case, model, golden):
    _, output = run(model, golden, case)
    torch.testing.assert_close(output.logits, tensor(golden[f"{case}__logits"]), rtol=0, atol=ATOL)
    torch.testing.assert_close(output.loss, tensor(golden[f"{case}__loss"]), rtol=0, atol=ATOL)
    is_token = tensor(golden["attention_mask"]) != 0
    expected = [key for key in golden if key.startswith(f"{case}__hidden")]
    assert len(output.hidden_states) == len(expected) == len(model.layers) + 1
    for i, state in enumerate(output.hidden_states):
        want = tensor(golden[f"{case}__hidden{i}"])
        torch.testing.assert_close(state[is_token], want[is_token], rtol=0, atol=ATOL)


@pytest.mark.parametrize("case", [case for case in CASES if case != "none"])
def test_mask_gradients(case, model, golden):
    """Equal where z != 0; exactly 0 where z == 0, by our definition: the hard-concrete clamp stops it there anyway."""
    masks, output = run(model, golden, case)
    output.loss.backward()
    compared = 0
    for kind, z in masks.by_kind().items():
        want = torch.nan_to_num(squeezed(golden[f"{case}__grad_{OFFICIAL_KINDS[kind]}_z"]))  # NaN: no path, so 0
        got = torch.zeros_like(z) if z.grad is None else z.grad
        assert torch.equal(got[z == 0], torch.zeros_like(got[z == 0])), kind
        alive = z != 0
        compared += int(alive.sum())
        assert_gradient(torch.where(alive, got, 0), torch.where(alive, want, 0).numpy(force=True), kind, slack=1e-8)
    assert compared > 0


@pytest.mark.parametrize("case", CASES)
def test_weight_gradients(case, model, golden):
    _, output = run(model, golden, case)
    output.loss.backward()
    ours = official_gradients(model)
    expected = with_prefix(golden, f"{case}__gradw_")
    assert expected
    for name, want in expected.items():
        assert_gradient(ours[name], torch.nan_to_num(tensor(want)).numpy(), name, slack=1e-8)


@pytest.mark.parametrize("case", QA_CASES)
def test_question_answering(case, golden_dir, tmp_path):
    """Logits of the tokens are the official ones. The official loss also gives weight to padding, which is never
    computed here: the loss is compared with that of the official logits over each example's own tokens."""
    golden = load(golden_dir, "bert_tiny2_qa_forward")
    n_heads = golden["soft__z_head_z"].shape[2]
    model = load_official(tmp_path / "qa", with_prefix(golden, "w__"), n_heads, "QuestionAnswering")
    inputs = model_inputs(golden)
    targets = {name: tensor(golden[name]) for name in ("start_positions", "end_positions")}
    output = model(**inputs, **targets, masks=official_masks(golden, f"{case}__z_"))
    is_token = inputs["attention_mask"] != 0
    losses = []
    for part in ("start", "end"):
        want = tensor(golden[f"{case}__{part}_logits"])
        got = output[f"{part}_logits"]
        torch.testing.assert_close(got[is_token], want[is_token], rtol=0, atol=ATOL)
        assert (got[~is_token] == torch.finfo(got.dtype).min).all()
        own = want.masked_fill(~is_token, -torch.inf)
        losses.append(F.cross_entropy(own, targets[f"{part}_positions"]))
    torch.testing.assert_close(output.loss, sum(losses) / 2, rtol=0, atol=ATOL)


def test_layer_norm_over_kept_dims(golden_dir):
    golden = load(golden_dir, "cofi_layernorm")
    z = (tensor(golden["hidden_z"]) != 0).float()  # the official layer looks at which dims are kept, not at their mask
    kept = z != 0
    x, weight, bias = (tensor(golden[name]).requires_grad_() for name in ("x", "weight", "bias"))
    rows = x.reshape(-1, x.shape[-1])
    y = masked_layer_norm(rows, None, weight, bias, z_hidden=z, eps=float(golden["eps"])).view_as(x)
    torch.testing.assert_close(y[..., kept], tensor(golden["y"])[..., kept], rtol=0, atol=ATOL)
    assert (y[..., ~kept] == 0).all()  # the official one copies dropped dims through; its caller zeroes them
    y.backward(tensor(golden["upstream"]))
    assert_gradient(x.grad[..., kept], golden["grad_x"][..., kept.numpy()], "x", slack=1e-7)
    assert_gradient(weight.grad, golden["grad_weight"], "weight")
    assert_gradient(bias.grad, golden["grad_bias"], "bias")
    plain = masked_layer_norm(rows, None, weight, bias, eps=float(golden["eps"])).view_as(x)
    torch.testing.assert_close(plain, tensor(golden["y_nomask"]), rtol=0, atol=ATOL)
