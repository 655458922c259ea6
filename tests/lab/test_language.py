"""Next-character prediction."""

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from multirate.lab.data.text import Text
from multirate.lab.problems import language
from multirate.lab.problems.language import Language

VOCABULARY = tuple("abcdefg")
CPU = torch.device("cpu")


def make_text(train=1000, test=203, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Text(*(torch.randint(7, (length,), generator=generator) for length in (train, test)), VOCABULARY)


class Bigram(nn.Module):
    """Scores that depend on the last character only."""

    def __init__(self, vocabulary):
        super().__init__()
        self.scores = nn.Embedding(vocabulary, vocabulary)

    def forward(self, inputs):
        return self.scores(inputs)


def make_problem(text=None, **options):
    return Language(text or make_text(), Bigram, **{"batch_size": 4, "context": 10, "device": CPU, **options})


def epoch(problem, seed=0, first=0):
    return list(problem.batches(torch.Generator().manual_seed(seed), torch.Generator(), first))


def test_an_epoch_covers_the_text_once_on_average():
    assert make_problem().steps_per_epoch == 25
    assert make_problem(batch_size=3).steps_per_epoch == 33
    assert make_problem(batch_size=500).steps_per_epoch == 1
    problem = make_problem(steps_per_epoch=7)
    assert problem.steps_per_epoch == len(epoch(problem)) == 7
    assert problem.model.scores.weight.shape == (7, 7)


def test_targets_are_the_characters_that_follow():
    # Every character appears once, so that an index is a place in the text.
    length = 30
    text = Text(torch.arange(length), torch.arange(length), tuple(map(str, range(length))))
    starts = []
    for inputs, targets in epoch(make_problem(text, batch_size=5, steps_per_epoch=100)):
        assert inputs.shape == targets.shape == (5, 10)
        assert torch.equal(inputs, inputs[:, :1] + torch.arange(10))
        assert torch.equal(targets, inputs + 1)
        starts += inputs[:, 0].tolist()
    # The last window ends with the last character as its last target.
    assert set(starts) == set(range(20))


def test_an_epoch_can_be_entered_in_its_middle():
    problem = make_problem()
    order, noise = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    noise_state = noise.get_state()
    whole = list(problem.batches(order, noise))
    assert torch.equal(noise.get_state(), noise_state)
    for batch, expected in zip(epoch(problem, seed=3, first=6), whole[6:], strict=True):
        assert all(map(torch.equal, batch, expected))
    # All draws are made before the first batch.
    early = torch.Generator().manual_seed(3)
    next(islice(problem.batches(early, noise), 1))
    assert torch.equal(early.get_state(), order.get_state())
    assert not torch.equal(whole[0][0], next(problem.batches(order, noise))[0])


def test_the_loss_is_nats_a_character():
    problem = make_problem()
    batch = epoch(problem)[0]
    log_probabilities = problem.model.scores.weight.log_softmax(dim=1)
    expected = sum(-log_probabilities[x, y] for x, y in zip(batch[0].flatten(), batch[1].flatten(), strict=True)) / 40
    torch.testing.assert_close(problem.loss(batch), expected)
    (gradient,) = torch.autograd.grad(problem.loss(batch), problem.model.scores.weight)
    (expected_gradient,) = torch.autograd.grad(expected, problem.model.scores.weight)
    torch.testing.assert_close(gradient, expected_gradient)
    nn.init.zeros_(problem.model.scores.weight)
    assert problem.loss(batch).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize(("test", "limit", "windows"), [(203, 50_000, 20), (201, 50_000, 20), (200, 50_000, 19)])
@pytest.mark.parametrize("batch", [3, 100])
def test_the_evaluation_goes_through_the_test_text(monkeypatch, test, limit, windows, batch):
    monkeypatch.setattr(language, "EVALUATION_BATCH", batch)
    monkeypatch.setattr(language, "EVALUATION_CHARACTERS", limit)
    check_evaluation(make_text(test=test), windows * 10)


@pytest.mark.parametrize(("limit", "characters"), [(70, 70), (79, 70), (5, 10)])
def test_a_long_text_is_evaluated_at_its_beginning(monkeypatch, limit, characters):
    monkeypatch.setattr(language, "EVALUATION_CHARACTERS", limit)
    check_evaluation(make_text(), characters)


@torch.no_grad()
def check_evaluation(text, characters):
    problem = make_problem(text)
    inputs, targets = text.test[:characters], text.test[1 : characters + 1]
    scores = problem.model.scores.weight[inputs]
    result = problem.evaluate()
    assert set(result) == {"loss", "accuracy"}
    assert result["loss"] == pytest.approx(F.cross_entropy(scores, targets).item(), rel=1e-6)
    assert result["accuracy"] == pytest.approx((scores.argmax(1) == targets).double().mean().item())


def test_the_compiled_model_is_used_where_there_is_one():
    problem = make_problem()
    problem.forward = lambda inputs: torch.zeros(*inputs.shape, 7)
    assert problem.loss(epoch(problem)[0]).item() == pytest.approx(math.log(7))
    assert problem.evaluate()["loss"] == pytest.approx(math.log(7))


@pytest.mark.parametrize("option", ["batch_size", "context", "steps_per_epoch"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} is 0"):
        make_problem(**{option: 0})


def test_a_text_shorter_than_the_context_is_refused():
    make_problem(make_text(train=11, test=11))
    with pytest.raises(ValueError, match="context is 10, and the train text has 10"):
        make_problem(make_text(train=10))
    with pytest.raises(ValueError, match="context is 10, and the test text has 10"):
        make_problem(make_text(test=10))
