"""Models as one call: what the ordinary way gives, when it is taken, that changed weights and wrong input are seen."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cofi.models import CompactModel, direct
from cofi_kernels import force_backend
from cofi_kernels.native import load_native, why_not_native

from .tiny import flipped, model_of, padded_inputs, random_masks

pytestmark = pytest.mark.skipif(load_native() is None, reason=str(why_not_native()))

MODELS = {
    "classification": {"head": "classification"},
    "no head": {"head": "none"},
    "no pooler": {"head": "classification", "pooler": "none"},
    "a dense pooler of another width": {"head": "classification", "pooler": "relu", "pooler_size": 7},
    "roberta's positions": {"head": "classification", "position_offset": 2},
    "no types": {"head": "classification", "type_vocab_size": 0},
    "int8": {"head": "classification", "inference_precision": "int8"},
    "bf16": {"head": "classification", "inference_precision": "bf16"},
}

# heads that PyTorch computes from the states
READ_TOKENS = {
    "questions": {"head": "question_answering"},
    "labels of tokens": {"head": "token_classification"},
    "embedding": {"head": "embedding"},
    "embedding by the first": {"head": "embedding", "pooling": "first"},
}


@pytest.fixture
def taken(monkeypatch):
    """Whether the last call of a model was one call of compiled code."""
    answers: list[bool] = []
    run = direct.run_direct

    def watched(*args):
        fields = run(*args)
        answers.append(fields is not None)
        return fields

    monkeypatch.setattr("cofi.models.model.run_direct", watched)
    return lambda: bool(answers) and answers.pop()


@torch.no_grad()
def the_ordinary_way(model: CompactModel, inputs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cofi.models.model.run_direct", lambda *_: None)
        return model(**inputs)


@torch.no_grad()
def assert_same(model: CompactModel, inputs, taken, **tolerance: float) -> None:
    got = model(**inputs)
    assert taken()
    want = the_ordinary_way(model, inputs)
    assert list(got) == list(want)
    for name in want:
        torch.testing.assert_close(got[name], want[name], **({"rtol": 0, "atol": 0} | tolerance))


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_the_bits_of_the_ordinary_way(changes, taken):
    model = model_of(**changes)
    inputs = padded_inputs(types=model.config.type_vocab_size)
    for given in (inputs, flipped(inputs), {"input_ids": inputs["input_ids"]}):
        assert_same(model, given, taken)
    assert_same(model, {**inputs, "input_ids": inputs["input_ids"].t().contiguous().t()}, taken)


@pytest.mark.parametrize("changes", READ_TOKENS.values(), ids=READ_TOKENS)
def test_heads_that_read_the_tokens(changes, taken):
    model = model_of(**changes)
    inputs = padded_inputs()
    for given in (inputs, flipped(inputs), {"input_ids": inputs["input_ids"]}):
        assert_same(model, given, taken, rtol=1e-5, atol=1e-6)


def test_labels_give_a_loss(taken):
    assert_same(model_of(head="classification"), {**padded_inputs(), "labels": torch.tensor([0, 1, 1])}, taken)


def test_tuples_where_they_are_asked_for(taken):
    model = model_of(head="classification")
    with torch.no_grad():
        logits, states, pooled = model(**padded_inputs(), return_dict=False)
    assert taken() and (logits.shape, pooled.shape, states.shape) == ((3, 2), (3, 24), (3, 9, 24))


WRITES = {
    "a write": lambda m: m.embeddings.word.weight.add_(0.1),
    "a write past PyTorch's count": lambda m: m.layers[0].ffn.w_up.data.mul_(1.1),
    "a layer replaced": lambda m: setattr(m, "classifier", torch.nn.Linear(24, 2)),
    "a weight replaced": lambda m: setattr(m.layers[1].attention, "w_out", torch.nn.Parameter(torch.randn(24, 24))),
    "a sublayer removed": lambda m: setattr(m.layers[0], "ffn", copy.deepcopy(m.layers[1].ffn)),
    "loaded": lambda m: m.load_state_dict({k: v + 0.1 for k, v in m.state_dict().items()}),
    "another precision": lambda m: m.set_inference_precision("int8"),
    "another pooler": lambda m: setattr(m.config, "pooler", "relu"),
    "fewer classes": lambda m: [setattr(p, "data", p.data[:1]) for p in (m.classifier.weight, m.classifier.bias)],
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_changes_are_noticed(write, taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    with torch.no_grad():
        before = model(**inputs).logits
        write(model)
        assert_same(model, inputs, taken)
        assert not torch.equal(model(**inputs).logits, before)


class Twice(torch.nn.Linear):
    """A subclass that does more, as adapters are."""

    def forward(self, x):
        return 2 * super().forward(x)


class TwiceTable(torch.nn.Embedding):
    def forward(self, ids):
        return 2 * super().forward(ids)


def limited(m: CompactModel) -> None:
    m.embeddings.word.max_norm = 0.1


# what compiled code would read past its end, or not see; the ordinary way takes it
UNLIKE = {
    "a table that does more": lambda m: m.set_input_embeddings(TwiceTable(*m.embeddings.word.weight.shape)),
    "a table of types that does more": lambda m: setattr(m.embeddings, "token_type", TwiceTable(2, 24)),
    "a table with a limit": limited,
    "no bias": lambda m: setattr(m, "classifier", torch.nn.Linear(24, 2, bias=False)),
    "a linear that does more": lambda m: setattr(m, "classifier", Twice(24, 2)),
    "two modules": lambda m: setattr(m, "classifier", torch.nn.Sequential(torch.nn.Linear(24, 2), torch.nn.ReLU())),
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_modules_that_are_not_plain_are_called(change, taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    change(model)
    with torch.no_grad():
        got = model(**inputs).logits
    assert not taken()
    torch.testing.assert_close(got, model(**inputs).logits.detach())


def cut_ffn(model: CompactModel) -> None:
    ffn = model.layers[0].ffn
    for name in ("w_up", "b_up", "w_down"):
        setattr(ffn, name, torch.nn.Parameter(getattr(ffn, name)[:4].detach().clone()))


MISSHAPEN = {
    "a wider classifier": lambda m: setattr(m, "classifier", torch.nn.Linear(24_000, 2)),
    "narrower positions": lambda m: setattr(m.embeddings, "position", torch.nn.Embedding(40, 12)),
    "fewer dims than the layout has": cut_ffn,
    "a sublayer gone": lambda m: setattr(m.layers[0], "ffn", None),
}


@pytest.mark.parametrize("change", MISSHAPEN.values(), ids=MISSHAPEN)
def test_weights_of_other_shapes_are_refused(change, taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    change(model)
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        model(**inputs)
    assert not taken()


def test_outputs_do_not_follow_pytorchs_defaults(taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    with torch.no_grad():
        want = model(**inputs).logits
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            try:
                got = model(**inputs).logits
            finally:
                torch.set_default_dtype(torch.float32)
            assert torch.equal(got, want) and taken()
        with torch.device("meta"):
            assert torch.equal(model(**inputs).logits, want)


def test_a_model_of_another_type_and_back(taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    assert_same(model, inputs, taken)
    with torch.no_grad():
        for other in (torch.float64, torch.bfloat16):
            assert model.to(other)(**inputs).logits.dtype == other
            assert not taken()
    assert_same(model.float(), inputs, taken)


def test_what_needs_more_is_not_taken(taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    model(**inputs)
    assert not taken()  # it makes a graph for gradients
    with torch.no_grad():
        model(**inputs, masks=random_masks())
        assert not taken()
        model(**inputs, output_hidden_states=True)
        assert not taken()
        model(**inputs, position_ids=torch.arange(9).expand(3, 9))
        assert not taken()
        model(**{**inputs, "attention_mask": inputs["attention_mask"].bool()})
        assert not taken()
        with force_backend("reference"):
            model(**inputs)
        assert not taken()
        model.train()(**inputs)
        assert not taken()
        assert_same(model.eval(), inputs, taken)
        model_of(head="classification", embedding_size=16)(**inputs)
        assert not taken()


def test_what_follows_operators_sees_them(taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    with torch.no_grad():
        assert_same(model, inputs, taken)
        with FlopCounterMode(display=False):
            model(**inputs)
        assert not taken()
        traced = torch.fx.experimental.proxy_tensor.make_fx(lambda ids: model(input_ids=ids).logits)(
            inputs["input_ids"]
        )
        assert not taken()
        assert any("compact_encoder" in str(node.target) for node in traced.graph.nodes)


WRONG = {
    "a row without a token": (ValueError, "row 1", {"attention_mask": torch.tensor([[1] * 9, [0] * 9, [1] * 9])}),
    "an id beyond its table": (IndexError, "ids", {"input_ids": torch.full((3, 9), 97)}),
    "too many tokens": (ValueError, "40", {"input_ids": torch.ones(1, 41, dtype=torch.int64)}),
    "no token": (ValueError, "input_ids", {"input_ids": torch.ones(0, 4, dtype=torch.int64)}),
    "a mask of another shape": (ValueError, "attention_mask", {"attention_mask": torch.ones(3, 8, dtype=torch.int64)}),
}


@pytest.mark.parametrize(("error", "words", "changes"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_explained(error, words, changes):
    inputs = padded_inputs()
    given = changes if "input_ids" in changes else {"input_ids": inputs["input_ids"], **changes}
    with torch.no_grad(), pytest.raises(error, match=words):
        model_of(head="classification")(**given)


def test_copies_and_pickles_are_models_of_their_own(taken):
    model, inputs = model_of(head="classification"), padded_inputs()
    with torch.no_grad():
        want = model(**inputs).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            model.classifier.bias.add_(1)
            assert torch.equal(other(**inputs).logits, want)
            assert taken()


def test_models_are_not_kept_alive():
    model = model_of(head="classification")
    with torch.no_grad():
        model(**padded_inputs())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and len([key for key in direct._prepared if key is None]) == 0


def test_models_without_gradients_made_in_inference_mode(taken):
    with torch.inference_mode():
        model = model_of(head="classification")
        inputs = padded_inputs()
        assert_same(model, inputs, taken)
        assert_same(model, inputs, taken)
