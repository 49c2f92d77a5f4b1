"""What a run holds its gates to, and the latency profile that a speedup is counted by."""

from __future__ import annotations

import torch

from cofi.baselines import COFI
from cofi.errors import UserError
from cofi.machine import machine_info
from cofi.masks import (
    MASK_KINDS,
    Constraint,
    ModelShape,
    PruningTarget,
    SparsityTarget,
    SpeedupTarget,
    set_by_worth,
)
from cofi.models import CompactConfig
from cofi.profile.profile import Profile, find_profile, read_profile
from cofi.train.config import TrainConfig
from cofi.train.rundir import RunDirectory


def load_profile(config: TrainConfig, run: RunDirectory, student: CompactConfig) -> Profile | None:
    """The profile of --device-profile; of a run that is continued the copy it keeps. None without a target speedup.

    Raises UserError where it cannot be read, or was measured for another encoder, longer sequences than it reads or
    another number of threads.
    """
    if config.target_speedup is None or config.device_profile is None:
        return None
    if config.resume and not run.profile.is_file():
        raise UserError(f"--resume: the latency profile of the run is gone, {run.profile} is not there")
    path = run.profile if config.resume else find_profile(config.device_profile)
    profile = read_profile(path)
    where = f"--device-profile {path}"
    profile.check_model(student.shape(), config.model, where)
    profile.check_threads(torch.get_num_threads(), where)
    if max(profile.lengths) > student.longest:
        raise UserError(
            f"{where} was measured with sequences of up to {max(profile.lengths)} tokens, {config.model} reads at most "
            f"{student.longest}"
        )
    return profile


def check_reach(config: TrainConfig, shape: ModelShape, profile: Profile | None) -> None:
    """Raise UserError where masks of --mask-kinds, all of them 0, would not remove what is asked for.

    With a prior those that scores set: learning alone does not get the others there (a gate moves by 3.5 of the 9
    log-odds in 345 steps).
    """
    if config.method != COFI:
        return
    target = _target(config, shape, profile)
    kinds = config.kinds
    if config.gate_prior == "fisher":
        kinds = set_by_worth(kinds)
    most = float(target.of_masks({kind: torch.zeros(MASK_KINDS[kind].units(shape)) for kind in kinds}))
    if most < target.goal:
        asked = "--sparsity" if profile is None else "--target-speedup"
        raise UserError(
            f"{asked} must be at most {target.shown(most):.4g} with --mask-kinds {config.mask_kinds} and --gate-prior "
            f"{config.gate_prior}, which remove no more, got {target.shown(target.goal):g}"
        )


def make_constraint(config: TrainConfig, shape: ModelShape, profile: Profile | None) -> Constraint:
    """The constraint that the settings ask for, on an encoder of `shape`.

    A speedup counts what the masks keep, unless it is told otherwise: it is a promise about the exported model, and at
    a speedup of 8 the difference between expected and kept size is a fifth of what is left.
    """
    counts = config.constraint
    if counts == "auto":
        counts = "expected" if profile is None else "kept"
    return Constraint(_target(config, shape, profile), counts, config.sparsity_epsilon)


def _target(config: TrainConfig, shape: ModelShape, profile: Profile | None) -> PruningTarget:
    if profile is None or config.target_speedup is None:
        return SparsityTarget(shape, config.sparsity)
    try:
        return SpeedupTarget(profile.latency_model(), config.target_speedup)
    except ValueError as error:
        raise UserError(f"--target-speedup by {config.device_profile}: {error}") from error


def describe(profile: Profile, speedup: float) -> str:
    """What the target speedup means, for the log; with a warning where this is not the machine of the profile."""
    dense = float(profile.latency_model()({}))
    lengths = profile.lengths
    text = (
        f"target: {speedup:g} times as fast as the dense model's {dense:.3g} ms for {len(lengths)} sequences of "
        f"{min(lengths)} to {max(lengths)} tokens in {profile.precision}"
    )
    if not same_machine(profile):
        text += (
            f" [yellow]on another machine than this one ({profile.machine.get('cpu')}): measured here it will differ"
        )
        text += "[/yellow]"
    return text


def rate_to_time_at(profile: Profile) -> float | None:
    """GFLOP/s of the gauge at which rounds count; None where the profile is of another machine."""
    return profile.gflops if same_machine(profile) else None


def same_machine(profile: Profile) -> bool:
    """Whether the profile was measured on a machine named like this one."""
    device = "cpu" if profile.on_cpu else "cuda"
    if not profile.on_cpu and not torch.cuda.is_available():
        return False
    here = machine_info(device)
    return all(profile.machine.get(name) == here[name] for name in ("device", "cpu"))
