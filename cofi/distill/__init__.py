"""Distillation: of the predictions and, layer by layer, of the hidden states."""

from cofi.distill.layers import LayerDistillation, matched_loss, repeated_layers
from cofi.distill.losses import PREDICTION_LOSSES, Prediction, prediction_loss
from cofi.distill.matching import STRATEGIES, UNMATCHED, Strategy, teacher_layers

__all__ = [
    "PREDICTION_LOSSES",
    "STRATEGIES",
    "UNMATCHED",
    "LayerDistillation",
    "Prediction",
    "Strategy",
    "matched_loss",
    "prediction_loss",
    "repeated_layers",
    "teacher_layers",
]
