from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import cofi.train
from cofi.errors import UserError
from cofi.masks import RAMPS
from cofi.train.arguments import check_resumed, parse_given, resolve
from cofi.train.config import TrainConfig, defaults
from cofi.train.idle import _RULES, idle_flags
from cofi.train.recipes import RECIPES


def test_no_argument_is_the_demo():
    config = resolve(parse_given([]))
    assert (config.recipe, config.task) == ("demo", "pydocs")


def test_a_task_without_recipe_takes_the_default_recipe():
    assert resolve(parse_given(["--task", "mrpc"])).recipe == "default"


def test_a_file_of_ones_own_is_task_text():
    assert resolve(parse_given(["--train-file", "a.csv"])).task == "text"


@pytest.mark.parametrize(
    ("argv", "model", "student_init"),
    [
        (["--teacher", "mine"], "mine", "teacher"),
        (["--teacher", "mine", "--student-init", "model"], "mine", "model"),
        (["--teacher", "mine", "--model", "other"], "other", "auto"),
        (["--teacher", "mine", "--recipe", "official"], "google-bert/bert-base-uncased", "model"),
        (["--model", "other"], "other", "auto"),
    ],
    ids=str,
)
def test_a_teacher_alone_is_what_is_pruned(argv, model, student_init):
    config = resolve(parse_given(["--task", "mrpc", *argv]))
    assert (config.model, config.student_init) == (model, student_init)


@pytest.mark.parametrize("spelling", ["--batch-size", "--batch_size"])
def test_flags_take_dashes_and_underscores(spelling):
    assert resolve(parse_given([spelling, "7"])).batch_size == 7


def test_flags_override_the_recipe():
    assert resolve(parse_given(["--recipe", "official", "--task", "rte", "--prune-epochs", "50"])).prune_epochs == 50


@pytest.mark.parametrize("task", ["mrpc", "mnli", "squad", "pydocs"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_a_valid_configuration(recipe, task):
    assert resolve({"recipe": recipe, "task": task}).task == task


def test_official_recipe_has_the_papers_epochs():
    small, large = (resolve({"recipe": "official", "task": task}) for task in ("mrpc", "sst2"))
    assert small.resolved_distil_epochs + small.prune_epochs == 100
    assert large.resolved_distil_epochs + large.prune_epochs == 20
    assert (small.sparsity_warmup_epochs, large.sparsity_warmup_epochs) == (20, 2)


def test_official_recipe_has_the_papers_constraint_and_ramp():
    config = resolve({"recipe": "official", "task": "mrpc"})
    assert (config.constraint, config.sparsity_ramp) == ("expected", "linear")


def test_every_ramp_is_a_choice_of_the_flag():
    assert get_args(get_type_hints(TrainConfig)["sparsity_ramp"]) == RAMPS
    with pytest.raises(UserError, match="--sparsity-ramp must be one of linear, cubic, got 'square'"):
        TrainConfig(sparsity_ramp="square")


def test_unknown_recipe_lists_the_valid_ones():
    with pytest.raises(UserError, match="one of default, demo, gradual, official, got 'fast'"):
        resolve({"recipe": "fast"})


def test_unknown_flag_names_the_one_that_may_be_meant():
    with pytest.raises(UserError, match=r"--sparsitty 0.9 --mask_kin \(did you mean --sparsity or --mask-kinds\?\)$"):
        parse_given(["--sparsitty", "0.9", "--mask_kin"])
    with pytest.raises(UserError, match=r"--wings \(python -m cofi.train --help lists all flags\)$"):
        parse_given(["--wings"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sparsity", "1"], r"--sparsity must be in \[0, 1\), got 1.0"),
        (["--sparsity", "-0.1"], r"--sparsity must be in \[0, 1\), got -0.1"),
        (["--batch-size", "0"], "--batch-size must be in"),
        (["--learning-rate", "0"], "--learning-rate must be in"),
        (["--learning-rate", "nan"], "--learning-rate must be in"),
        (["--mask-kinds", "head,wings"], "wings"),
        (["--matching", "best"], "--matching must be one of .*nearest"),
        (["--sparsity-warmup-epochs", "99"], "must not exceed --prune-epochs"),
        (["--sparsity-warmup-epochs", "3"], r"must be below --prune-epochs \(3.0\) with --gate-prior-rounds 4"),
        (["--rounding", "expected"], "--gate-prior fisher needs --rounding threshold"),
        (["--mask-kinds", "mha,ffn"], "--mask-kinds must have head or int, got mha,ffn"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--augment", "21"], r"--augment must be in \[0, 20\], got 21"),
        (["--augment", "-1"], r"--augment must be in \[0, 20\], got -1"),
        (["--augment", "2", "--augment-probability", "0"], r"--augment-probability must be in \(0, 1\], got 0.0"),
        (["--augment-mlm", "bert"], "--augment-mlm needs --augment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_value_names_flag_rule_and_value(flags, words):
    with pytest.raises(UserError, match=words):
        resolve(parse_given(flags))


def test_resume_rejects_a_changed_setting():
    stored = resolve(parse_given([]))
    check_resumed(stored, {"resume": True, "output": "elsewhere", "threads": 3})
    with pytest.raises(UserError, match=rf"--sparsity 0.5 \(the run has {stored.sparsity}\)"):
        check_resumed(stored, {"sparsity": 0.5})
    with pytest.raises(UserError, match=r"--sparsity-ramp linear \(the run has cubic\)"):
        check_resumed(stored, {"sparsity_ramp": "linear"})


def test_every_field_is_read_somewhere():
    """A documented flag that nothing reads is a lie (the official code had several)."""
    root = Path(cofi.train.__file__).parent
    sources = "".join(p.read_text() for p in root.rglob("*.py") if p.name != "config.py" and "recipes" not in p.parts)
    sources += (root / "config.py").read_text().split("def __post_init__")[1]
    unread = [
        f.name
        for f in dataclasses.fields(TrainConfig)
        if not re.search(rf"(config|self|stored)\.{f.name}\b", sources) and f.name != "recipe"
    ]
    assert unread == []


def test_configuration_survives_yaml(tmp_path):
    from cofi.train.rundir import RunDirectory

    config = resolve(parse_given(["--task", "rte", "--sparsity-ramp", "cubic", "--output", str(tmp_path / "run")]))
    run = RunDirectory(tmp_path / "run")
    run.start(config)
    assert run.read_config() == config


def test_help_gives_each_flag_once_with_its_default(capsys):
    with pytest.raises(SystemExit):
        parse_given(["--help"])
    flags = capsys.readouterr().out.partition("options:")[2]
    text = " ".join(flags.split())
    assert "_" not in "".join(re.findall(r"--[\w-]+", text))
    assert "--sparsity X share of the encoder's weights to remove, in [0, 1) (default: 0.95)" in text
    assert "default: None" not in text and "default: False" not in text
    assert "pruning with distillation (default: 19.0; recipe 'default': 1.5, for small tasks of GLUE 3.0)" in text
    assert "see --gate- prior-rounds (default: none; recipe 'default': fisher)" in text
    assert "'default': None" not in text and "to its goal (default: 2.0; recipe 'default': 1.0, for " in text
    assert "--no-distill turn --distill off" in text
    assert "Tasks: sst2, mnli" in text and "Strategies of --matching: fixed, nearest" in text


@pytest.mark.parametrize(
    ("argv", "idle"),
    [
        (["--sparsity-ramp", "linear"], ["--sparsity-ramp has no effect with --gate-prior fisher"]),
        (["--sparsity-ramp", "linear", "--gate-prior", "none"], []),
        (
            ["--recipe", "gradual", "--gate-prior-rounds", "3"],
            ["--gate-prior-rounds has no effect with --gate-prior none"],
        ),
        (["--method", "fisher", "--mask-kinds", "head"], ["--mask-kinds has no effect with --method fisher"]),
        (["--method", "movement", "--rounding", "threshold"], ["--rounding has no effect with --method movement"]),
        (["--method", "movement", "--reg-learning-rate", "0.1"], []),
        (["--teacher", "t", "--teacher-epochs", "2"], ["--teacher-epochs has no effect with --teacher t"]),
        (["--no-distill", "--layer-weight", "1"], ["--layer-weight has no effect with --distill False"]),
        (["--augment-probability", "0.2"], ["--augment-probability has no effect with --augment 0"]),
        (["--augment", "2", "--augment-probability", "0.2", "--prune-epochs", "3"], []),
    ],
    ids=str,
)
def test_flags_without_effect_are_named(argv, idle):
    given = parse_given(["--task", "mrpc", *argv])
    assert list(idle_flags(given, resolve(given))) == idle


def test_what_can_be_idle_is_a_setting():
    assert {name for rule in _RULES for name in (*rule.idle, rule.why)} <= defaults().keys()


def test_a_file_of_ones_own_is_task_text_in_the_demo_recipe_too():
    assert resolve(parse_given(["--recipe", "demo", "--train-file", "a.csv"])).task == "text"
