"""The speedup of a run: the batches, what is checked before it is timed, and what result.json gets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cofi.measure import speedup
from cofi.measure.speedup import check_against_definition, main_output, measure_speedup, quantile_batch
from cofi.measure.timing import MIN_ROUNDS
from cofi.report import summary_table
from cofi.report.tables import measurement_note
from tests.measure.encoders import make_compact, make_dense


def test_batches_take_the_quantiles_of_the_lengths():
    lengths = list(range(100, 0, -1))
    batch = quantile_batch(lengths, 4, vocab_size=9)
    assert batch.cu_seqlens.diff().tolist() == [13, 38, 63, 88]
    assert batch.input_ids.max() < 9
    assert quantile_batch(lengths, 1, 9).cu_seqlens.tolist() == [0, 51]  # the median
    assert quantile_batch([3], 5, 9).cu_seqlens.diff().tolist() == [3] * 5


class TestMeasureSpeedup:
    def test_result_has_what_the_report_reads(self, device):
        dense, compact = make_dense().to(device), make_compact().to(device)
        result = measure_speedup(dense, compact, np.array([3, 9, 20]), (1, 4), seconds=0.05)
        for model in ("teacher", "compact"):
            assert set(result["latency_ms"][model]) == {"batch 1", "batch 4"}
        for name, ratio in result["speedup"].items():
            latency = result["latency_ms"]
            assert ratio == pytest.approx(latency["teacher"][name] / latency["compact"][name], rel=2e-3)
        assert result["measured"]["lengths"] == {"median": 9, "longest": 20}
        assert min(result["measured"]["rounds"].values()) >= MIN_ROUNDS
        assert min(result["measured"]["gflops"].values()) > 0 and not any(result["measured"]["disturbed"].values())
        json.dumps(result)
        assert "median 9, longest 20" in measurement_note(result)
        assert "GFLOP/s in a plain product" in measurement_note(result)
        assert len(summary_table(result).columns) == 4 + 2 * 2

    def test_training_modes_are_put_back(self):
        dense, compact = make_dense().train(), make_compact()
        measure_speedup(dense, compact, [4], (1,), seconds=0.01)
        assert dense.training and not compact.training

    def test_nothing_is_timed_when_the_fast_path_is_wrong(self, monkeypatch):
        compact = make_compact()
        outputs = iter([torch.ones(3), torch.ones(3) * 1.1])
        monkeypatch.setattr(speedup, "main_output", lambda output: next(outputs))
        monkeypatch.setattr(speedup, "gauged_rounds", lambda *args, **kwargs: pytest.fail("timed"))
        with pytest.raises(RuntimeError, match="differs from its definition"):
            measure_speedup(make_dense(), compact, [4], (1,), seconds=0.01)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_outputs_that_are_no_numbers_do_not_pass(self, value):
        compact = make_compact()
        with torch.no_grad():
            compact.embeddings.word.weight.fill_(value)
        with torch.inference_mode(), pytest.raises(RuntimeError, match="differs"):
            check_against_definition(compact, batch=quantile_batch([4], 1, 9))

    @pytest.mark.parametrize(("lengths", "sizes"), [([], (1,)), ([0], (1,)), ([3], ()), ([3], (0,))])
    def test_bad_arguments_are_refused(self, lengths, sizes):
        with pytest.raises(ValueError, match="positive integers"):
            measure_speedup(make_dense(), make_compact(), lengths, sizes)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("none", (10, 30)),
        ("classification", (2, 2)),
        ("token_classification", (10, 2)),
        ("question_answering", (10,)),
        ("embedding", (2, 30)),
    ],
)
def test_main_output_is_what_the_head_gives(head, shape):
    with torch.inference_mode():
        output = make_compact(head=head)(batch=quantile_batch([4, 6], 2, 9))
    assert main_output(output).shape == shape
