from __future__ import annotations

import copy

import torch
from torch import nn

from cofi.masks import Gates, Lagrangian, ModelShape
from cofi.models import CompactConfig, CompactModel
from cofi.train import optim
from cofi.train.optim import ClippingAdamW, PhaseOptimizers, linear_schedule, weight_optimizer


def tiny_model() -> CompactModel:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
    }
    return CompactModel(CompactConfig(vocab_size=30, head="classification", num_labels=3, **sizes))


def test_biases_and_norms_are_not_decayed():
    model = tiny_model()
    optimizer = weight_optimizer([model], lr=1e-3, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert (optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[1]["weight_decay"]) == (0.1, 0.0)
    assert {"layers.0.attention.w_qkv", "layers.0.ffn.w_down", "classifier.weight"} <= decayed
    assert {"layers.0.attention.b_qkv", "layers.0.ffn.norm.weight", "embeddings.norm.bias", "classifier.bias"} <= plain
    assert decayed | plain == set(names.values())


def test_frozen_parameters_are_left_out():
    model = tiny_model()
    model.embeddings.requires_grad_(False)
    optimizer = weight_optimizer([model], lr=1e-3, weight_decay=0.0)
    kept = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not kept & {id(p) for p in model.embeddings.parameters()}


def rates(steps: int, warmup: float, decay: bool) -> list[float]:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = linear_schedule(optimizer, steps, warmup, decay)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_linear_schedule_rises_and_falls():
    seen = rates(100, 0.1, decay=True)
    assert seen[0] < seen[5] < seen[10] == max(seen) == 1.0
    assert 0 < seen[-1] < 0.02


def test_constant_schedule_stays_at_its_peak():
    assert rates(10, 0.0, decay=False) == [1.0] * 10


def test_weights_descend_multipliers_ascend_gates_stay_in_range():
    torch.manual_seed(0)
    shape = ModelShape(n_layers=1, n_heads=2, head_dim=8, d_hidden=16, d_int=24)
    gates = Gates(shape, ("head", "int"), seed=1)
    lagrangian = Lagrangian()
    weight = nn.Linear(2, 1, bias=False)
    optimizers = PhaseOptimizers(
        weights := weight_optimizer([weight], 0.1, 0.0),
        linear_schedule(weights, 5, 0.0, False),
        1.0,
        gates,
        lagrangian,
        0.5,
    )
    before = weight.weight.detach().clone()
    (weight.weight.sum() + lagrangian.lambda_1 + 1e3 * gates.loga.sum()).backward()
    optimizers.step()
    assert (weight.weight < before).all()
    assert lagrangian.lambda_1.item() > 0
    assert gates.loga.abs().max() <= 4.6052
    assert weight.weight.grad is None


def steps_of(optimizer, params, gradients, max_norm):
    for grads in gradients:
        for p, grad in zip(params, grads, strict=True):
            p.grad = None if grad is None else grad.clone()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, max_norm)
        optimizer.step()


def test_steps_and_state_are_those_of_torch():
    """Also where one goes on from the other's state, as a run that was begun before does."""
    start = [torch.randn(3, 5), torch.randn(7)]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(6)]
    settings = {"lr": 1e-2, "weight_decay": 0.1, "fused": True}
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    torchs = torch.optim.AdamW(theirs, **settings)
    first = ClippingAdamW(ours, **settings)
    first.max_grad_norm = 1.0
    steps_of(first, ours, gradients[:3], None)
    steps_of(torchs, theirs, gradients[:3], 1.0)
    second = ClippingAdamW(ours, **settings)
    second.load_state_dict(copy.deepcopy(torchs.state_dict()))  # or both would step one state
    second.max_grad_norm = 1.0
    steps_of(second, ours, gradients[3:], None)
    steps_of(torchs, theirs, gradients[3:], 1.0)
    torch.testing.assert_close(ours, theirs)
    states = [optimizer.state_dict()["state"] for optimizer in (second, torchs)]
    torch.testing.assert_close(states[0], states[1])


def test_no_gradient_means_zeros():
    start = [torch.randn(3, 5), torch.randn(7)]
    gradients = [[torch.randn(3, 5), None if step in (0, 2) else torch.randn(7)] for step in range(4)]
    filled = [[torch.zeros(7) if grad is None else grad for grad in grads] for grads in gradients]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    steps_of(ClippingAdamW(ours, lr=1e-2, weight_decay=0.1), ours, gradients, None)
    steps_of(torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1), theirs, filled, None)
    torch.testing.assert_close(ours, theirs)


def phase_optimizers(device: str) -> PhaseOptimizers:
    model = tiny_model().to(device)
    weights = ClippingAdamW(model.parameters(), lr=1e-3, **optim.capturable(model.parameters()))
    gates, lagrangian = Gates(model.config.shape(), "all", seed=0).to(device), Lagrangian().to(device)
    schedule = linear_schedule(weights, 10, 0.1, True)
    return PhaseOptimizers(weights, schedule, 1.0, gates, lagrangian, 0.1)


def test_a_checkpoint_of_a_cpu_goes_on_as_a_gpu_steps(monkeypatch):
    """On the device "meta", which like a GPU is not the host; a learning rate there could not be checked."""
    on_cpu = phase_optimizers("cpu")
    for p in on_cpu.parameters:
        p.grad = torch.ones_like(p)
    on_cpu.step()
    monkeypatch.setattr(optim, "capturable", lambda parameters: {"fused": True, "capturable": True})
    moved = phase_optimizers("meta")
    moved.load_state_dict(on_cpu.state_dict())
    for optimizer in moved.all.values():
        assert all(group["capturable"] and group["fused"] for group in optimizer.param_groups)
        states = list(optimizer.state.values())
        assert states and {t.device.type for state in states for t in state.values()} == {"meta"}
    monkeypatch.undo()
    assert all(not group.get("capturable") for o in on_cpu.all.values() for group in o.param_groups)
