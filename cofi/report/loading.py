"""How a reader runs the model of a run: the lines of Python, and what the hub calls its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Use(NamedTuple):
    """loader: class that loads the model; texts: what its tokenizer is given; pipeline_tag: the hub's word for it"""

    loader: str
    texts: str
    pipeline_tag: str


USES = {  # by the head of the saved model
    "classification": Use("CompactModelForSequenceClassification", '["A text."]', "text-classification"),
    "token_classification": Use("CompactModelForTokenClassification", '["A text."]', "token-classification"),
    "question_answering": Use(
        "CompactModelForQuestionAnswering", '["A question?"], ["A passage."]', "question-answering"
    ),
    "embedding": Use("CompactModel", '["A text."]', "sentence-similarity"),
}
ANY_USE = Use("CompactModel", '["A text."]', "feature-extraction")


def use_of(model_config: Mapping[str, Any]) -> Use:
    """How a model with this config.json is used."""
    return USES.get(str(model_config.get("head")), ANY_USE)


def loading_lines(model_config: Mapping[str, Any], path: str) -> str:
    """Lines of Python that load the model at `path` and run it."""
    use = use_of(model_config)
    return (
        "from transformers import AutoTokenizer\n"
        f"from cofi import {use.loader}\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({path!r})\n"
        f"model = {use.loader}.from_pretrained({path!r}).eval()\n"
        f'outputs = model(**tokenizer({use.texts}, return_tensors="pt", padding=True))'
    )
