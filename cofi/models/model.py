"""The one encoder of the project: dense teacher, dense student under masks, and the pruned model.

B sequences, T packed tokens, S padded length, E hidden, L layers, C labels.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

import cofi_kernels
from cofi.models.border import Border
from cofi.models.checkpoint import check_directory, check_loading
from cofi.models.config import CompactConfig
from cofi.models.direct import run_direct
from cofi.models.dropout import draw_dropout_state, dropout_sites
from cofi.models.embeddings import Embeddings
from cofi.models.heads import HEADS, Head
from cofi.models.heads.head import HEAD_SITES
from cofi.models.layers import SITES_PER_LAYER, WEIGHTS_PER_SUBLAYER, Attention, EncoderLayer, FeedForward
from cofi.models.output import CompactOutput
from cofi.models.packed import PackedBatch

if TYPE_CHECKING:
    from cofi.masks.masks import Masks

_NOT_QUANTIZED = "inference_precision {} needs torch.no_grad(), no masks and no hidden states: this call ran in fp32"


class CompactModel(PreTrainedModel):
    """A post-LN encoder with at most one task head; any width in any layer.

    `from_pretrained` reads directories written by `save_pretrained` and raises UserError when a weight is missing,
    unexpected or of another shape than config.json says. `load_model` reads Hugging Face's own models.
    """

    config_class = CompactConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    required_head: ClassVar[str | None] = None  # set by the subclasses of the Auto classes

    def __init__(self, config: CompactConfig) -> None:
        if self.required_head is not None:
            config = _with_head(config, self.required_head)
        config.check()
        super().__init__(config)
        self.layout = config.layout()
        self.embeddings = Embeddings(config)
        sizes = zip(
            _present(self.layout.heads, self.layout.mha),
            _present(self.layout.intermediate, self.layout.ffn),
            strict=True,
        )
        self.layers = nn.ModuleList(EncoderLayer(config, heads, intermediate) for heads, intermediate in sizes)
        self.pooler = nn.Linear(config.hidden_size, config.pooler_size) if config.has_pooler else None
        features = config.pooler_size if config.has_pooler else config.hidden_size
        last = self.head.module
        self.classifier = nn.Linear(features, cast(int, config.num_labels)) if last == "classifier" else None
        self.qa_outputs = nn.Linear(config.hidden_size, 2) if last == "qa_outputs" else None
        self.post_init()

    @property
    def head(self) -> Head:
        """The kind of head, whose modules are `pooler`, `classifier` and `qa_outputs`."""
        return HEADS[self.config.head]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of `initializer_range`, zero biases, unit LayerNorms; weights already loaded are kept."""
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("b"):
                init.zeros_(parameter)
            elif isinstance(module, (nn.Linear, nn.Embedding, Attention, FeedForward)):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
            else:
                init.ones_(parameter)

    def set_inference_precision(self, precision: str) -> None:
        """Compute in "fp32", "int8" or "bf16" from now on, see CompactConfig.inference_precision. Raises ValueError."""
        self.config.inference_precision = precision
        self.config.check()
        self.layout = self.config.layout()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word

    def set_input_embeddings(self, value: nn.Module) -> None:
        if not isinstance(value, nn.Embedding):
            raise TypeError(f"value must be an nn.Embedding, got {type(value).__name__}")
        self.embeddings.word = value

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but whatever does not fit is an error: UserError naming the first mismatch."""
        wants_info = kwargs.pop("output_loading_info", False)
        if pretrained_model_name_or_path is not None:  # else a configuration and weights are given
            check_directory(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""), cls)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        check_loading(pretrained_model_name_or_path, info)
        for parameter in model.parameters():
            # from a file they lie at any address, and a BLAS rounds differently there: a loaded model would not repeat
            # what the saved one gave
            parameter.data = parameter.data.clone()
        return (model, info) if wants_info else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        batch: PackedBatch | None = None,
        masks: Masks | None = None,
        output_hidden_states: bool | None = None,
        dropout_state: Tensor | None = None,
        compute_dtype: torch.dtype | None = None,
        return_dict: bool | None = None,
    ) -> CompactOutput | tuple[Any, ...]:
        """Run the encoder and its head on padded input or on a packed batch; exactly one of the two is given.

        input_ids, attention_mask, token_type_ids, position_ids: (B, S), padded on either side; see `pack_padded`
        labels: (B,) of the classification head; (B, S), or (T,) for packed input, of the token classification head,
            -100 for a token that does not count; (B, E) of the embedding head, which are to be near
        start_positions, end_positions: (B,) columns of the QA head
        masks: applied as in CoFi; None runs the plain encoder. Needs layers of one size.
        dropout_state: int64 (2,) [seed, offset], used in training mode; drawn from torch's generator when None
        compute_dtype: of the states, from the embeddings' LayerNorm on; the parameters, in fp32, are cast to it where
            they are used, as under autocast. None is their own. For training: under no_grad a model must have one dtype
        Raises ValueError for inputs that do not fit each other or the model.
        """
        keep = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        if (start_positions is None) != (end_positions is None):
            raise ValueError("start_positions and end_positions must be given together")
        fields: dict[str, Any] | None = None
        ordinary = keep or self.training or torch.is_grad_enabled()
        if not ordinary and batch is masks is position_ids is start_positions is end_positions is None:
            fields = run_direct(self, input_ids, attention_mask, token_type_ids)
        if fields is None:
            border = Border.enter(batch, input_ids, attention_mask, token_type_ids, position_ids)
            self._check_positions(border.batch, position_ids)
            sites = self._sites(dropout_state, border.batch.input_ids.device)
            states = self._encode(border.batch, masks, sites, keep, compute_dtype)
            packed = self.head.packed(self, states[-1], border.batch, sites)
            fields = {**self.head.leave(packed, border)}
            if start_positions is not None and end_positions is not None:
                fields["loss"] = self.head.loss_of_spans(packed, border, start_positions, end_positions)
            all_states = tuple(border.leave(state) for state in states)
            fields |= {"last_hidden_state": all_states[-1], "hidden_states": all_states if keep else None}
        if labels is not None:
            fields["loss"] = self.head.loss(self, fields, labels)
        output = CompactOutput(**fields)
        plain = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if plain else output

    def _check_positions(self, batch: PackedBatch, position_ids: Tensor | None) -> None:
        longest = self.config.longest
        if position_ids is None and batch.max_seqlen > longest:
            raise ValueError(f"sequences must have at most {longest} tokens, got {batch.max_seqlen}")

    def _sites(self, state: Tensor | None, device: torch.device) -> Tensor | None:
        drops = self.config.hidden_dropout_prob or self.config.attention_probs_dropout_prob or self.config.head_dropout
        if not self.training or not drops:
            return None
        state = draw_dropout_state(device) if state is None else state
        return dropout_sites(state, 1 + SITES_PER_LAYER * len(self.layers) + HEAD_SITES)

    def _encode(
        self, batch: PackedBatch, masks: Masks | None, sites: Tensor | None, keep: bool, dtype: torch.dtype | None
    ) -> list[Tensor]:
        """The states asked for, the last one at the end."""
        if masks is not None:
            masks.check(self.config.shape())
        x = self.embeddings(
            batch, None if masks is None else masks.z_hidden, None if sites is None else sites[0], dtype
        )
        if not (keep or self.training or masks is not None or torch.is_grad_enabled()):
            sequences = (batch.cu_seqlens, batch.max_seqlen)
            return [cofi_kernels.compact_encoder(x, *sequences, self.encoder_weights(), self.layout, overwrite_x=True)]
        if self.layout.precision != "fp32" and not self.training:
            warnings.warn(_NOT_QUANTIZED.format(self.layout.precision), RuntimeWarning, stacklevel=3)
        states = [x]
        each = [None] * len(self.layers) if masks is None else masks.layers(len(self.layers))
        for i, layer in enumerate(self.layers):
            first = 1 + SITES_PER_LAYER * i
            layer_sites = None if sites is None else sites[first : first + SITES_PER_LAYER]
            x = layer(x, batch, each[i], layer_sites)
            states = [*states, x] if keep else [x]
        return states

    def encoder_weights(self) -> list[Tensor]:
        """Weights of all layers, flat, in the order of `compact_encoder`; those of a removed sublayer are empty."""
        removed = [self.embeddings.word.weight[:0]] * WEIGHTS_PER_SUBLAYER
        weights: list[Tensor] = []
        for layer in cast("Iterable[EncoderLayer]", self.layers):
            for module in (layer.attention, layer.ffn):
                weights += removed if module is None else module.weights()
        return weights


class CompactModelForSequenceClassification(CompactModel):
    """`CompactModel` with the classification head, for AutoModelForSequenceClassification."""

    required_head = "classification"


class CompactModelForTokenClassification(CompactModel):
    """`CompactModel` with the token classification head, for AutoModelForTokenClassification."""

    required_head = "token_classification"


class CompactModelForQuestionAnswering(CompactModel):
    """`CompactModel` with the question answering head, for AutoModelForQuestionAnswering."""

    required_head = "question_answering"


def in_precision(model: CompactModel, precision: str) -> CompactModel:
    """The same weights, computed in another precision."""
    other = copy.copy(model)
    other.config = copy.deepcopy(model.config)
    other.set_inference_precision(precision)
    return other


def _with_head(config: CompactConfig, head: str) -> CompactConfig:
    if config.head == head:
        return config
    if config.head != "none":
        raise ValueError(f"config.head must be {head!r} or 'none' for this class, got {config.head!r}")
    config = copy.deepcopy(config)
    config.head = head
    return config


def _present(sizes: tuple[int, ...], alive: tuple[bool, ...]) -> list[int | None]:
    return [size if keep else None for size, keep in zip(sizes, alive, strict=True)]
