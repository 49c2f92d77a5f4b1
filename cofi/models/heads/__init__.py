"""Task heads: a kind is one file here and one line in HEADS."""

from cofi.models.heads.embedding import EmbeddingHead
from cofi.models.heads.first_token import ClassificationHead, NoHead
from cofi.models.heads.head import Head
from cofi.models.heads.losses import IGNORED
from cofi.models.heads.span import QuestionAnsweringHead
from cofi.models.heads.tokens import TokenClassificationHead

HEADS: dict[str, Head] = {
    head.name: head
    for head in (NoHead(), ClassificationHead(), TokenClassificationHead(), QuestionAnsweringHead(), EmbeddingHead())
}

__all__ = ["HEADS", "IGNORED", "Head"]
