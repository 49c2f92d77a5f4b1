from __future__ import annotations

import torch
from torch import nn

from cofi.masks import Gates, Lagrangian, ModelShape
from cofi.models import CompactConfig, CompactModel
from cofi.train.optim import PhaseOptimizers, linear_schedule, weight_optimizer


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
