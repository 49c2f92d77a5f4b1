"""What every axis of every weight counts: the one table that folding and slicing read.

E hidden dims, H heads (an axis of heads has H * D rows, D of them to a head), I intermediate dims.
"""

from __future__ import annotations

HIDDEN, HEAD, INT = "hidden", "head", "int"
Axes = tuple[str | None, ...]

_LAYER_AXES: dict[str, Axes] = {
    "attention.w_qkv": (None, HEAD, HIDDEN),
    "attention.b_qkv": (None, HEAD),
    "attention.w_out": (HEAD, HIDDEN),
    "attention.b_out": (HIDDEN,),
    "attention.norm.weight": (HIDDEN,),
    "attention.norm.bias": (HIDDEN,),
    "ffn.w_up": (INT, HIDDEN),
    "ffn.b_up": (INT,),
    "ffn.w_down": (INT, HIDDEN),
    "ffn.b_down": (HIDDEN,),
    "ffn.norm.weight": (HIDDEN,),
    "ffn.norm.bias": (HIDDEN,),
}
_TABLE_AXES: dict[str, Axes] = {
    "embeddings.word.weight": (None, HIDDEN),
    "embeddings.position.weight": (None, HIDDEN),
    "embeddings.token_type.weight": (None, HIDDEN),
    "embeddings.norm.weight": (HIDDEN,),
    "embeddings.norm.bias": (HIDDEN,),
}
_PROJECTION_AXES: dict[str, Axes] = {
    "embeddings.projection.weight": (HIDDEN, None),
    "embeddings.projection.bias": (HIDDEN,),
}
_HEAD_AXES: dict[str, Axes] = {
    "pooler.weight": (None, HIDDEN),
    "pooler.bias": (None,),
    "qa_outputs.weight": (None, HIDDEN),
    "qa_outputs.bias": (None,),
    "classifier.bias": (None,),
}


def model_axes(*, projection: bool, pooler: bool) -> dict[str, Axes]:
    """Axes of the weights outside the layers, by parameter name.

    projection: the tables have a width of their own, no hidden dims, and a linear layer makes the hidden dims
    pooler:     the classifier reads the pooler's outputs, which are not pruned, and not the hidden dims
    """
    tables: dict[str, Axes] = _TABLE_AXES
    if projection:
        tables = {name: (None,) * len(axes) for name, axes in _TABLE_AXES.items()} | _PROJECTION_AXES
    return tables | _HEAD_AXES | {"classifier.weight": (None, None if pooler else HIDDEN)}


def layer_of(name: str) -> tuple[int, str] | None:
    """("layers.3.ffn.w_up") -> (3, "ffn.w_up"); None for a parameter outside the layers."""
    prefix, _, rest = name.partition(".")
    if prefix != "layers":
        return None
    index, _, rest = rest.partition(".")
    return int(index), rest


def parameter_axes(name: str, outside: dict[str, Axes]) -> Axes:
    """Axes of a parameter of the model. Raises ValueError for one this table does not know."""
    layer = layer_of(name)
    axes = outside.get(name) if layer is None else _LAYER_AXES.get(layer[1])
    if axes is None:
        raise ValueError(f"cannot prune a model with the parameter {name!r}: it is not known which dims it has")
    return axes
