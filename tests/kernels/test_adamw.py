"""AdamW over all tensors at once: against torch's own with torch's clipping, in fp64; absent gradients; arguments."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import adamw_, force_backend
from cofi_kernels.testing import assert_close_to_fp64

SIZES = [(1,), (7,), (3, 5), (0,), (40_000,), (17, 31)]  # one element, odd, none, more than a piece
SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.99), "eps": 1e-6}
DECAYS = [0.0, 0.1, 0.0, 0.1, 0.1, 0.0]


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(size, dtype=torch.float64).to(dtype) for size in SIZES]


def gradients(step, dtype=torch.float32):
    torch.manual_seed(step + 1)
    return [torch.randn(size, dtype=torch.float64).to(dtype) for size in SIZES]


def by_torch(n_steps, max_norm, absent=()):
    """fp64, gradients that are absent being zeros."""
    params = [torch.nn.Parameter(p.double()) for p in parameters()]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(params, DECAYS, strict=True)]
    optimizer = torch.optim.AdamW(groups, **SETTINGS)
    norms = []
    for step in range(n_steps):
        for i, (p, grad) in enumerate(zip(params, gradients(step), strict=True)):
            p.grad = torch.zeros_like(p) if (step, i) in absent else grad.double()
        norms.append(torch.nn.utils.clip_grad_norm_(params, max_norm or float("inf")))
        optimizer.step()
    return [p.detach() for p in params], norms


def by_us(n_steps, max_norm, absent=()):
    params = parameters()
    exp_avgs, exp_avg_sqs = ([torch.zeros_like(p) for p in params] for _ in range(2))
    norms = []
    for step in range(n_steps):
        grads = [None if (step, i) in absent else grad for i, grad in enumerate(gradients(step))]
        norm = adamw_(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            steps=[step + 1] * len(params),
            lrs=[SETTINGS["lr"]] * len(params),
            weight_decays=DECAYS,
            betas=SETTINGS["betas"],
            eps=SETTINGS["eps"],
            max_norm=max_norm,
        )
        norms.append(norm)
    return params, norms


def assert_same(ours, theirs):
    for kind, got, want in zip(("parameter", "norm"), ours, theirs, strict=True):
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            assert_close_to_fp64(g, w, name=f"{kind} {i}")


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6], ids=["no clipping", "clipped", "within"])
def test_steps_are_torchs(backend, max_norm):
    assert_same(by_us(4, max_norm), by_torch(4, max_norm))


def test_every_instruction_set(isa):
    assert_same(by_us(2, 1.0), by_torch(2, 1.0))


def test_an_absent_gradient_is_one_of_zeros(backend):
    absent = {(0, 1), (1, 4), (2, 4), (2, 0)}
    assert_same(by_us(4, 1.0, absent), by_torch(4, 1.0, absent))


def test_no_gradient_at_all(backend):
    everything = {(step, i) for step in range(2) for i in range(len(SIZES))}
    params, norms = by_us(2, 1.0, everything)
    assert [float(norm) for norm in norms] == [0.0, 0.0]
    for p, start, decay in zip(params, parameters(), DECAYS, strict=True):
        torch.testing.assert_close(p, start * (1 - SETTINGS["lr"] * decay) ** 2)


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want, want_norms = by_us(2, 1.0)
        torch.set_num_threads(threads)
        got, norms = by_us(2, 1.0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(g, w) for g, w in zip([*got, *norms], [*want, *want_norms], strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_shows(backend, bad):
    """As with torch's clipping, it spoils every parameter rather than one."""
    params = [torch.ones(3), torch.ones(2)]
    moments = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    numbers = {"steps": [1, 1], "lrs": [0.1, 0.1], "weight_decays": [0.0, 0.0]}
    norm = adamw_(params, [torch.tensor([1.0, bad, 1.0]), None], *moments, **numbers, max_norm=1.0)
    assert not norm.isfinite()
    assert params[0][1].isnan()


def test_moments_that_fade_reach_zero():
    """0.9 times the smallest numbers rounds to themselves: they would stay for ever, and slow many processors down."""
    p, m, v = torch.ones(3), torch.full((3,), 1e-38), torch.full((3,), 1e-38)
    for step in range(3):
        adamw_([p], [None], [m], [v], steps=[step + 1], lrs=[0.1], weight_decays=[0.0])
    assert not m.any() and not v.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_run_by_the_definition(dtype):
    p, grad = torch.ones(5, dtype=dtype), torch.full((5,), 0.5, dtype=dtype)
    moments = [[torch.zeros_like(p)] for _ in range(2)]
    adamw_([p], [grad], *moments, steps=[1], lrs=[0.1], weight_decays=[0.0])
    torch.testing.assert_close(p, torch.full_like(p, 0.9))


def test_tensors_with_strides_are_changed_in_place():
    whole = torch.ones(4, 6)
    p, grad = whole.t(), torch.ones(6, 4)
    moments = [[torch.zeros_like(p)] for _ in range(2)]
    adamw_([p], [grad], *moments, steps=[1], lrs=[0.5], weight_decays=[0.0])
    torch.testing.assert_close(whole, torch.full((4, 6), 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [0]}, "steps must be at least 1, got 0"),
        ({"lrs": []}, "lrs must have one entry for each of 1 params, got 0"),
        ({"max_norm": -1.0}, "max_norm must not be negative, got -1.0"),
    ],
)
def test_wrong_numbers_are_named(change, message):
    numbers = {"steps": [1], "lrs": [0.1], "weight_decays": [0.0], **change}
    with pytest.raises(ValueError, match=message):
        adamw_([torch.ones(2)], [None], [torch.zeros(2)], [torch.zeros(2)], **numbers)


def test_wrong_tensors_are_named():
    numbers = {"steps": [1], "lrs": [0.1], "weight_decays": [0.0]}
    with pytest.raises(ValueError, match=r"grads\[0\] must have shape \(2\), got \(3,\)"):
        adamw_([torch.ones(2)], [torch.ones(3)], [torch.zeros(2)], [torch.zeros(2)], **numbers)
    with pytest.raises(TypeError, match=r"exp_avgs\[0\] must have the dtype"):
        adamw_([torch.ones(2)], [None], [torch.zeros(2).double()], [torch.zeros(2)], **numbers)
    with pytest.raises(ValueError, match="params must hold at least one tensor"):
        adamw_([], [], [], [], steps=[], lrs=[], weight_decays=[])


def test_the_op_knows_its_shapes():
    args = ([torch.ones(2)], [torch.ones(2)], [torch.zeros(2)], [torch.zeros(2)], [1.0], [0.1], [0.0])
    for way in ("auto", "reference"):
        with force_backend(way):
            torch.library.opcheck(
                torch.ops.cofi_kernels.adamw_.default,
                (*args, 0.9, 0.999, 1e-8, 1.0),
                test_utils=("test_schema", "test_faketensor"),
            )


def test_writes_are_counted():
    """As PyTorch's own optimizers' are: who keeps what was made of a parameter sees that it is old."""
    lists = [[torch.ones(3)] for _ in range(4)]
    adamw_(*lists, steps=[1.0], lrs=[0.1], weight_decays=[0.0])
    params, grads, exp_avgs, exp_avg_sqs = (tensors[0]._version for tensors in lists)
    assert grads == 0 and min(params, exp_avgs, exp_avg_sqs) > 0
