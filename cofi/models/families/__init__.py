"""Families of Hugging Face encoders that `load_model` reads: one file each, one line here."""

from cofi.models.families.bert import BERT
from cofi.models.families.distilbert import DISTILBERT
from cofi.models.families.electra import ELECTRA
from cofi.models.families.family import Family, Source
from cofi.models.families.roberta import ROBERTA, XLM_ROBERTA

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ELECTRA)
}

__all__ = ["FAMILIES", "Family", "Source"]
