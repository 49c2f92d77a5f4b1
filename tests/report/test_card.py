"""The model card: metadata that the hub reads, numbers of the run, safe with whatever the files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cofi.report import write_report
from cofi.report.card import CARD, MARK, render_card
from cofi.report.reading import read_run
from cofi.report.values import show_percent

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def finished(make_run, result):
    """`finished(**changes)` writes a run with a small model, whose result has some changes, and returns its path."""

    def make(head: str = "classification", config: dict[str, object] | None = None, **changes: object) -> Path:
        directory: Path = make_run({**result, **changes}, **(config or {}))
        (directory / "model").mkdir()
        (directory / "model" / "config.json").write_text(json.dumps({"head": head}))
        return directory

    return make


def card_of(directory: Path) -> ModelCard:
    write_report(directory)
    return ModelCard.load(directory / "model" / CARD)


def test_the_hub_reads_what_the_model_is_and_its_score(finished):
    data = card_of(finished(base_model="some/checkpoint", dataset="nyu-mll/glue")).data
    assert (data.base_model, data.pipeline_tag) == ("some/checkpoint", "text-classification")
    assert data.datasets == "nyu-mll/glue" and data.license is None
    (score,) = data.eval_results
    assert (score.dataset_type, score.dataset_name) == ("nyu-mll/glue", "sst2")
    assert (score.metric_type, score.metric_value) == ("accuracy", 89.91)


@pytest.mark.parametrize(
    ("head", "tag"),
    [
        ("token_classification", "token-classification"),
        ("question_answering", "question-answering"),
        ("embedding", "sentence-similarity"),
        ("none", "feature-extraction"),
    ],
)
def test_every_head_has_its_word(finished, head, tag):
    card = card_of(finished(head=head))
    assert card.data.pipeline_tag == tag
    assert ("SentenceTransformer" in card.text) is (head == "embedding")


def test_the_text_says_what_it_costs_and_what_is_left(finished):
    text = card_of(finished(config={"method": "cofi", "prune_epochs": 3.0, "augment": 0})).text
    assert "| compact | 89.91 | 4.42 M | 94.8 % | 3.08 | 3.90× | 49.7 | 12.3× |" in text
    assert "| 2 | 0 | 12 |" in text and "the whole model's 12 heads and 3072 intermediate dims" in text
    assert r"| prune\_epochs | 3.0 |" in text and "augment" not in text
    assert "2 threads of A CPU" in text and "by CoFi" in text


def test_another_method_is_not_called_cofi(finished):
    text = card_of(finished(config={"method": "fisher"})).text
    assert "method fisher." in text and "CoFi" not in text


def test_a_target_that_was_missed_is_said_first(finished):
    text = card_of(finished(target_reached=False)).text
    assert text.index("The target sparsity was not reached") < text.index("## Results")


def test_no_path_of_this_machine_is_told(finished):
    paths = {
        "model": "/home/somebody/models/bert",
        "train_file": "/home/somebody/secret.csv",
        "output": "/home/somebody/o",
    }
    card = card_of(finished(config=paths))
    assert "somebody" not in str(card) and card.data.base_model is None and "# bert without 94.8 %" in card.text


def test_what_somebody_has_written_stays(finished):
    directory = finished()
    card = directory / "model" / CARD
    write_report(directory)
    own = card.read_text().replace(MARK, "").replace("## Use", "## How we use it")
    card.write_text(own)
    write_report(directory)
    assert card.read_text() == own
    card.write_bytes(b"\xff\xfe")
    write_report(directory)
    assert card.read_bytes() == b"\xff\xfe"


def test_there_is_none_before_the_end_or_without_a_model(make_run, result, tmp_path):
    directory = make_run(None)
    (directory / "model").mkdir()
    (directory / "model" / "config.json").write_text("{}")
    write_report(directory)
    assert not (directory / "model" / CARD).exists()
    (directory / "result.json").write_text(json.dumps(result))
    (directory / "model" / "config.json").unlink()
    write_report(directory)
    assert not (directory / "model" / CARD).exists()


def test_values_cannot_write_markdown_or_yaml(finished):
    bad = "x\n---\nlicense: mit\n# head | <img src=x> [a](b) `c` ```"
    run = read_run(
        finished(task=bad, metric=bad, base_model=bad, config={"recipe": bad, "method": bad}, machine={"cpu": bad})
    )
    card = ModelCard(render_card(run))
    assert card.data.license is None and card.data.base_model == bad
    assert "<img" not in card.text.replace("\\<img", "") and "\n# head" not in card.text
    assert (
        "[a](b)" not in card.text and "`c`" not in card.text and "\n```" not in card.text.split("```python")[0].rstrip()
    )
    assert show_percent(0.948) in card.text
