"""Encoders: one class for dense, masked and pruned models, and the families it can be loaded from.

Importing this package registers the model with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from cofi.models.config import CompactConfig
from cofi.models.load import LoadedModel, load_model
from cofi.models.model import (
    CompactModel,
    CompactModelForQuestionAnswering,
    CompactModelForSequenceClassification,
    CompactModelForTokenClassification,
    in_precision,
)
from cofi.models.output import CompactOutput
from cofi.models.packed import PackedBatch, from_lists, pack_padded, pad_packed
from cofi.models.replay import ReplayedModel
from cofi.models.save import save_model

AutoConfig.register(CompactConfig.model_type, CompactConfig, exist_ok=True)
AutoModel.register(CompactConfig, CompactModel, exist_ok=True)
AutoModelForSequenceClassification.register(CompactConfig, CompactModelForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(CompactConfig, CompactModelForTokenClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(CompactConfig, CompactModelForQuestionAnswering, exist_ok=True)

__all__ = [
    "CompactConfig",
    "CompactModel",
    "CompactModelForQuestionAnswering",
    "CompactModelForSequenceClassification",
    "CompactModelForTokenClassification",
    "CompactOutput",
    "LoadedModel",
    "PackedBatch",
    "ReplayedModel",
    "from_lists",
    "in_precision",
    "load_model",
    "pack_padded",
    "pad_packed",
    "save_model",
]
