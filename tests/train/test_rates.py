from __future__ import annotations

import pytest

from cofi.errors import UserError
from cofi.sweep.store import check_settings
from cofi.train.arguments import resolve
from cofi.train.config import SETTLED_BY_STUDENT, changes
from cofi.train.rates import settle_rates
from cofi.train.rundir import RunDirectory


@pytest.mark.parametrize("recipe", ["default", "demo", "gradual"])
@pytest.mark.parametrize(("hidden_size", "rate"), [(384, 3e-4), (512, 3e-4), (513, 1e-4), (768, 1e-4), (1024, 1e-4)])
def test_rates_go_by_the_students_size(recipe, hidden_size, rate):
    settled = settle_rates(resolve({"recipe": recipe, "task": "mrpc"}), hidden_size)
    assert (settled.learning_rate, settled.finetune_learning_rate) == (rate, rate)


def test_a_rate_that_is_given_stays():
    settled = settle_rates(resolve({"task": "mrpc", "finetune_learning_rate": 7e-5}), 768)
    assert (settled.learning_rate, settled.finetune_learning_rate) == (1e-4, 7e-5)


def test_the_papers_rates_are_settled_already():
    config = resolve({"recipe": "official", "task": "mrpc"})
    assert settle_rates(config, 384) == config


def test_a_run_whose_rates_were_settled_is_one_of_the_settings_that_left_them_open(tmp_path):
    config = resolve({"task": "mrpc"})
    assert [getattr(config, name) for name in SETTLED_BY_STUDENT] == [None, None]
    run = RunDirectory(tmp_path / "run")
    run.start(settle_rates(config, 768))
    check_settings(run, config, "point")
    assert run.read_config().learning_rate == 1e-4


def test_another_rate_is_a_change(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(settle_rates(resolve({"task": "mrpc"}), 768))
    other = resolve({"task": "mrpc", "learning_rate": 3e-4})
    assert changes(run.read_config().to_dict(), other.to_dict()) == ["--learning-rate 0.0003 (the run has 0.0001)"]
    with pytest.raises(UserError, match="made with other settings"):
        check_settings(run, other, "point")
