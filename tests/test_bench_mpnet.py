"""MPNet's weights under RoBERTa's names are MPNet but for its position bias."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, MPNetConfig, MPNetModel

from bench import mpnet
from cofi.models import load_model

WORDS = ["<s>", "<pad>", "</s>", "a", "b", "c", "[UNK]", "<mask>"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    config = MPNetConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=20,
        initializer_range=0.3,
    )
    folder = tmp_path / "mpnet"
    MPNetModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.enable_padding(length=9, pad_id=1, pad_token="<pad>")
    tokenizer.enable_truncation(9)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_only_the_position_bias_is_left_out(source: Path, tmp_path: Path) -> None:
    mpnet.main([str(source), str(tmp_path / "converted")])
    theirs = MPNetModel.from_pretrained(source).eval()
    ours = load_model(tmp_path / "converted").model.eval()
    ids = torch.tensor([[0, 3, 4, 2, 2, 5, 2], [0, 5, 2, 1, 1, 1, 1]])
    mask = (ids != 1).long()
    with torch.no_grad():
        with_bias = theirs(ids, mask).last_hidden_state[mask.bool()]
        theirs.encoder.relative_attention_bias.weight.zero_()
        expected = theirs(ids, mask).last_hidden_state[mask.bool()]
        got = ours(ids, mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (with_bias - expected).abs().max() > 1e-3


def test_the_tokenizer_pads_and_cuts_nothing(source: Path, tmp_path: Path) -> None:
    mpnet.main([str(source), str(tmp_path / "converted")])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert tokenizer("a b", "c")["input_ids"] == [0, 3, 4, 2, 2, 5, 2]
    assert len(tokenizer(" ".join("a" * 12))["input_ids"]) == 14
    assert tokenizer.model_max_length == 18


def test_what_is_no_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mpnet.main([str(tmp_path), str(tmp_path / "converted")])
    assert "SOURCE must hold model.safetensors" in capsys.readouterr().err
