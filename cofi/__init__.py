"""Structured pruning of Transformer encoders. Importing it registers the compact model with transformers."""

import cofi.startup  # noqa: F401  # first: what follows takes seconds
from cofi.memory import keep_freed_memory
from cofi.models import (
    CompactConfig,
    CompactModel,
    CompactModelForQuestionAnswering,
    CompactModelForSequenceClassification,
    CompactModelForTokenClassification,
)
from cofi_kernels import __version__

__all__ = [
    "CompactConfig",
    "CompactModel",
    "CompactModelForQuestionAnswering",
    "CompactModelForSequenceClassification",
    "CompactModelForTokenClassification",
    "__version__",
    "keep_freed_memory",
]
