"""Expected size of BERT-base from the keep probabilities of all its gates, and the gradient, against PyTorch."""

from __future__ import annotations

import torch

from cofi_kernels import expected_size

FAMILY = "expected_size"
LAYERS, HEADS, INTERMEDIATE, HIDDEN = 12, 12, 3072, 768
HEAD_COST, INT_COST = 196_864.0, 1_537.0
SIZES = {"n_hidden": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "n_int": INTERMEDIATE}


def plain(p_head, p_int, p_mha, p_ffn, p_hidden):
    attention, ffn = (p_mha * p_head.sum(1)).sum(), (p_ffn * p_int.sum(1)).sum()
    return p_hidden.sum() * (HEAD_COST / HIDDEN * attention + 2 * ffn)


def ours(p_head, p_int, p_mha, p_ffn, p_hidden):
    return expected_size(p_head, p_int, p_mha, p_ffn, p_hidden, head_cost=HEAD_COST, int_cost=INT_COST, **SIZES)


def test_size_and_gradients(contest, compiled, device):
    shapes = ((LAYERS, HEADS), (LAYERS, INTERMEDIATE), (LAYERS,), (LAYERS,), (HIDDEN,))
    p = [torch.rand(shape, device=device, requires_grad=True) for shape in shapes]

    def both(function):
        size = function(*p)
        return size.detach(), *torch.autograd.grad(size, p)

    fast = compiled(plain)
    rivals = {"eager": lambda: both(plain), "compiled": lambda: both(fast)}
    bytes_moved = 3 * sum(t.nbytes for t in p)
    contest(FAMILY, "size and gradients bert-base", lambda: both(ours), rivals, bytes_moved=bytes_moved)
