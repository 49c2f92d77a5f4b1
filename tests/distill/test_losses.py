from types import SimpleNamespace

import pytest
import torch

from cofi.distill import PREDICTION_LOSSES, prediction_loss

CU_SEQLENS = torch.tensor([0, 4, 4, 5, 12], dtype=torch.int32)  # one sequence is empty, one holds a single token


def prediction(logits=None, start_logits=None, end_logits=None, sentence_embedding=None):
    return SimpleNamespace(
        logits=logits, start_logits=start_logits, end_logits=end_logits, sentence_embedding=sentence_embedding
    )


def draw(*shape, seed):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student) of one example, from the definition."""
    p, q = (teacher / temperature).exp(), (student / temperature).exp()
    p, q = p / p.sum(), q / q.sum()
    return temperature**2 * (p * (p / q).log()).sum()


@pytest.mark.parametrize("temperature", [2 / 3, 1.0, 2.0])
def test_classification_is_the_mean_softened_kl(temperature):
    student, teacher = draw(5, 3, seed=0).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    loss = prediction_loss("classification", prediction(student), prediction(teacher), temperature=temperature)
    (grad,) = torch.autograd.grad(loss, student)
    expected = torch.stack([plain_kl(s, t, temperature) for s, t in zip(student, teacher, strict=True)]).mean()
    (expected_grad,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("predicted", [None, [True, False, True, False, False], [False] * 5])
def test_token_classification_is_the_mean_over_tokens_that_count(predicted):
    student, teacher = draw(5, 3, seed=0).requires_grad_(), draw(5, 3, seed=1)
    counts = None if predicted is None else torch.tensor(predicted)
    outputs = prediction(student), prediction(teacher)
    loss = prediction_loss("token_classification", *outputs, temperature=2.0, predicted=counts)
    rows = range(5) if predicted is None else [i for i in range(5) if predicted[i]]
    expected = sum((plain_kl(student[i], teacher[i], 2.0) for i in rows), 0 * student.sum()) / max(len(rows), 1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in (loss, expected)))


@pytest.mark.parametrize("temperature", [2 / 3, 2.0])
def test_several_labels_are_compared_each_as_there_or_not(temperature):
    """A softmax over (logit, 0) is what a sigmoid says."""
    student, teacher = draw(5, 3, seed=0).requires_grad_(), draw(5, 3, seed=1)
    loss = prediction_loss("multi_label", prediction(student), prediction(teacher), temperature=temperature)
    pairs = [torch.stack((x, torch.zeros_like(x)), -1).flatten(0, 1) for x in (student, teacher)]
    expected = sum(plain_kl(s, t, temperature) for s, t in zip(*pairs, strict=True)) / 5
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in (loss, expected)))


def test_several_labels_of_large_logits_stay_finite():
    student = torch.tensor([[3e4, -3e4, 0.0]], requires_grad=True)
    loss = prediction_loss("multi_label", prediction(student), prediction(-student.detach()), temperature=2.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_the_teacher_gets_no_gradient():
    student, teacher = draw(5, 3, seed=0).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    prediction_loss("classification", prediction(student), prediction(teacher), temperature=2.0).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_regression_is_the_squared_error_whatever_the_temperature(shape):
    student, teacher = draw(*shape, seed=0), draw(*shape, seed=1)
    for temperature in (1.0, 2.0):
        loss = prediction_loss("regression", prediction(student), prediction(teacher), temperature=temperature)
        torch.testing.assert_close(loss, (student - teacher).square().mean())


def test_embeddings_of_unit_length_are_as_far_apart_as_their_cosines_say():
    student, teacher = (torch.nn.functional.normalize(draw(5, 7, seed=seed), dim=1) for seed in (0, 1))
    outputs = [prediction(sentence_embedding=rows) for rows in (student, teacher)]
    for temperature in (1.0, 2.0):
        loss = prediction_loss("embedding", *outputs, temperature=temperature)
        torch.testing.assert_close(loss, (2 - 2 * (student * teacher).sum(1)).mean())


@pytest.mark.parametrize("max_seqlen", [None, 7, 20])
def test_question_answering_compares_each_example_over_its_own_tokens(max_seqlen):
    outputs = [draw(12, seed=seed).requires_grad_() for seed in range(4)]
    loss = prediction_loss(
        "question_answering",
        prediction(None, *outputs[:2]),
        prediction(None, *outputs[2:]),
        temperature=2.0,
        cu_seqlens=CU_SEQLENS,
        max_seqlen=max_seqlen,
    )
    grads = torch.autograd.grad(loss, outputs[:2])
    expected = torch.zeros((), dtype=torch.float64)
    for student, teacher in zip(outputs[:2], outputs[2:], strict=True):
        for low, high in zip(CU_SEQLENS[:-1].tolist(), CU_SEQLENS[1:].tolist(), strict=True):
            if low < high:
                expected = expected + plain_kl(student[low:high], teacher[low:high].detach(), 2.0)
    expected = expected / (2 * (len(CU_SEQLENS) - 1))
    torch.testing.assert_close(loss, expected)
    for grad, expected_grad in zip(grads, torch.autograd.grad(expected, outputs[:2]), strict=True):
        torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("kind", PREDICTION_LOSSES)
def test_a_student_that_says_what_the_teacher_says_has_no_loss(kind):
    both = prediction(draw(4, 3, seed=0), draw(12, seed=1), draw(12, seed=2), draw(4, 6, seed=3))
    loss = prediction_loss(kind, both, both, temperature=2.0, cu_seqlens=CU_SEQLENS)
    assert loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", PREDICTION_LOSSES)
def test_half_precision_logits_are_compared_in_fp32(kind):
    outputs = prediction(*(draw(*shape, seed=0).to(torch.bfloat16) for shape in ((4, 3), (12,), (12,), (4, 6))))
    assert prediction_loss(kind, outputs, outputs, temperature=2.0, cu_seqlens=CU_SEQLENS).dtype == torch.float32


@pytest.mark.parametrize("kind", PREDICTION_LOSSES)
def test_nothing_is_read_on_the_host(kind):
    outputs = prediction(*(torch.zeros(shape, device="meta") for shape in ((4, 3), (12,), (12,), (4, 6))))
    loss = prediction_loss(kind, outputs, outputs, temperature=2.0, cu_seqlens=CU_SEQLENS.to("meta"))
    assert loss.shape == ()


def test_large_logits_stay_finite():
    student, teacher = torch.tensor([3e4, -3e4, 0.0, 1.0]), torch.tensor([-3e4, 3e4, 0.0, 1.0])
    student.requires_grad_()
    loss = prediction_loss(
        "question_answering",
        prediction(None, student, student),
        prediction(None, teacher, teacher),
        temperature=2.0,
        cu_seqlens=torch.tensor([0, 3, 4], dtype=torch.int32),
    )
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


LOGITS = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("ranking", prediction(LOGITS), prediction(LOGITS), 1.0),
            "classification, multi_label, regression",
        ),
        (("classification", prediction(LOGITS), prediction(LOGITS), 0.0), "temperature must be positive, got 0.0"),
        (("classification", prediction(), prediction(LOGITS), 1.0), "student must return logits"),
        (("regression", prediction(LOGITS), prediction(), 1.0), "teacher must return logits"),
        (("regression", prediction(LOGITS), prediction(LOGITS[:3]), 1.0), "one shape"),
        (("classification", prediction(LOGITS[:, :1]), prediction(LOGITS[:, :1]), 1.0), "regression"),
        (("question_answering", prediction(), prediction(), 1.0), "cu_seqlens"),
    ],
    ids=["kind", "temperature", "no student", "no teacher", "shapes", "one class", "no cu_seqlens"],
)
def test_wrong_arguments_are_named(arguments, message):
    kind, student, teacher, temperature = arguments
    with pytest.raises(ValueError, match=message):
        prediction_loss(kind, student, teacher, temperature=temperature)
