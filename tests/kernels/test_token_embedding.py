"""Token embeddings: values against fp64, tables of every kind, numbers beyond a table, registration."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import token_embedding
from cofi_kernels.testing import assert_close_to_fp64
from cofi_kernels.token_embedding import reference


def case(n_tokens: int, hidden: int, with_types: bool, dtype: torch.dtype = torch.float32):
    ids, positions = torch.randint(0, 50, (n_tokens,)), torch.randint(0, 20, (n_tokens,))
    types = torch.randint(0, 2, (n_tokens,)) if with_types else None
    token_type = torch.randn(2, hidden, dtype=dtype) if with_types else None
    word, position = torch.randn(50, hidden, dtype=dtype), torch.randn(20, hidden, dtype=dtype)
    weight, bias = torch.randn(hidden, dtype=dtype), torch.randn(hidden, dtype=dtype)
    return [ids, positions, types, word, position, token_type, weight, bias, 1e-12]


def in_fp64(args):
    return reference.forward(
        *(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
    )


@pytest.mark.parametrize("n_tokens, hidden", [(0, 9), (1, 9), (131, 83), (64, 64), (7, 768)])
@pytest.mark.parametrize("with_types", [True, False], ids=["types", "no types"])
def test_values_match_fp64(isa, backend, n_tokens, hidden, with_types):
    args = case(n_tokens, hidden, with_types)
    assert_close_to_fp64(token_embedding(*args), in_fp64(args))


def test_other_dtypes(backend):
    args = case(5, 9, True, torch.float64)
    torch.testing.assert_close(token_embedding(*args), reference.forward(*args))


def test_tables_that_are_not_contiguous(backend):
    args = case(5, 16, True)
    args[3] = args[3].t().contiguous().t()
    assert_close_to_fp64(token_embedding(*args), in_fp64(args))


@pytest.mark.parametrize("index, wrong", [(0, 50), (1, -1), (2, 2)], ids=["ids", "positions", "types"])
def test_numbers_beyond_a_table(index, wrong):
    args = case(5, 9, True)
    args[index][3] = wrong
    with pytest.raises(IndexError, match=("ids", "positions", "types")[index] + r" must be in \[0, "):
        token_embedding(*args)


def test_rejects_what_does_not_fit():
    args = case(5, 9, True)
    with pytest.raises(ValueError, match="types and token_type must be given together"):
        token_embedding(*args[:5], None, *args[6:])
    with pytest.raises(ValueError, match=r"position must have shape \(rows, 9\)"):
        token_embedding(*args[:4], torch.zeros(20, 8), *args[5:])
    with pytest.raises(ValueError, match="eps must be positive, got -1.0"):
        token_embedding(*args[:-1], -1.0)
    with pytest.raises(TypeError, match="ids must be one of torch.int64"):
        token_embedding(args[0].int(), *args[1:])


def test_gradient_is_refused():
    args = case(5, 9, True)
    args[3].requires_grad_()
    with pytest.raises(RuntimeError, match="token_embedding has no gradient"):
        token_embedding(*args).sum().backward()


def test_registered_op_obeys_pytorch_contract(backend):
    torch.library.opcheck(torch.ops.cofi_kernels.token_embedding.default, tuple(case(5, 9, True)))
