"""Everything one run is told: a typed, validated, serialisable record. Each field is a command-line flag."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cofi.baselines import COFI, CUT_HIDDEN, METHODS
from cofi.distill import STRATEGIES
from cofi.errors import UserError
from cofi.masks import parse_kinds, set_by_worth
from cofi.train.ranges import check_ranges, flag


def _f(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of CoFi. Epochs may be fractions; learning rates are peaks; sparsity counts the encoder's weights."""

    # what is pruned
    recipe: str = _f("demo", "named set of settings that the other flags override")
    task: str = _f("pydocs", "task name; with --data also the name of a folder that holds GLUE-like files")
    model: str = _f("sentence-transformers/all-MiniLM-L6-v2", "checkpoint to start from: hub id or directory")
    teacher: str | None = _f(
        None,
        "fine-tuned checkpoint to distil from; by default --model, fine-tuned first if need be. Without --model it is "
        "what is pruned as well, unless the recipe names a model",
    )
    output: str | None = _f(None, "directory of the run; by default runs/<task>")
    teacher_only: bool = _f(
        False, "stop when the teacher is there: fine-tuned, evaluated and saved in <output>/teacher"
    )
    resume: bool = _f(False, "continue the run in --output where it stopped")
    overwrite: bool = _f(False, "delete a run that --output already holds")
    seed: int = _f(57, "seed of initialisation, data order, dropout and gates")
    device: str = _f("auto", "cpu, cuda, cuda:1 ...; auto takes a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16"] = _f(
        "auto",
        "what models compute in while training; auto: bf16 on a GPU, else fp32. Weights and losses stay fp32. On a CPU "
        "bf16 is for the factors of matrix products alone, and needs a processor with AMX",
    )
    cuda_graphs: bool = _f(True, "on a GPU, run recurring forms of batches as CUDA graphs")
    threads: int | None = _f(None, "CPU threads; by default what PyTorch chooses")

    # data
    data: str | None = _f(None, "directory with <task>/train.parquet and <task>/validation.parquet; by default the hub")
    train_file: str | None = _f(None, "Parquet, CSV or JSONL file to train on instead")
    validation_file: str | None = _f(None, "Parquet, CSV or JSONL file to evaluate on instead")
    validation_fraction: float | None = _f(
        None, "share of the training rows to hold out and evaluate on, instead of validation rows of their own"
    )
    text_column: str | None = _f(None, "column of the text, or of lists of words")
    pair_column: str | None = _f(None, "column of the second text, for pairs")
    label_column: str | None = _f(
        None, "column of the label, or of the words' labels; with commas the columns of several, of 0 and 1"
    )
    task_kind: Literal["auto", "classification", "multi_label", "regression", "token_classification", "embedding"] = _f(
        "auto",
        "what the labels of a task of your own are (multi_label: any number of classes a row; token_classification: "
        "one a word); or embedding, which needs none: of an encoder of sentences, whose embeddings the small model "
        "learns to repeat, on the texts of any task",
    )
    max_train_samples: int | None = _f(None, "train on the first N rows only")
    max_eval_samples: int | None = _f(None, "evaluate on the first N rows only")
    max_length: int | None = _f(None, "tokens a text is cut to; by default the task's")
    doc_stride: int | None = _f(None, "overlap in tokens of the windows of a long passage (question answering)")
    group_by_length: bool = _f(False, "put texts of similar length in one batch")

    augment: int = _f(
        0,
        "versions of each row, beside itself, in which words are replaced by near ones; epochs show them in turn after "
        "the teacher's fine-tuning, so steps stay as many. Labels stay those of the row: meant for distillation",
    )
    augment_probability: float = _f(0.4, "chance of a word to be replaced in a version")
    augment_mlm: str | None = _f(
        None,
        "masked language model (hub id or directory, of the same vocabulary) to take words from that fit the sentence; "
        "by default the nearest in the teacher's embeddings",
    )

    # what may be pruned, and how far
    method: str = _f("cofi", "how it is found out what to cut; the others are baselines, with as many epochs in all")
    sparsity: float = _f(0.95, "share of the encoder's weights to remove, in [0, 1)")
    target_speedup: float | None = _f(
        None, "instead of --sparsity: how many times as fast as the dense model to be, by --device-profile"
    )
    device_profile: str | None = _f(
        None, "latencies to count with --target-speedup: a file of python -m cofi.profile, or a name in profiles/"
    )
    constraint: Literal["auto", "expected", "kept"] = _f(
        "auto",
        "size that is held to the target: expected, of the sampled masks (the paper), or kept, of the masks that are "
        "exported; auto: kept with --target-speedup, else expected",
    )
    mask_kinds: str = _f(
        "all",
        "kinds of masks, comma-separated: head, int, hidden, mha, ffn; or all, which is all but hidden for --task-kind "
        "embedding",
    )
    start_sparsity: float = _f(
        0.0, "where the ramp of the sparsity target starts; there is none with --gate-prior fisher"
    )
    sparsity_epsilon: float = _f(0.01, "a model counts once its sparsity is within this of the target")
    init_mean: float = _f(
        10.0, "mean of the gates' initial log-odds (clamped to log 100); with --gate-prior fisher not of heads"
    )
    int_init_mean: float = _f(0.0, "the same for intermediate dims, without --gate-prior; 0 is the official setting")
    gate_prior: Literal["none", "fisher"] = _f(
        "none",
        "where gates of heads and intermediate dims start: none, one mean for all of a kind (the paper), or fisher, a "
        "structure that Fisher scores choose and learning changes; the target then leaps, see --gate-prior-rounds",
    )
    gate_prior_rounds: int = _f(
        1,
        "with --gate-prior: times that gates are set by scores of the model as it is then, each time closer to the "
        "target, from the first step to the end of --sparsity-warmup-epochs; 1: once, on target",
    )
    rounding: Literal["expected", "threshold"] = _f(
        "expected",
        "which units the exported masks keep: in each layer as many as are expected to stay (the paper; a twentieth of "
        "the fully shut ones too), or threshold: those whose chance is above one half, and no sublayer without any",
    )

    # phases
    teacher_epochs: float = _f(3.0, "fine-tuning of the teacher, when it must be made")
    distil_epochs: float | None = _f(
        None, "distillation before pruning; by default 0 for a student from the teacher, else 1"
    )
    prune_epochs: float = _f(19.0, "pruning with distillation")
    sparsity_warmup_epochs: float = _f(2.0, "part of pruning in which the sparsity target rises to its goal")
    sparsity_ramp: Literal["linear", "cubic"] = _f(
        "linear",
        "how it ramps up: linear, or cubic, which rises fast at first and slows down towards the target, so that more "
        "steps train at high sparsity",
    )
    finetune_epochs: float = _f(20.0, "fine-tuning of the compact model, still with distillation")
    student_init: Literal["auto", "model", "teacher"] = _f(
        "auto", "what the student starts from; auto: --model if a --teacher is given as well, else the teacher"
    )

    # optimisation
    batch_size: int = _f(32, "sentences (windows for question answering) a step, over all processes together")
    eval_batch_size: int = _f(64, "sentences a batch in evaluation")
    teacher_learning_rate: float = _f(5e-5, "fine-tuning of the teacher")
    learning_rate: float | None = _f(
        2e-5,
        "weights, while distilling and pruning; recipes default, demo and gradual: 3e-4 for a student of up to 512 "
        "hidden dims, 1e-4 for a larger one",
    )
    finetune_learning_rate: float | None = _f(2e-5, "weights, while fine-tuning the compact model; recipes as above")
    finetune_schedule: Literal["constant", "linear"] = _f("constant", "learning rate while fine-tuning")
    reg_learning_rate: float = _f(0.01, "gates and Lagrange multipliers")
    lr_warmup: float = _f(0.0, "share of a phase in which the learning rate rises to its peak")
    weight_decay: float = _f(0.0, "AdamW weight decay of the weights")
    max_grad_norm: float = _f(1.0, "gradient clipping of the weights; 0 turns it off")
    freeze_embeddings: bool = _f(True, "do not train the student's embeddings")

    # distillation
    distill: bool = _f(True, "distil from the teacher; otherwise train on the labels")
    distill_temperature: float = _f(2.0, "temperature of the prediction loss")
    prediction_weight: float = _f(0.1, "weight of the prediction loss")
    layer_weight: float = _f(0.9, "weight of the layerwise loss; 0 turns it off")
    matching: str = _f("nearest", "which student layer learns from which teacher layer")
    teacher_cache: Literal["auto", "ram", "disk", "none"] = _f(
        "auto",
        "where the teacher's outputs are kept: in memory, in the run's directory until it is finished, or nowhere; "
        "auto: in memory if they take at most a quarter of what is free, else (on a CPU) on the disk if at most half",
    )
    matched_layers: int = _f(4, "teacher layers that are distilled")

    # bookkeeping
    eval_steps: int | None = _f(None, "steps between evaluations; by default an epoch")
    log_steps: int = _f(10, "steps between lines in metrics.jsonl")
    save_seconds: float = _f(120.0, "seconds between checkpoints")
    tensorboard: bool = _f(False, "write TensorBoard files as well")
    measure_seconds: float = _f(
        20.0,
        "time spent on measuring the speedup at the end, and at most half of it on each structure that is tried for "
        "--target-speedup before fine-tuning; up to 12 times as long where other work uses the cores; 0 leaves both "
        "out",
    )

    def __post_init__(self) -> None:
        _check_types(self)
        check_ranges(self.to_dict())
        _check_goal(self)
        if self.sparsity_warmup_epochs > self.prune_epochs:
            raise UserError(
                f"--sparsity-warmup-epochs must not exceed --prune-epochs ({self.prune_epochs}), "
                f"got {self.sparsity_warmup_epochs}"
            )
        if self.method not in METHODS:
            raise UserError(f"--method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.matching not in STRATEGIES:
            raise UserError(f"--matching must be one of {', '.join(STRATEGIES)}, got {self.matching!r}")
        try:
            parse_kinds(self.mask_kinds)
        except ValueError as error:
            raise UserError(f"--mask-kinds: {error}") from error
        _check_leaps(self)
        _check_embedding(self)
        if self.augment_mlm is not None and not self.augment:
            raise UserError("--augment-mlm needs --augment, the number of versions to make with it")
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite deletes it: give one of them")

    @property
    def goal(self) -> float:
        """Share of the parameters, or of the latency, to remove."""
        return self.sparsity if self.target_speedup is None else 1 - 1 / self.target_speedup

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of masks."""
        kinds = parse_kinds(self.mask_kinds)
        return tuple(kind for kind in kinds if kind != "hidden") if self.task_kind == "embedding" else kinds

    @property
    def student_from_teacher(self) -> bool:
        return self.student_init == "teacher" or (self.student_init == "auto" and self.teacher is None)

    @property
    def resolved_distil_epochs(self) -> float:
        if self.distil_epochs is not None:
            return self.distil_epochs
        return 0.0 if self.student_from_teacher else 1.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# settings that may differ when a run is continued
FREE_ON_RESUME = {
    "resume",
    "output",
    "threads",
    "device",
    "cuda_graphs",
    "save_seconds",
    "log_steps",
    "tensorboard",
    "teacher_cache",
    "measure_seconds",
}


# None in these is settled when a run begins, by the size of its student (cofi/train/rates.py)
SETTLED_BY_STUDENT = ("learning_rate", "finetune_learning_rate")


def defaults() -> dict[str, Any]:
    """Every setting as it is where nobody says otherwise."""
    return {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings of `now` that a run which began with `before` cannot go on with, in words.

    A setting that `before` lacks is younger than the run, which did what is the default now; one that `now` leaves to
    the student is what the run settled.
    """
    before = defaults() | before
    left_open = {name for name in SETTLED_BY_STUDENT if now.get(name) is None}
    return [
        f"{flag(name)} {value} (the run has {before[name]})"
        for name, value in now.items()
        if name not in FREE_ON_RESUME | left_open and value != before[name]
    ]


def _check_goal(config: TrainConfig) -> None:
    if (config.target_speedup is None) != (config.device_profile is None):
        raise UserError("--target-speedup and --device-profile must be given together")
    if config.target_speedup is not None and config.method != COFI:
        raise UserError(f"--target-speedup is for --method {COFI}, got --method {config.method}, which counts weights")
    if config.start_sparsity > config.goal:
        named = "--sparsity" if config.target_speedup is None else "what --target-speedup removes"
        raise UserError(f"--start-sparsity must not exceed {named} ({config.goal:.4g}), got {config.start_sparsity}")


def _check_leaps(config: TrainConfig) -> None:
    """Of gates that are set by scores."""
    if config.method != COFI or config.gate_prior == "none":
        return
    if config.rounding == "expected":
        raise UserError(
            "--gate-prior fisher needs --rounding threshold: with expected every layer keeps a twentieth of its shut "
            "units, whatever their scores"
        )
    if not set_by_worth(config.kinds):
        raise UserError(
            "--gate-prior fisher sets gates of heads and intermediate dims: --mask-kinds must have head or int, got "
            f"{config.mask_kinds}; --recipe gradual sets none"
        )
    if config.gate_prior_rounds > 1 and config.sparsity_warmup_epochs == config.prune_epochs:
        raise UserError(
            f"--sparsity-warmup-epochs must be below --prune-epochs ({config.prune_epochs}) with --gate-prior-rounds "
            f"{config.gate_prior_rounds}, whose last leap comes at its end, got {config.sparsity_warmup_epochs}"
        )


def _check_embedding(config: TrainConfig) -> None:
    if config.task_kind != "embedding":
        return
    if not config.distill:
        raise UserError("--task-kind embedding needs --distill: there are no labels to learn from")
    if config.method in CUT_HIDDEN:
        raise UserError(
            f"--method {config.method} cuts hidden dims, --task-kind embedding keeps its vectors' dims: name another"
        )
    if config.mask_kinds != "all" and "hidden" in parse_kinds(config.mask_kinds):
        raise UserError(
            "--mask-kinds must not have hidden with --task-kind embedding, whose vectors keep their dims, got "
            f"{config.mask_kinds}"
        )


def _check_types(config: TrainConfig) -> None:
    """The command line gives the right types; a config.yaml that was edited, or a caller, may not."""
    for name, hint in get_type_hints(TrainConfig).items():
        value = getattr(config, name)
        if not _is_of(value, hint):
            raise UserError(f"{flag(name)} must be {_describe(hint)}, got {value!r}")
        if value == "":
            raise UserError(f"{flag(name)} must not be empty")


def _is_of(value: Any, hint: Any) -> bool:
    if get_origin(hint) is UnionType:
        return any(_is_of(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    if get_origin(hint) is UnionType:
        return " or ".join(_describe(option) for option in get_args(hint))
    return f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else names[hint]
