"""The page: self-contained, complete, safe with whatever the files hold."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cofi.errors import UserError
from cofi.report import write_report
from cofi.report.__main__ import main
from cofi.report.html import NOT_REPRODUCED, headline, render_page
from cofi.report.reading import read_run
from cofi.train.arguments import parse_given, resolve
from cofi.train.rates import settle_rates
from cofi.train.recipes import RECIPES
from cofi.train.rundir import RunDirectory


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed in its order."""

    VOID = {"meta", "source", "img"}

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.source = source
        self.feed(source)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def written(directory: Path) -> Page:
    return Page(write_report(directory).read_text())


def rendered(directory: Path) -> Page:
    """The page without its figures, which take most of the time."""
    return Page(render_page(read_run(directory), []))


def test_a_finished_run_has_everything(make_run, result):
    directory = make_run(result)
    path = write_report(directory)
    assert path == directory / "report.html"
    page = Page(path.read_text())
    assert "19.2× smaller encoder" in re.sub(r"(×|\d)(smaller|points)", r"\1 \2", page.words)
    for words in ("12.3×", "−2.52", "92.43 to 89.91", "batch 32", "13 min 32 s", "2.13.0", "A CPU", "some/checkpoint"):
        assert words in page.words
    assert "from_pretrained" in page.text and "python -m cofi.train --recipe demo" in page.text
    for name in ("structure", "training"):
        assert (directory / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_fetched_or_executed(make_run, result):
    page = written(make_run(result))
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), tag
        for name in ("src", "srcset", "href"):
            assert (attrs.get(name) or "data:").startswith("data:")
    assert "url(" not in page.source and "@import" not in page.source
    policy = next(
        attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_it_can_be_read_without_eyes_and_in_the_dark(make_run, result):
    page = written(make_run(result))
    images = page.all("img")
    assert len(images) == 2 and all(len(attrs["alt"]) > 80 for attrs in images)
    assert [attrs["media"] for attrs in page.all("source")] == ["(prefers-color-scheme: dark)"] * 2
    assert page.all("html") == [{"lang": "en"}]
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))


def test_everything_from_files_is_escaped(make_run, result):
    nasty = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    result |= {"task": nasty, "metric": nasty, "seed": nasty, "versions": {nasty: nasty}, "machine": {"device": nasty}}
    result |= {"speedup": {nasty: 2.0}, "seconds": {nasty: 1.0}, "command": nasty}
    page = written(make_run(result, model=nasty, recipe=nasty))
    assert not page.all("script")
    assert len(page.all("img")) == 2
    assert page.text.count("<script>alert(1)</script>") >= 8


def test_an_unfinished_run_says_so(make_run):
    directory = make_run(None)
    page = written(directory)
    assert "This run has not finished" in page.words
    assert not page.all("thead") and len(page.all("img")) == 2


def test_a_missed_target_is_said_first(make_run, result):
    assert "was not reached" in rendered(make_run(result | {"target_reached": False})).words


@pytest.mark.parametrize("present", ["config.yaml", "metrics.jsonl", "result.json"])
def test_one_file_is_enough(make_run, result, present):
    directory = make_run(result)
    for name in {"config.yaml", "metrics.jsonl", "result.json"} - {present}:
        (directory / name).unlink()
    written(directory)


def test_the_log_may_be_empty(make_run, result):
    directory = make_run(result)
    (directory / "metrics.jsonl").write_text("")
    assert len(written(directory).all("img")) == 1


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("question_answering", "CompactModelForQuestionAnswering"),
        ("token_classification", "CompactModelForTokenClassification"),
        ("classification", "CompactModelForSequenceClassification"),
    ],
)
def test_loading_names_the_class_of_the_saved_head(make_run, result, head, words):
    directory = make_run(result)
    (directory / "model").mkdir()
    (directory / "model" / "config.json").write_text(f'{{"head": "{head}"}}')
    assert words in rendered(directory).text


def test_the_command_repeats_every_setting_but_not_where_it_was_kept(make_run, result):
    directory = make_run(
        result, train_file="a b.csv", output="runs/x", resume=True, layer_weight=0.5, freeze=False, data=None
    )
    text = rendered(directory).text
    assert "--train-file 'a b.csv'" in text and "--layer-weight 0.5" in text and "--freeze False" in text
    assert "--output" not in text and "--resume" not in text and "--data" not in text


@pytest.mark.parametrize(
    "words",
    [
        *(f"--recipe {recipe} --task {task}" for recipe in RECIPES for task in ("mrpc", "squad", "pydocs")),
        "",
        "--task mrpc --target-speedup 4 --device-profile 'profiles of mine/cpu.json'",
        "--train-file \"a b's.csv\" --label-column '$label' --text-column=-text --model 'my models/bert'",
        "--task mrpc --int-init-mean=-1e-05 --init-mean -2 --no-distill --threads 1",
        "--task sst2 --teacher 'runs/a b/teacher' --teacher-only --output runs/c --tensorboard",
    ],
)
def test_the_command_gives_the_settings_of_the_run(tmp_path, words):
    config = settle_rates(resolve(parse_given(shlex.split(words))), hidden_size=384)
    run = RunDirectory(tmp_path / "run")
    run.start(config)
    command = rendered(run.root).text.partition("Command that repeats it")[2].splitlines()[0]
    python, dash, module, *flags = shlex.split(command)
    assert (python, dash, module) == ("python", "-m", "cofi.train")
    again = resolve(parse_given(flags)).to_dict()  # its rates are those that the run settled
    assert again == config.to_dict() | {name: again[name] for name in NOT_REPRODUCED}


def test_a_slower_model_is_not_called_faster():
    assert headline({"speedup": {"batch 1": 0.5}}) == [("0.500×", "the speed at batch 1", "")]
    assert headline({}) == []


def test_written_twice_it_is_the_same_and_leaves_nothing_else(make_run, result):
    directory = make_run(result)
    first = write_report(directory).read_bytes()
    assert write_report(directory).read_bytes() == first
    names = {"config.yaml", "metrics.jsonl", "result.json", "report.html", "figures"}
    assert set(os.listdir(directory)) == names
    assert sorted(os.listdir(directory / "figures")) == ["structure.png", "training.png"]


def test_a_place_that_cannot_be_written_is_a_user_error(make_run, result):
    directory = make_run(result)
    (directory / "figures").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(directory)


def test_command_writes_the_page_and_prints_the_table(make_run, result, capsys):
    directory = make_run(result)
    assert main([str(directory)]) == 0
    printed = capsys.readouterr().out
    assert "compact" in printed and "report.html" in printed.replace("\n", "")


def test_command_on_nothing_is_one_line_and_exit_2(tmp_path):
    command = [sys.executable, "-m", "cofi.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
