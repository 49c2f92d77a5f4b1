"""ONNX graph of a `CompactModel`, node by node, over padded batches.

Written out instead of traced: ONNX Runtime's transformer optimizer knows the attention of Hugging Face's BERT by its
exact nodes, and no graph that torch.onnx.export makes today has them (its Transpose of the keys and its mask differ,
so no layer fuses). It also needs the package onnx alone. To fuse: optimize_model(file, "bert", 0, 0, opt_level=0) of
onnxruntime.transformers, with use_raw_attention_mask in its options unless all padding is on the right.
B batch, S padded length, E hidden, H heads, D head dim, I intermediate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from cofi.models import CompactModel
from cofi.models.layers import Attention, EncoderLayer, FeedForward, Norm
from cofi_kernels import EncoderLayout

OPSET = 17  # the first with LayerNormalization; every runtime in use reads it
IR_VERSION = 8  # the one of that opset
LOWEST = float(np.finfo(np.float32).min)
_Outputs = dict[str, list[str | int]]  # names and dims of those that a head adds


class GraphBuilder:
    """Collects nodes and weights. Every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self._counts: dict[str, int] = {}

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output, named after its kind unless `output` says otherwise."""
        number = self._counts[kind] = self._counts.get(kind, -1) + 1
        name = f"{kind}_{number}"
        result = output or f"{name}_output"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=name, **attributes))
        return result

    def weight(self, name: str, value: torch.Tensor) -> str:
        """A weight, in fp32 whatever the model's dtype."""
        array = np.ascontiguousarray(value.detach().to("cpu", torch.float32).numpy())
        self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def constant(self, value: float | int | list[int]) -> str:
        """A scalar, fp32 for a float and int64 for an int, or a vector of int64; stored once."""
        array = np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        name = f"constant_{value}".replace(" ", "")
        self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def linear(self, x: str, name: str, weight: torch.Tensor, bias: torch.Tensor, output: str | None = None) -> str:
        """x (..., In) @ weight (In, Out) + bias (Out,)."""
        product = self.op("MatMul", x, self.weight(f"{name}.weight", weight))
        return self.op("Add", product, self.weight(f"{name}.bias", bias), output=output)

    def norm(self, x: str, name: str, module: Norm, eps: float) -> str:
        """LayerNorm over the last axis."""
        weight, bias = self.weight(f"{name}.weight", module.weight), self.weight(f"{name}.bias", module.bias)
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)


def build_graph(model: CompactModel) -> onnx.ModelProto:
    """The whole model. Inputs (B, S) int64: input_ids, attention_mask and, where there are several, token_type_ids.

    attention_mask is 1 at tokens and 0 at padding, on either side. Outputs are those of `CompactModel` for padded
    input: logits (B, C), of token classification (B, S, C); or start_logits and end_logits (B, S); or
    sentence_embedding (B, E); or last_hidden_state (B, S, E), with pooler_output where the model has a pooler and no
    head.
    """
    graph = GraphBuilder()
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if model.config.type_vocab_size > 1 else [])]
    x = _embeddings(graph, model)
    x = _encoder(graph, model, x)
    outputs = _HEADS[model.config.head](graph, model, x)
    proto = helper.make_graph(
        graph.nodes,
        "cofi_compact",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        initializer=list(graph.weights.values()),
    )
    opset = [helper.make_operatorsetid("", OPSET)]
    return helper.make_model(proto, opset_imports=opset, ir_version=IR_VERSION, producer_name="cofi-kernels")


def _embeddings(graph: GraphBuilder, model: CompactModel) -> str:
    module, config = model.embeddings, model.config
    word = graph.op("Gather", graph.weight("embeddings.word", module.word.weight), "input_ids")
    table = module.position.weight[config.position_offset :]
    types = module.token_type
    if types is not None and config.type_vocab_size == 1:  # RoBERTa's tokenizer gives no types
        table = table + types.weight[0]
    position = graph.op("Gather", graph.weight("embeddings.position", table), _positions(graph))
    x = graph.op("Add", word, position)
    if types is not None and config.type_vocab_size > 1:
        rows = graph.weight("embeddings.token_type", types.weight)
        x = graph.op("Add", x, graph.op("Gather", rows, "token_type_ids"))
    x = graph.norm(x, "embeddings.norm", module.norm, config.layer_norm_eps)
    if module.projection is not None:
        x = graph.linear(x, "embeddings.projection", module.projection.weight.T, module.projection.bias)
    return x


def _positions(graph: GraphBuilder) -> str:
    """Positions count tokens, as in `pack_padded`: padding on either side changes nothing, and is at a legal row."""
    count = graph.op("CumSum", "attention_mask", graph.constant([1]))
    index = graph.op("Sub", count, graph.constant([1]))
    return graph.op("Max", index, graph.constant([0]))


def _encoder(graph: GraphBuilder, model: CompactModel, x: str) -> str:
    layout = model.layout
    mask_bias = _mask_bias(graph) if any(layout.heads) else ""
    for index, layer in enumerate(cast(Iterable[EncoderLayer], model.layers)):
        if layer.attention is not None:
            name, heads = f"layers.{index}.attention", layout.heads[index]
            y = _attention(graph, x, name, layer.attention, heads, layout, mask_bias)
            x = graph.norm(graph.op("Add", y, x), f"{name}.norm", layer.attention.norm, layout.eps)
        if layer.ffn is not None:
            name = f"layers.{index}.ffn"
            y = _ffn(graph, x, name, layer.ffn, layout.intermediate[index], layout.activation)
            x = graph.norm(graph.op("Add", y, x), f"{name}.norm", layer.ffn.norm, layout.eps)
    return x


def _mask_bias(graph: GraphBuilder) -> str:
    """(B, 1, 1, S): 0 at tokens, the lowest number at padding."""
    mask = graph.op("Unsqueeze", graph.op("Unsqueeze", "attention_mask", graph.constant([1])), graph.constant([2]))
    padding = graph.op("Sub", graph.constant(1.0), graph.op("Cast", mask, to=TensorProto.FLOAT))
    return graph.op("Mul", padding, graph.constant(LOWEST))


def _attention(
    graph: GraphBuilder, x: str, name: str, module: Attention, heads: int, layout: EncoderLayout, mask_bias: str
) -> str:
    """The sublayer's output before the residual sum; without heads its bias."""
    if not heads:
        return graph.weight(f"{name}.out.bias", module.b_out)
    # 0 copies a dim of the input; the optimizer reads H and D from this constant
    split = graph.constant([0, 0, heads, layout.head_dim])

    def project(part: int, letter: str, perm: list[int]) -> str:
        y = graph.linear(x, f"{name}.{letter}", module.w_qkv[part].T, module.b_qkv[part])
        return graph.op("Transpose", graph.op("Reshape", y, split), perm=perm)

    q, k, v = project(0, "q", [0, 2, 1, 3]), project(1, "k", [0, 2, 3, 1]), project(2, "v", [0, 2, 1, 3])
    scores = graph.op("Div", graph.op("MatMul", q, k), graph.constant(math.sqrt(layout.head_dim)))
    probabilities = graph.op("Softmax", graph.op("Add", scores, mask_bias), axis=-1)
    context = graph.op("Transpose", graph.op("MatMul", probabilities, v), perm=[0, 2, 1, 3])
    merged = graph.op("Reshape", context, graph.constant([0, 0, heads * layout.head_dim]))
    return graph.linear(merged, f"{name}.out", module.w_out, module.b_out)


def _ffn(graph: GraphBuilder, x: str, name: str, module: FeedForward, size: int, activation: str) -> str:
    """The sublayer's output before the residual sum; without intermediate dims its bias."""
    if not size:
        return graph.weight(f"{name}.down.bias", module.b_down)
    inner = _ACTIVATIONS[activation](graph, graph.linear(x, f"{name}.up", module.w_up.T, module.b_up))
    return graph.linear(inner, f"{name}.down", module.w_down, module.b_down)


def _gelu(graph: GraphBuilder, x: str) -> str:
    erf = graph.op("Erf", graph.op("Div", x, graph.constant(math.sqrt(2.0))))
    return graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, graph.constant(1.0))), graph.constant(0.5))


def _gelu_new(graph: GraphBuilder, x: str) -> str:
    cube = graph.op("Mul", graph.op("Pow", x, graph.constant(3.0)), graph.constant(0.044715))
    inner = graph.op("Mul", graph.op("Add", x, cube), graph.constant(math.sqrt(2.0 / math.pi)))
    gate = graph.op("Add", graph.op("Tanh", inner), graph.constant(1.0))
    return graph.op("Mul", graph.op("Mul", x, graph.constant(0.5)), gate)


def _relu(graph: GraphBuilder, x: str) -> str:
    return graph.op("Relu", x)


def _tanh(graph: GraphBuilder, x: str) -> str:
    return graph.op("Tanh", x)


_ACTIVATIONS: dict[str, Callable[[GraphBuilder, str], str]] = {"gelu": _gelu, "gelu_new": _gelu_new, "relu": _relu}
_POOLERS: dict[str, Callable[[GraphBuilder, str], str]] = {"tanh": _tanh, "relu": _relu, "gelu": _gelu}


def _no_head(graph: GraphBuilder, model: CompactModel, x: str) -> _Outputs:
    """The last states, zeros at padding, and what a pooler makes of the first token."""
    graph.op("Mul", x, _unpadded(graph, TensorProto.FLOAT), output="last_hidden_state")
    outputs: _Outputs = {"last_hidden_state": ["batch", "sequence", model.config.hidden_size]}
    if model.pooler is not None:
        pooled = _pool(graph, _first_token(graph, x), model.pooler, model.config.pooler)
        graph.op("Identity", pooled, output="pooler_output")
        outputs["pooler_output"] = ["batch", model.pooler.out_features]
    return outputs


def _classification_head(graph: GraphBuilder, model: CompactModel, x: str) -> _Outputs:
    features, linear = _first_token(graph, x), cast(nn.Linear, model.classifier)
    if model.pooler is not None:
        features = _pool(graph, features, model.pooler, model.config.pooler)
    graph.linear(features, "classifier", linear.weight.T, linear.bias, output="logits")
    return {"logits": ["batch", linear.out_features]}


def _pool(graph: GraphBuilder, first: str, pooler: nn.Linear, activation: str) -> str:
    return _POOLERS[activation](graph, graph.linear(first, "pooler", pooler.weight.T, pooler.bias))


def _embedding_head(graph: GraphBuilder, model: CompactModel, x: str) -> _Outputs:
    """The mean of the tokens' states or the first one's, of unit length."""
    if model.config.pooling == "first":
        features = _first_token(graph, x)
    else:
        is_token = _unpadded(graph, TensorProto.FLOAT)
        axis = graph.constant([1])
        total = graph.op("ReduceSum", graph.op("Mul", x, is_token), axis, keepdims=0)
        features = graph.op("Div", total, graph.op("ReduceSum", is_token, axis, keepdims=0))
    length = graph.op("ReduceL2", features, axes=[1], keepdims=1)
    graph.op("Div", features, graph.op("Max", length, graph.constant(1e-12)), output="sentence_embedding")
    return {"sentence_embedding": ["batch", model.config.hidden_size]}


def _token_head(graph: GraphBuilder, model: CompactModel, x: str) -> _Outputs:
    """Logits of every token; zeros at padding."""
    linear = cast(nn.Linear, model.classifier)
    logits = graph.linear(x, "classifier", linear.weight.T, linear.bias)
    graph.op("Mul", logits, _unpadded(graph, TensorProto.FLOAT), output="logits")
    return {"logits": ["batch", "sequence", linear.out_features]}


def _span_head(graph: GraphBuilder, model: CompactModel, x: str) -> _Outputs:
    """Logits of start and end; the lowest number at padding."""
    is_token, linear = _unpadded(graph, TensorProto.BOOL), cast(nn.Linear, model.qa_outputs)
    both = graph.linear(x, "qa_outputs", linear.weight.T, linear.bias)
    both = graph.op("Where", is_token, both, graph.constant(LOWEST))
    for column, name in enumerate(("start_logits", "end_logits")):
        graph.op("Gather", both, graph.constant(column), axis=2, output=name)
    return {"start_logits": ["batch", "sequence"], "end_logits": ["batch", "sequence"]}


_HEADS: dict[str, Callable[[GraphBuilder, CompactModel, str], _Outputs]] = {
    "none": _no_head,
    "classification": _classification_head,
    "token_classification": _token_head,
    "question_answering": _span_head,
    "embedding": _embedding_head,
}


def _unpadded(graph: GraphBuilder, dtype: int) -> str:
    """attention_mask (B, S) as (B, S, 1) of another type."""
    return graph.op("Unsqueeze", graph.op("Cast", "attention_mask", to=dtype), graph.constant([2]))


def _first_token(graph: GraphBuilder, x: str) -> str:
    """(B, E): each row's state at its first token, which padding on the left moves."""
    first = graph.op("ArgMax", "attention_mask", axis=1, keepdims=1)
    return graph.op("GatherND", x, first, batch_dims=1)
