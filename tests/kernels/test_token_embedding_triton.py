"""Token embeddings in Triton, in the interpreter or on a GPU: values against fp64, numbers beyond a table."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager
from cofi_kernels.token_embedding import reference
from tests.kernels import aot
from tests.kernels.test_token_embedding import case, in_fp64

pytest.importorskip("triton")
from cofi_kernels.token_embedding import triton_kernels  # noqa: E402


def moved(args, device, dtype):
    return [
        a.to(device, dtype if a.is_floating_point() else a.dtype) if isinstance(a, torch.Tensor) else a for a in args
    ]


@pytest.mark.parametrize("n_tokens, hidden", [(0, 9), (1, 1), (5, 9), (13, 83), (7, 764), (3, 1024)])
@pytest.mark.parametrize("with_types", [True, False], ids=["types", "no types"])
def test_values_match_fp64(device, n_tokens, hidden, with_types):
    args = moved(case(n_tokens, hidden, with_types), device, torch.float32)
    assert_close_to_fp64(triton_kernels.launch(*args), in_fp64(args))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_is_no_worse_than_eager(device, dtype):
    args = moved(case(11, 83, True), device, dtype)
    assert_no_worse_than_eager(triton_kernels.forward(*args), reference.forward(*args), in_fp64(args))


def test_other_dtypes_go_to_the_reference(device):
    args = moved(case(5, 9, True), device, torch.float32)
    assert torch.equal(triton_kernels.forward(*args), reference.forward(*args))


@pytest.mark.parametrize("index, wrong", [(0, 50), (1, -1), (2, 1 << 40)], ids=["ids", "positions", "types"])
def test_a_number_beyond_a_table_spoils_its_row_alone(device, index, wrong):
    args = moved(case(5, 9, True), device, torch.float32)
    args[index][3] = wrong
    y = triton_kernels.launch(*args)
    assert y.isnan().all(1).tolist() == [False, False, False, True, False] and y.isnan().sum() == 9


def test_tables_that_are_not_contiguous(device):
    args = moved(case(5, 16, True), device, torch.float32)
    args[3] = args[3].t().contiguous().t()
    assert_close_to_fp64(triton_kernels.launch(*args), in_fp64(args))


def kernel(dependent: bool) -> aot.Case:
    tables = dict.fromkeys(("word_ptr", "position_ptr", "type_ptr", "weight_ptr", "bias_ptr", "out_ptr"), "*bf16")
    arguments = {
        **dict.fromkeys(("ids_ptr", "positions_ptr", "types_ptr"), "*i64"),
        **tables,
        **dict.fromkeys(("n_words", "n_positions", "n_types"), "i32"),
        **{"hidden": 764, "eps": "fp32", "BLOCK": 1024, "DEPENDENT": dependent},
    }
    architectures = aot.DEPENDENT_ARCHITECTURES if dependent else aot.ARCHITECTURES
    name = "cofi_kernels.token_embedding.triton_kernels:embedding_kernel"
    return aot.Case(name, arguments, {"num_warps": 4}, architectures=architectures)


def test_it_compiles_for_every_architecture_without_spills():
    for report in aot.compile_cases([kernel(False), kernel(True)]):
        aot.assert_fits(report)
