"""Data: tasks, their rows, token sequences, batches, predictions and scores."""

from cofi.data.batches import BatchPlan, TaskBatch, collate
from cofi.data.features import TokenizedSplit, load_tokenizer, tokenize
from cofi.data.load import Splits, ValidationSets, load_splits, load_validation
from cofi.data.metrics import compute_metrics, main_score
from cofi.data.predict import Evaluation, Predictions, check_length, evaluate_model, predict, score
from cofi.data.table import Table
from cofi.data.tasks import TASKS, Task, get_task

__all__ = [
    "TASKS",
    "BatchPlan",
    "Evaluation",
    "Predictions",
    "Splits",
    "Table",
    "Task",
    "TaskBatch",
    "TokenizedSplit",
    "ValidationSets",
    "check_length",
    "collate",
    "compute_metrics",
    "evaluate_model",
    "get_task",
    "load_splits",
    "load_tokenizer",
    "load_validation",
    "main_score",
    "predict",
    "score",
    "tokenize",
]
