"""Configuration of the one encoder class: a dense model is the case where every layer has the same width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from cofi.models.config_values import (
    PROBLEM_TYPES,
    check_labels,
    check_layer,
    check_per_layer,
    check_scalars,
    problem_of,
)
from cofi.models.heads import HEADS

if TYPE_CHECKING:
    from cofi.masks.shape import ModelShape
    from cofi_kernels import EncoderLayout


class CompactConfig(PreTrainedConfig):
    """Sizes of a BERT-like post-LN encoder whose layers may differ in width.

    hidden_size, head_dim, num_hidden_layers: one value for the model. head_dim defaults to
        hidden_size / num_attention_heads; give it where hidden dims were pruned.
    num_attention_heads, intermediate_size: of every layer that `per_layer_config` does not list; 0 removes the
        sublayer (it becomes the identity).
    per_layer_config: transformers' sparse schema {layer: {field: value}}; fields are num_attention_heads,
        intermediate_size, attention_bias_only, ffn_bias_only. With `*_bias_only` a sublayer without units keeps its
        output bias and its LayerNorm.
    max_position_embeddings: rows of the position table; position p reads row p + position_offset.
    type_vocab_size: 0 for families without token types.
    embedding_size: width of the tables. embedding_projection: whether a linear layer makes the hidden dims of it
        (ELECTRA); by default where the widths differ. Pruned hidden dims may leave a projection between equal widths.
    head: "none", "classification", "token_classification", "question_answering" or "embedding". pooler: activation of
        the dense layer between the first token and the classifier (or the pooler output of a model without head), of
        `pooler_size` outputs.
    pooling: what makes the sentence embedding of the last hidden states, their "mean" or the "first" one. The
        embedding is of unit length, and has no weights of its own. max_seq_length: tokens at which Sentence
        Transformers cuts a text, where that is not all that the model reads.
    classifier_dropout: before the last linear layer of the head; None means hidden_dropout_prob for classification
        of sequences or tokens, and none for question answering. pooler_dropout: the same dropout also before the
        pooler's dense layer.
    inference_precision: "fp32"; or, for the products of the encoder's weights under torch.no_grad() on a CPU, "int8"
        (quantized per output channel and per token, no calibration) or "bf16". Files keep the weights as they are.
    problem_type: "single_label_classification" (or, for short, "classification"), "multi_label_classification" (or
        "multi_label"), "regression" or None (regression when num_labels is 1, else a single label).

    Raises ValueError naming the field, the rule and the value.
    """

    model_type: ClassVar[str] = "cofi_compact"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int = None  # type: ignore[assignment]  # filled by _fill_sizes
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    position_offset: int = 0
    type_vocab_size: int = 2
    embedding_size: int = None  # type: ignore[assignment]  # filled by _fill_sizes
    embedding_projection: bool = None  # type: ignore[assignment]  # filled by _fill_sizes
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    initializer_range: float = 0.02
    head: str = "none"
    pooler: str = "tanh"
    pooler_size: int = None  # type: ignore[assignment]  # filled by _fill_sizes
    pooler_dropout: bool = False
    pooling: str = "mean"
    max_seq_length: int | None = None
    attention_bias_only: bool = False
    ffn_bias_only: bool = False
    source_model_type: str | None = None
    inference_precision: str = "fp32"

    def __post_init__(self, **kwargs: Any) -> None:
        check_scalars(self.__dict__)
        check_labels(kwargs.get("num_labels"), self.__dict__.get("id2label"))
        check_per_layer(kwargs.get("per_layer_config"), self.num_hidden_layers)
        self._fill_sizes()
        super().__post_init__(**kwargs)
        self.check()

    def _fill_sizes(self) -> None:
        if self.head_dim is None:
            self.head_dim = _default_head_dim(self.hidden_size, self.num_attention_heads)
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.embedding_projection is None:
            self.embedding_projection = self.embedding_size != self.hidden_size
        if self.pooler_size is None:
            self.pooler_size = self.hidden_size

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "problem_type" and value is not None:
            if not isinstance(value, str) or value not in PROBLEM_TYPES:
                raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {value!r}")
            value = PROBLEM_TYPES[value]
        try:
            super().__setattr__(key, value)
        except StrictDataclassError as error:  # some versions of transformers check the types of their own fields
            raise ValueError(str(error)) from error

    def __eq__(self, other: object) -> bool:
        # the dataclass comparison reads every field, which transformers forbids where layers differ
        return isinstance(other, CompactConfig) and self.to_dict() == other.to_dict()

    def check(self) -> None:
        """Check every field again: attributes of a configuration may have been set after its construction."""
        check_scalars(self.__dict__)
        check_labels(self.num_labels, self.id2label)
        if self.is_regression and self.num_labels != 1:
            raise ValueError(f"num_labels must be 1 for regression, got {self.num_labels}")
        if self.embedding_size != self.hidden_size and not self.embedding_projection:
            raise ValueError(
                f"embedding_projection must be true where embedding_size ({self.embedding_size}) is not hidden_size "
                f"({self.hidden_size})"
            )
        for layer, config in enumerate(self.per_layer_config):
            check_layer(config.__dict__, f"layer {layer}: ")
        self.layout()  # which knows what int8 cannot sum

    @property
    def problem(self) -> str:
        """What the classification head predicts, in transformers' words: `problem_type`, or what None stands for."""
        return problem_of(self.problem_type, self.num_labels)

    @property
    def is_regression(self) -> bool:
        """Whether the classification head predicts one number, trained by squared error."""
        return self.problem == "regression"

    @property
    def longest(self) -> int:
        """Tokens that a sequence may have."""
        return self.max_position_embeddings - self.position_offset

    @property
    def has_pooler(self) -> bool:
        """Whether a dense layer follows the first token; the other heads read the tokens themselves."""
        return self.pooler != "none" and HEADS[self.head].has_pooler

    @property
    def head_dropout(self) -> float:
        """Dropout probability before the last linear layer of the head."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return self.hidden_dropout_prob if HEADS[self.head].is_classifier else 0.0

    def layout(self) -> EncoderLayout:
        """Widths of every layer as `cofi_kernels.compact_encoder` takes them."""
        from cofi_kernels import EncoderLayout

        layers = list(self.per_layer_config)
        heads = tuple(layer.num_attention_heads for layer in layers)
        intermediate = tuple(layer.intermediate_size for layer in layers)
        return EncoderLayout(
            heads=heads,
            intermediate=intermediate,
            mha=tuple(n > 0 or layer.attention_bias_only for n, layer in zip(heads, layers, strict=True)),
            ffn=tuple(n > 0 or layer.ffn_bias_only for n, layer in zip(intermediate, layers, strict=True)),
            head_dim=self.head_dim,
            eps=self.layer_norm_eps,
            activation=self.hidden_act,
            precision=self.inference_precision,
        )

    def shape(self) -> ModelShape:
        """Sizes that masks are made for. Raises ValueError when the layers differ: such a model is pruned already."""
        from cofi.masks.shape import ModelShape

        layout = self.layout()
        if len(set(layout.heads)) > 1 or len(set(layout.intermediate)) > 1:
            raise ValueError(
                f"layers must be of one size to be masked, got {layout.heads} heads, {layout.intermediate}"
            )
        return ModelShape(
            n_layers=self.num_hidden_layers,
            n_heads=layout.heads[0],
            head_dim=layout.head_dim,
            d_hidden=self.hidden_size,
            d_int=layout.intermediate[0],
        )


def _default_head_dim(hidden_size: int, n_heads: int) -> int:
    if n_heads == 0 or hidden_size % n_heads:
        raise ValueError(
            "head_dim must be given where hidden_size is no multiple of num_attention_heads, "
            f"got hidden_size {hidden_size} and num_attention_heads {n_heads}"
        )
    return hidden_size // n_heads
