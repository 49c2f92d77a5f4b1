"""The end of a run: scores, sizes, structure and measured speed, in result.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cofi.data.predict import predict, score
from cofi.data.task import Task
from cofi.machine import machine_info, versions
from cofi.measure.speedup import measure_speedup
from cofi.models import CompactModel
from cofi.profile.profile import Profile
from cofi.train import calibration
from cofi.train.config import TrainConfig
from cofi.train.constraint import rate_to_time_at, same_machine
from cofi.train.deployment import measure_as_profiled
from cofi.train.session import Session

SPEED_BATCH_SIZES = (1, 32)


def judge_teacher(session: Session) -> float:
    """The teacher's score on the validation split, 0 to 100. Of an embedding task what it says is what others are
    compared with there: it becomes the labels."""
    embedding = session.task.kind == "embedding"
    if embedding or "teacher" not in session.scores:
        assert session.teacher is not None
        size = session.config.eval_batch_size
        said = predict(session.teacher, session.validation, batch_size=size, device=session.device, team=session.world)
        if embedding:
            session.validation = replace(session.validation, labels=said.sentence_embedding)
        session.scores["teacher"] = score(session.task, session.validation, said).score
    session.monitor.message(f"teacher: {session.task.main_metric} {session.scores['teacher']:.2f}")
    return session.scores["teacher"]


def encoder_parameters(model: CompactModel) -> int:
    """Parameters of the layers: no embeddings, pooler or head (the counter the paper reports sizes with)."""
    return sum(p.numel() for p in model.layers.parameters())


def write_result(
    session: Session, teacher_score: float, best: dict[str, Any], dense: CompactModel, small: CompactModel
) -> dict[str, Any]:
    """Measure, assemble and write result.json. `dense` is the student at its full size."""
    config = session.config
    result = {
        **_head(session, teacher_score),
        "masked_score": best["score"],
        "compact_score": session.scores["finetune"],
        "target_sparsity": config.sparsity if config.target_speedup is None else None,
        "expected_sparsity": best["expected_sparsity"],
        "sparsity": best["sparsity"],
        "constraint": best["constraint"],
        "target_reached": best["target_reached"],
        "params_before": encoder_parameters(dense),
        "params_after": encoder_parameters(small),
        "total_params_before": sum(p.numel() for p in dense.parameters()),
        "total_params_after": sum(p.numel() for p in small.parameters()),
        "structure": best["structure"],
        "dense_structure": _dense_structure(dense),
        **_speed(session, dense.eval(), small.eval()),
        **_speedup_target(session, best, dense, small),
        **_tail(session),
    }
    session.run.write_result(result)
    return result


def write_teacher_result(session: Session, teacher_score: float) -> dict[str, Any]:
    """result.json of a run that ends with its teacher."""
    result = {**_head(session, teacher_score), **_tail(session)}
    session.run.write_result(result)
    return result


def _head(session: Session, teacher_score: float) -> dict[str, Any]:
    return {
        "task": session.task.name,
        "metric": session.task.main_metric,
        **_sources(session.config, session.task),
        "teacher_score": teacher_score,
    }


def _sources(config: TrainConfig, task: Task) -> dict[str, str]:
    """The model that was pruned and the data set, by their names on the hub where they come from it."""
    found = {}
    if not Path(config.model).expanduser().is_dir():
        found["base_model"] = config.model
    if config.data is None and config.train_file is None and task.hub is not None:
        found["dataset"] = task.hub.path
    return found


def _tail(session: Session) -> dict[str, Any]:
    return {
        "seconds": {name: round(seconds, 1) for name, seconds in session.seconds.items()},
        "total_seconds": round(session.monitor.seconds, 1),
        "seed": session.config.seed,
        "processes": session.world.size,
        "machine": machine_info(session.device),
        "versions": versions(),
    }


def _speed(session: Session, dense: CompactModel, small: CompactModel) -> dict[str, Any]:
    """What `measure_speedup` finds on lengths like those of the validation split; nothing where no time is given."""
    seconds = session.config.measure_seconds
    if seconds == 0:
        return {}
    session.monitor.message("measuring speed ...")
    lengths, profile = session.validation.lengths.tolist(), session.profile
    gflops = None if profile is None else rate_to_time_at(profile)
    return measure_speedup(dense, small, lengths=lengths, batch_sizes=SPEED_BATCH_SIZES, seconds=seconds, gflops=gflops)


def _speedup_target(session: Session, best: dict[str, Any], dense: CompactModel, small: CompactModel) -> dict[str, Any]:
    """What was asked for, what the profile says of the structure, and what it is: in the profile's own setting."""
    profile, asked = session.profile, session.config.target_speedup
    if profile is None or asked is None:
        return {}
    latency = profile.latency_model()
    dense_ms = float(latency({}))
    target = {
        "requested": asked,
        "predicted": best["kept_speedup"],
        "predicted_ms": {"teacher": dense_ms, "compact": dense_ms / best["kept_speedup"]},
        "batch": {"sequences": len(profile.lengths), "longest": max(profile.lengths)},
        "precision": profile.precision,
        "same_machine": same_machine(profile),
    }
    measured = _measured_target(session, profile, dense, small)
    return {"target_speedup": target | measured | _calibration(best.get(calibration.KEY))}


def _measured_target(session: Session, profile: Profile, dense: CompactModel, small: CompactModel) -> dict[str, Any]:
    """The speedup that the profile predicts, as it is; nothing where no time is given."""
    if session.config.measure_seconds == 0:
        return {}
    ratio = measure_as_profiled(profile, dense, small, session.config.measure_seconds / 2, session.monitor.message)
    return {
        "measured": ratio.value,
        "measured_uncertainty": ratio.uncertainty,
        "measured_ms": ratio.ms,
        "measured_gflops": ratio.gflops,
        "disturbed": ratio.disturbed,
    }


def _calibration(found: dict[str, Any] | None) -> dict[str, Any]:
    """The rounds of the calibration and which of them was taken, or why there are none."""
    if found is None:
        return {}
    how = {name: found[name] for name in ("chosen", "left_out") if name in found}
    return {calibration.KEY: {"rounds": calibration.rows(found), **how}}


def _dense_structure(dense: CompactModel) -> dict[str, Any]:
    shape = dense.config.shape()
    return {
        "heads": [shape.n_heads] * shape.n_layers,
        "intermediate": [shape.d_int] * shape.n_layers,
        "hidden": shape.d_hidden,
    }
