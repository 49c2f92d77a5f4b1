"""Runs that prune an encoder of sentences: no labels, vectors that keep their dims, what is said of them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cofi import CompactModel
from cofi.cli import run as run_command
from cofi.data.batches import collate
from cofi.data.features import load_tokenizer, tokenize
from cofi.data.load import load_splits
from cofi.evaluate.__main__ import main as evaluate
from cofi.masks import Masks
from cofi.models.load import load_model
from cofi.models.probed import ProbedModel
from cofi.models.sentence_files import write_sentence_files
from cofi.sweep.__main__ import main as sweep
from cofi.train import scoring
from cofi.train.__main__ import main
from tests.killed import killed_after
from tests.tiny_run import WORDS, write_checkpoint
from tests.train.test_run import read_lines, without_times

PRIOR = ["--gate-prior", "fisher", "--rounding", "threshold", "--reg-learning-rate", "0.01"]


@pytest.fixture
def flags(flags):
    return [*flags, "--task-kind", "embedding", *PRIOR, "--gate-prior-rounds", "2"]


def scores(output, *words):
    assert evaluate([*map(str, words), "--json", str(output)]) == 0
    return json.loads(output.read_text())


def test_a_run_makes_a_small_encoder_of_sentences(flags, data, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer  # seconds, which not every worker has to spend

    assert main(flags) == 0
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["teacher_score"] == pytest.approx(100.0) and result["metric"] == "spearmanr"
    assert 0.59 < result["sparsity"] < 0.61 and result["structure"]["hidden"] == 32
    phases = {row["phase"] for row in read_lines(run / "metrics.jsonl")}
    assert phases == {"distil", "prune", "finetune"}  # what is to be repeated is there already

    sentences = ["the red cat sleeps", "a bird sings under the tree over the river", "dog"]
    tokens = load_tokenizer(run / "model")(sentences, padding=True, return_tensors="pt")
    model = CompactModel.from_pretrained(run / "model").eval()
    with torch.no_grad():
        ours = model(**tokens).sentence_embedding
    theirs = SentenceTransformer(str(run / "model"), device="cpu").encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    assert ours.shape == (3, 32)

    found = scores(tmp_path / "a.json", run)
    assert found["score"] == pytest.approx(result["compact_score"], abs=1e-4)
    assert set(found["metrics"]) == {"spearmanr", "cosine", "recall_at_10", "recall_10_at_100"}
    teacher = (run / "teacher").rename(tmp_path / "teacher")  # then it is the model that was pruned
    assert scores(tmp_path / "d.json", run)["metrics"] == pytest.approx(found["metrics"], abs=1e-6)
    words = ("--task", "animals", "--data", data, "--task-kind", "embedding")
    (tmp_path / "alone").mkdir()
    alone = (run / "model").rename(tmp_path / "alone" / "small")
    again = scores(tmp_path / "b.json", alone, *words, "--reference", teacher)
    assert again["metrics"] == pytest.approx(found["metrics"], abs=1e-6)
    assert run_command(lambda: evaluate([str(alone), *map(str, words)])) == 2  # nothing says whose they should be
    other = write_checkpoint(tmp_path / "other", pieces=("##s",))
    assert run_command(lambda: evaluate([str(alone), *map(str, words), "--reference", str(other)])) == 2
    assert "must have the vocabulary of" in capsys.readouterr().err
    write_sentence_files(load_model(other, head="embedding").model.config, other)
    own = scores(tmp_path / "c.json", other, *words, "--reference", other)  # of Sentence Transformers' own format
    assert own["metrics"] == pytest.approx({name: 1 for name in found["metrics"]}, abs=1e-6)


def test_cosines_are_held_against_labels_of_pairs(flags, checkpoint, tmp_path, capsys):
    assert main(flags) == 0
    rows = {"sentence1": WORDS[:8], "sentence2": WORDS[8:], "score": [0.1, 0.9, 0.3, 0.2, 0.8, 0.5, 0.7, 0.45]}
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    words = (tmp_path / "run" / "model", "--task", "text", "--validation-file", tmp_path / "pairs.parquet")
    words = (*words, "--label-column", "score", "--task-kind", "regression")
    found = scores(tmp_path / "a.json", *words)
    model, tokenizer = load_model(tmp_path / "run" / "model").model, load_tokenizer(tmp_path / "run" / "model")
    with torch.no_grad():
        first, second = (
            model(**tokenizer(rows[name], padding=True, return_tensors="pt")).sentence_embedding
            for name in ("sentence1", "sentence2")
        )
    together = torch.stack([(first * second).sum(1), torch.tensor(rows["score"])])
    assert found["metrics"]["pearson"] == pytest.approx(float(torch.corrcoef(together)[0, 1]), abs=1e-5)
    assert found["main_metric"] == "spearmanr" and found["score"] == pytest.approx(100 * found["metrics"]["spearmanr"])
    assert run_command(lambda: evaluate([*map(str, words), "--reference", str(checkpoint)])) == 2
    assert "--reference is for --task-kind embedding, task text is regression" in capsys.readouterr().err
    one = [*map(str, words[:5]), "--text-column", "sentence1", "--label-column", "score", "--task-kind", "regression"]
    pq.write_table(pa.table({name: rows[name] for name in ("sentence1", "score")}), tmp_path / "pairs.parquet")
    assert run_command(lambda: evaluate(one)) == 2
    assert "the head of " in capsys.readouterr().err


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_a_killed_run_resumes_bit_for_bit_wherever_outputs_are_kept(flags, run_once, tmp_path, cache):
    flags = [*flags, "--distil-epochs", "0"]
    whole, broken = run_once(flags), tmp_path / "broken"
    with killed_after(6):
        main([*flags, "--output", str(broken), "--save-seconds", "0", "--teacher-cache", cache])
    assert main(["--output", str(broken), "--resume"]) == 0
    assert without_times(read_lines(broken / "metrics.jsonl")) == without_times(read_lines(whole / "metrics.jsonl"))
    models = [CompactModel.from_pretrained(run / "model").state_dict() for run in (whole, broken)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--no-distill"], "--task-kind embedding needs --distill: there are no labels to learn from"),
        (["--mask-kinds", "head,hidden"], "--mask-kinds must not have hidden with --task-kind embedding"),
        (
            ["--method", "small-student"],
            "--method small-student cuts hidden dims, --task-kind embedding keeps its vectors' dims",
        ),
    ],
)
def test_what_cannot_be(flags, given, words, capsys, tmp_path):
    assert run_command(lambda: main([*flags, *given])) == 2
    said = capsys.readouterr().err
    assert words in said
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_dims_is_refused(flags, tmp_path, capsys):
    teacher = write_checkpoint(tmp_path / "wide", hidden_size=40)
    assert run_command(lambda: main([*flags, "--teacher", str(teacher)])) == 2
    assert f"must make embeddings of as many dims as --teacher {teacher}, 40, got 32" in capsys.readouterr().err


def test_texts_with_replaced_words_are_embedded_too(flags, tmp_path):
    wordpieces = write_checkpoint(tmp_path / "wordpieces", pieces=("##s", "##ing"))
    words = ["--model", str(wordpieces), "--augment", "2", "--distil-epochs", "0", "--prune-epochs", "1"]
    assert main([*flags, *words, "--sparsity-warmup-epochs", "0.5"]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["compact_score"] > 20


def test_scores_are_how_far_a_mask_moves_the_embedding(checkpoint, data):
    splits = load_splits("animals", data_dir=data, task_kind="embedding")
    split = tokenize(splits.train, splits.task, load_tokenizer(checkpoint), 32)
    model = load_model(checkpoint, head="embedding").model
    ones = {"head": torch.ones(2, 4), "int": torch.ones(2, 48)}
    batch, probed = collate(split, range(3)), ProbedModel(model, Masks.from_kinds(ones))
    drawn = []
    for seed in range(250):
        labels = scoring._drawn(probed, batch, seed)
        drawn.append(probed.gradients(batch.packed, labels)["head"].square())
    again = probed.gradients(batch.packed, scoring._drawn(probed, batch, 249))["head"].square()
    assert torch.equal(again, drawn[-1])

    def embeddings(z):
        return model(batch=batch.packed, masks=Masks.from_kinds({**ones, "head": z})).sentence_embedding

    jacobian = torch.autograd.functional.jacobian(embeddings, ones["head"])  # (B, E, L, H)
    want = 4 * jacobian.square().sum(1)  # of the squared distance to noise of unit variance
    torch.testing.assert_close(torch.stack(drawn).mean(0), want, rtol=0.4, atol=0.0)
    torch.testing.assert_close(torch.stack(drawn).mean(0).sum(), want.sum(), rtol=0.2, atol=0.0)


def test_a_sweep_of_encoders(checkpoint, data, tmp_path):
    words = ["--tasks", "animals", "--data", str(data), "--model", str(checkpoint), "--task-kind", "embedding"]
    words += ["--sparsities", "0.5", "--prune-epochs", "1", "--sparsity-warmup-epochs", "0.5", "--finetune-epochs", "1"]
    words += ["--variants", "default", "fisher", "--batch-size", "16", "--device", "cpu"]
    assert sweep(["--output", str(tmp_path / "sweep"), *words]) == 0
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert "| fisher | 50.0 % | " in table and "Teacher: spearmanr 100.00" in table
