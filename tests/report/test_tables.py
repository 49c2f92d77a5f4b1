"""The summary table: every number where it belongs, '-' where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cofi.report import summary_table
from cofi.report.tables import measurement_note, speedup_note, summary_rows
from cofi.report.values import show_change, show_count, show_ms, show_percent, show_ratio, show_seconds


def printed(result, width=80) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(summary_table(result))
    return console.file.getvalue()


def test_rows_of_a_complete_result(result):
    teacher, masked, compact = summary_rows(result)
    assert teacher[:5] == ("teacher", "92.43", "-", "85.1 M", "0.0 %")
    assert (teacher.latency, teacher.speedup) == (("12.0", "612"), ("1.00×", "1.00×"))
    assert masked[:5] == ("masked", "90.10", "−2.33", "85.1 M", "94.8 %")
    assert (masked.latency, masked.speedup) == (("-", "-"), ("-", "-"))
    assert compact[:5] == ("compact", "89.91", "−2.52", "4.42 M", "94.8 %")
    assert (compact.latency, compact.speedup) == (("3.08", "49.7"), ("3.90×", "12.3×"))


def test_table_fits_80_columns_and_says_what_was_measured(result):
    text = printed(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    words = " ".join(text.split())
    assert "without embeddings and heads" in words
    assert "medians of 9 to 40 interleaved rounds" in words
    assert "median 25, longest 66 tokens" in words
    assert "2 threads of A CPU" in words


@pytest.mark.parametrize(
    "absent",
    [
        "teacher_score",
        "masked_score",
        "params_before",
        "latency_ms",
        "speedup",
        "machine",
        "measured",
        "task",
        "sparsity",
    ],
)
def test_any_field_may_be_absent(result, absent):
    del result[absent]
    assert "compact" in printed(result)


def test_nothing_at_all_is_dashes():
    for row in summary_rows({}):
        assert (row.score, row.parameters, row.sparsity, row.latency, row.speedup) == ("-", "-", "-", (), ())


@pytest.mark.parametrize("value", ["text", True, None, [1], {}, float("nan"), float("inf"), 10**400])
def test_values_that_are_no_numbers_are_dashes(result, value):
    rows = summary_rows(result | {"compact_score": value, "speedup": value, "latency_ms": value, "params_after": value})
    assert (rows[2].score, rows[2].parameters, rows[2].latency) == ("-", "-", ())


def test_markup_in_names_is_shown_not_obeyed(result):
    result |= {"task": "[red]x[/red]", "speedup": {"[bold]b": 2.0}, "machine": {"device": "[blink]gpu"}}
    text = " ".join(printed(result, 200).split())
    assert "[red]x[/red]" in text and "[bold]b" in text and "[blink]gpu" in text


def test_measurement_note_of_a_gpu_names_it(result):
    result["machine"] = {"device": "NVIDIA H200", "threads": 16}
    assert measurement_note(result).endswith("no padding, on NVIDIA H200.")


CORRECTED = {"requested": 8.0, "predicted": 8.7, "measured": 8.02}
ROUNDS = [{"measured": 7.4}, {"measured": 8.04}]


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ({"rounds": ROUNDS, "chosen": 1}, "measured 8.02×, corrected from 7.40× by the profile alone."),
        ({"rounds": ROUNDS, "chosen": 0}, "measured 8.02×."),
        ({"rounds": [], "left_out": "--measure-seconds is 0"}, "measured 8.02×."),
        ({"rounds": "many", "chosen": 1}, "measured 8.02×."),
        ({"rounds": [7.4], "chosen": 1}, "measured 8.02×."),
        (None, "measured 8.02×."),
    ],
    ids=["corrected", "as it was", "left out", "no list", "no mapping", "none"],
)
def test_a_corrected_speedup_says_what_it_was_before(calibration, words):
    note = speedup_note({"target_speedup": CORRECTED | {"calibration": calibration}})
    assert note == f"Speedup: requested 8.00×, predicted 8.70×, {words}"


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (show_count, 999, "999"),
        (show_count, 4_330_279, "4.33 M"),
        (show_count, 85_054_464, "85.1 M"),
        (show_count, 110e6, "110 M"),
        (show_count, 999_960, "1.00 M"),
        (show_ratio, 9.876, "9.88×"),
        (show_ratio, 12.13, "12.1×"),
        (show_change, -0.001, "0.00"),
        (show_change, 1.25, "+1.25"),
        (show_percent, 0.9482, "94.8 %"),
        (show_ms, 3.164, "3.16"),
        (show_ms, 612.4, "612"),
        (show_ms, 0.0123, "0.0123"),
        (show_seconds, 59.96, "1 min 0 s"),
        (show_seconds, 75.2, "1 min 15 s"),
        (show_seconds, 7260.0, "2 h 1 min"),
        (show_seconds, None, "-"),
    ],
)
def test_numbers_as_text(function, value, text):
    assert function(value) == text
