"""The eight GLUE tasks that have a usable validation set (Wang et al. 2019), with GLUE's own metrics.

Label names are in the order of the Hugging Face data set's integers. The main metric is what the CoFi paper reports:
accuracy, Matthews correlation for CoLA, the mean of both correlations for STS-B.
"""

from __future__ import annotations

from cofi.data.task import HubSource, Task

_HUB_PATH = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")
_EQUIVALENCE = ("not_equivalent", "equivalent")


def _task(
    name: str,
    columns: tuple[str, str | None],
    label_names: tuple[str, ...] | None,
    metrics: tuple[str, ...] = ("accuracy",),
    main_metric: str = "accuracy",
) -> Task:
    return Task(
        name=name,
        kind="classification" if label_names is not None else "regression",
        text_column=columns[0],
        pair_column=columns[1],
        label_names=label_names,
        metrics=metrics,
        main_metric=main_metric,
        hub=HubSource(_HUB_PATH, name),
    )


_F1 = ("accuracy", "f1", "combined")
_CORRELATIONS = ("pearson", "spearmanr", "combined")

SST2 = _task("sst2", ("sentence", None), ("negative", "positive"))
COLA = _task(
    "cola", ("sentence", None), ("unacceptable", "acceptable"), ("matthews_correlation",), "matthews_correlation"
)
MRPC = _task("mrpc", ("sentence1", "sentence2"), _EQUIVALENCE, _F1)
QQP = _task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _F1)
QNLI = _task("qnli", ("question", "sentence"), _ENTAILMENT)
RTE = _task("rte", ("sentence1", "sentence2"), _ENTAILMENT)
STSB = _task("stsb", ("sentence1", "sentence2"), None, _CORRELATIONS, "combined")
MNLI = Task(
    name="mnli",
    kind="classification",
    text_column="premise",
    pair_column="hypothesis",
    label_names=("entailment", "neutral", "contradiction"),
    metrics=("accuracy",),
    main_metric="accuracy",
    hub=HubSource(_HUB_PATH, "mnli", validation="validation_matched"),
    extra_validation=(("mismatched", "validation_mismatched"),),
)

GLUE_TASKS = (SST2, MNLI, QQP, QNLI, MRPC, COLA, STSB, RTE)
