"""all-mpnet-base-v2 without its relative position bias: pretrained weights of BERT-base's size, for results on width.

MPNet is RoBERTa but for a bias that its attention adds by the distance of two tokens, which no kernel here has. Left
out, its sentence embeddings still order 300 pairs of STS-B as people do to a Spearman correlation of 0.82 (0.94
with it), so what is fine-tuned from there is neither MPNet nor as good, but far from random.

    python -m bench.mpnet path/to/all-mpnet-base-v2 mpnet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MPNetConfig, PreTrainedTokenizerFast, RobertaConfig

LEFT_OUT = ("encoder.relative_attention_bias.weight", "embeddings.position_ids")
RENAMED = {
    ".attention.attn.q.": ".attention.self.query.",
    ".attention.attn.k.": ".attention.self.key.",
    ".attention.attn.v.": ".attention.self.value.",
    ".attention.attn.o.": ".attention.output.dense.",
    ".attention.LayerNorm.": ".attention.output.LayerNorm.",
}
SHARED = (  # what both configurations say in the same words
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "initializer_range"),
    *("layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"),
)
SPECIAL = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "[UNK]", "mask": "<mask>"}


def roberta_weights(weights: dict[str, Tensor], hidden_size: int) -> dict[str, Tensor]:
    """The tensors of an MPNetModel under the names of a RobertaModel, which has an embedding of token types besides."""
    renamed = {"embeddings.token_type_embeddings.weight": torch.zeros(1, hidden_size)}
    for name, tensor in weights.items():
        if name in LEFT_OUT:
            continue
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def convert(source: Path, output: Path) -> None:
    """Write `output`, a checkpoint of RoBERTa with MPNet's tokenizer, from the checkpoint in `source`."""
    config = MPNetConfig.from_pretrained(source)
    output.mkdir(parents=True, exist_ok=True)
    weights = roberta_weights(load_file(source / "model.safetensors"), config.hidden_size)
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    kept = {name: getattr(config, name) for name in SHARED}
    RobertaConfig(type_vocab_size=1, architectures=["RobertaModel"], **kept).save_pretrained(output)
    special = {f"{name}_token": token for name, token in SPECIAL.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"),
        model_max_length=config.max_position_embeddings - config.pad_token_id - 1,
        **special,
    )
    tokenizer.backend_tokenizer.no_padding()  # the file pads and cuts every text to 128 tokens
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(output)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mpnet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="directory of all-mpnet-base-v2: config, safetensors and tokenizer")
    parser.add_argument("output", type=Path, help="directory for the converted checkpoint")
    options = parser.parse_args(arguments)
    if not (options.source / "model.safetensors").is_file():
        parser.error(f"SOURCE must hold model.safetensors, got {options.source}")
    convert(options.source, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])
