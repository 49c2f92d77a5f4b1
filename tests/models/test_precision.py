"""inference_precision: where it holds, how it is set and kept, and what is said where it does not hold."""

from __future__ import annotations

import warnings

import pytest
import torch

from cofi.models import CompactConfig, CompactModel
from cofi_kernels.testing import relative_error

from .tiny import model_of, padded_inputs


def logits(model: CompactModel) -> torch.Tensor:
    torch.manual_seed(1)  # the inputs are random
    with torch.no_grad():
        return model(**padded_inputs()).logits


def test_int8_is_set_saved_loaded_and_taken_back(tmp_path):
    torch.manual_seed(0)
    model = model_of(head="classification", num_labels=3)
    exact = logits(model)
    model.set_inference_precision("int8")
    rounded = logits(model)
    assert 0.0 < relative_error(rounded, exact) < 0.1
    model.save_pretrained(tmp_path)
    again = CompactModel.from_pretrained(tmp_path).eval()
    assert again.config.inference_precision == "int8"
    assert torch.equal(logits(again), rounded)
    chosen = CompactModel.from_pretrained(tmp_path, inference_precision="fp32").eval()
    assert torch.equal(logits(chosen), exact)
    model.set_inference_precision("fp32")
    assert torch.equal(logits(model), exact)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="inference_precision must be one of fp32, int8, bf16, got 'fp8'"):
        CompactConfig(inference_precision="fp8")
    with pytest.raises(ValueError, match="inference_precision must be one of fp32, int8, bf16, got 'fp8'"):
        model_of().set_inference_precision("fp8")


@pytest.mark.parametrize("call", [{"output_hidden_states": True}, {}], ids=["states", "gradient"])
def test_a_call_that_cannot_be_quantized_says_so(call):
    model = model_of()
    model.set_inference_precision("int8")
    with torch.set_grad_enabled(not call), pytest.warns(RuntimeWarning, match="this call ran in fp32"):
        model(**padded_inputs(), **call)


def test_training_is_fp32_without_a_word():
    model = model_of().train()
    model.set_inference_precision("int8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model(**padded_inputs()).last_hidden_state.sum().backward()
