"""Structures that are measured on a CPU and on a GPU, their models with random weights, and the work of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from cofi.models import CompactConfig, CompactModel

HELP = "JSON {name: {hidden, heads, int}} in place of CoFi's on MNLI"
SPREAD = 0.02  # added to every weight: biases are not 0 and norms not 1, so that a wrong one shows


@dataclass(frozen=True)
class Structure:
    """Hidden size, and heads and intermediate dims of every layer; a sublayer without any is removed."""

    hidden: int
    heads: tuple[int, ...]
    intermediate: tuple[int, ...]
    head_dim: int = 64
    vocabulary: int = 30522
    longest: int = 512

    @property
    def weights(self) -> int:
        """Of the products of the encoder."""
        return (4 * self.head_dim * sum(self.heads) + 2 * sum(self.intermediate)) * self.hidden

    def flops(self, lengths: list[int]) -> float:
        """Of the products of the encoder, tokens only."""
        attention = 4.0 * self.head_dim * sum(self.heads) * sum(n * n for n in lengths)
        return 2.0 * sum(lengths) * self.weights + attention

    def bytes_moved(self, lengths: list[int], element: int) -> float:
        """The least: weights once, a row of the word table and the logits' row for every token and sequence."""
        return float(element * (self.weights + self.hidden * (sum(lengths) + len(lengths))))


DENSE = "dense"
# CoFi's results on MNLI at 60, 80 and 95 % sparsity, and BERT-base
STRUCTURES = {
    "s95": Structure(764, (2, 3, 2, 0, 0, 0, 0, 0, 2, 2, 1, 0), (500, 300, 0, 0, 0, 0, 0, 0, 0, 250, 0, 200)),
    "s80": Structure(
        760,
        (6, 6, 4, 4, 4, 5, 3, 2, 5, 2, 3, 2),
        (710, 360, 700, 620, 620, 460, 130, 500, 230, 200, 200, 260),
    ),
    "s60": Structure(
        760,
        (9, 8, 7, 9, 9, 8, 7, 5, 9, 5, 6, 5),
        (1370, 1050, 1340, 1220, 1290, 1260, 660, 990, 800, 300, 190, 300),
    ),
    DENSE: Structure(768, (12,) * 12, (3072,) * 12),
}
TINY = {
    "s95": Structure(12, (2, 0), (20, 0), head_dim=8, vocabulary=50, longest=32),
    DENSE: Structure(16, (2, 1), (0, 24), head_dim=8, vocabulary=50, longest=32),
}


def read(path: Path) -> dict[str, Structure]:
    """Structures of a JSON file {name: {"hidden", "heads", "int"}}, and BERT-base."""
    content = json.loads(path.read_text())
    found = {name: Structure(s["hidden"], tuple(s["heads"]), tuple(s["int"])) for name, s in content.items()}
    return {**found, DENSE: STRUCTURES[DENSE]}


def chosen(path: Path | None, only: list[str] | None = None) -> dict[str, Structure]:
    """CoFi's on MNLI and BERT-base, or those of a file; `only` names those that are wanted, in their order."""
    found = STRUCTURES if path is None else read(path)
    unknown = set(only or ()) - set(found)
    if unknown:
        raise SystemExit(f"--only must name {', '.join(found)}, got {', '.join(sorted(unknown))}")
    return {name: found[name] for name in only or found}


def build(structure: Structure, device: str = "cpu", *, spread: float = SPREAD) -> CompactModel:
    """An fp32 classifier of three labels with random weights. spread: added to all of them, times normal numbers."""
    widths = zip(structure.heads, structure.intermediate, strict=True)
    config = {
        "vocab_size": structure.vocabulary,
        "hidden_size": structure.hidden,
        "head_dim": structure.head_dim,
        "max_position_embeddings": structure.longest,
        "num_hidden_layers": len(structure.heads),
        "per_layer_config": {i: {"num_attention_heads": h, "intermediate_size": n} for i, (h, n) in enumerate(widths)},
        "head": "classification",
        "num_labels": 3,
    }
    model = CompactModel(CompactConfig.from_dict(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters() if spread else ():
            parameter.add_(spread * torch.randn_like(parameter))
    return model.to(device)
