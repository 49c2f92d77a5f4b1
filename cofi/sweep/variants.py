"""Variants of a run: named sets of settings, among them the ablations of the paper and the baselines. One line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """Settings by field of TrainConfig; they replace those of the recipe and of the command line."""

    settings: dict[str, Any]
    meaning: str


# Weights of the losses sum to 1, as in the paper: without one of them the other has the weight 1.
VARIANTS: dict[str, Variant] = {
    "default": Variant({}, "the recipe as it is"),
    "gradual": Variant({"recipe": "gradual"}, "gates that all start alike, and a ramp; in as many epochs"),
    "official": Variant({"recipe": "official"}, "the paper's settings; epochs and --model too where no flag sets them"),
    "no-hidden": Variant({"mask_kinds": "head,int,mha,ffn"}, "no masks of hidden dims"),
    "no-layer": Variant({"mask_kinds": "head,int,hidden"}, "no masks of whole attention and FFN sublayers"),
    "no-hidden-no-layer": Variant({"mask_kinds": "head,int"}, "masks of heads and intermediate dims alone"),
    "no-layer-distill": Variant({"layer_weight": 0.0, "prediction_weight": 1.0}, "distil the predictions alone"),
    "no-prediction-distill": Variant({"layer_weight": 1.0, "prediction_weight": 0.0}, "distil the layers alone"),
    "no-distill": Variant({"distill": False}, "train on the labels alone"),
    "fixed-matching": Variant({"matching": "fixed"}, "a student layer learns from the teacher layer of its depth"),
    "no-finetune": Variant({"finetune_epochs": 0.0}, "stop after pruning"),
    "drop-top-layers": Variant({"method": "drop-top-layers"}, "baseline: keep the lowest layers"),
    "drop-every-other-layer": Variant({"method": "drop-every-other-layer"}, "baseline: keep evenly spaced layers"),
    "prune-heads": Variant({"method": "prune-heads"}, "baseline: heads by importance, as many in every layer"),
    "prune-ffn": Variant({"method": "prune-ffn"}, "baseline: intermediate dims by importance, as many in every layer"),
    "fisher": Variant({"method": "fisher"}, "baseline: heads and dims of all layers by Fisher scores"),
    "small-student": Variant(
        {"method": "small-student", "freeze_embeddings": False}, "baseline: a fixed small student of TinyBERT's shape"
    ),
    "movement": Variant({"method": "movement", "recipe": "gradual"}, "baseline: heads and dims by movement scores"),
}
GROUPS = {
    "ablations": tuple(name for name in VARIANTS if name.startswith("no-")) + ("fixed-matching",),
    "baselines": tuple(name for name, variant in VARIANTS.items() if "method" in variant.settings),
}
