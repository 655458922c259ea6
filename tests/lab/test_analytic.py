"""The analytic problems: values and gradients by hand, the optimum, and noise that can be entered in the middle."""

import math

import pytest
import torch

from multirate.lab.problems.analytic import LogisticRegression, Quadratic, RandomQuadratics, Rosenbrock

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def place(problem, *point):
    with torch.no_grad():
        problem.model.point.copy_(torch.tensor(point))


@torch.no_grad()
def evaluation(problem):
    return problem.evaluate()


def gradients(problem, batch):
    return torch.autograd.grad(problem.loss(batch), list(problem.model.parameters()))


def test_the_quadratic_has_the_spectrum_and_the_value_of_its_formula():
    problem = Quadratic(dimension=3, condition=100, noise=0.5, device=CPU)
    torch.testing.assert_close(problem.curvatures, torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64))
    place(problem, 3.0, 0.0, 1.5)
    # ½ (0.01 · 2² + 0.1 · 1² + 1 · 0.5²)
    assert evaluation(problem) == {"loss": pytest.approx(0.195)}
    place(problem, 1.0, 1.0, 1.0)
    assert evaluation(problem) == {"loss": 0.0}


def test_a_batch_of_the_quadratic_displaces_its_minimum():
    problem = Quadratic(dimension=3, condition=100, noise=0.5, device=CPU)
    place(problem, 3.0, 0.0, 1.5)
    minimum = torch.tensor([2.0, 2.0, 1.0])
    # ½ (0.01 · 1² + 0.1 · 2² + 1 · 0.5²)
    assert problem.loss((minimum,)).item() == pytest.approx(0.33)
    (gradient,) = gradients(problem, (minimum,))
    torch.testing.assert_close(gradient, torch.tensor([0.01, -0.2, 0.5]))


def test_the_gradient_noise_of_the_quadratic_has_the_stated_covariance():
    problem = Quadratic(dimension=3, condition=100, noise=0.5, device=CPU)
    place(problem, 3.0, 0.0, 1.5)
    noise = generator()
    samples = torch.stack(
        [gradients(problem, batch)[0] for _ in range(50) for batch in problem.batches(generator(), noise)]
    ).double()
    assert len(samples) == 5000
    whitened = (samples - torch.tensor([0.02, -0.1, 0.5])) / (0.5 * problem.curvatures)
    # A mean of 5000 deviates by 0.014, an entry of the covariance by at most 0.02.
    torch.testing.assert_close(whitened.mean(dim=0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.06)
    torch.testing.assert_close(whitened.T.cov(), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.08)


def test_random_quadratics_are_those_of_the_paper_and_stand_alone():
    torch.manual_seed(4)
    matrices, targets, start = torch.randn(3, 2, 2), torch.randn(3, 2), torch.randn(3, 2)
    torch.manual_seed(4)
    problem = RandomQuadratics(count=3, dimension=2, device=CPU)
    assert torch.equal(problem.model.point, start)
    residuals = [W @ point - y for W, y, point in zip(matrices, targets, start, strict=True)]
    losses = [residual.square().sum().item() for residual in residuals]
    assert problem.loss(()).item() == pytest.approx(sum(losses))
    assert evaluation(problem) == {"loss": pytest.approx(sorted(losses)[1])}
    (gradient,) = gradients(problem, ())
    alone = torch.stack([2 * W.T @ residual for W, residual in zip(matrices, residuals, strict=True)])
    torch.testing.assert_close(gradient, alone)
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        RandomQuadratics(count=0, dimension=2, device=CPU)


def test_the_quadratic_starts_where_the_seed_says_and_may_be_free_of_noise():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    problem = Quadratic(dimension=4, condition=10, noise=0, device=CPU)
    torch.testing.assert_close(problem.model.point.detach(), expected, rtol=0, atol=0)
    batch = next(problem.batches(generator(), generator()))
    assert problem.loss(batch).item() == pytest.approx(evaluation(problem)["loss"], rel=1e-6)


def test_the_quadratic_may_start_further_away():
    torch.manual_seed(3)
    near = Quadratic(50, 10, 0, CPU)
    torch.manual_seed(3)
    far = Quadratic(50, 10, 0, CPU, start=10.0)
    torch.testing.assert_close(far.model.point, 10 * near.model.point)


def test_the_quadratic_enters_an_epoch_without_the_noise_of_what_it_leaves_out():
    problem = Quadratic(dimension=3, condition=100, noise=0.5, device=CPU)
    noise, whole, state = generator(7), [], None
    for step, (minimum,) in enumerate(problem.batches(generator(), noise)):
        whole.append(minimum)
        if step == 59:
            state = noise.get_state()
    assert len(whole) == problem.steps_per_epoch == 100
    later = generator()
    later.set_state(state)
    rest = [minimum for (minimum,) in problem.batches(generator(), later, first=60)]
    torch.testing.assert_close(torch.stack(rest), torch.stack(whole[60:]), rtol=0, atol=0)
    # From a fresh generator the first batch that is not left out gets the first draw.
    (entered,) = next(problem.batches(generator(), generator(7), first=60))
    torch.testing.assert_close(entered, whole[0], rtol=0, atol=0)


def test_evaluating_draws_nothing_and_changes_nothing():
    for problem in (Quadratic(3, 100, 0.5, CPU), Rosenbrock(3, CPU), LogisticRegression(50, 4, 8, CPU)):
        state = torch.get_rng_state()
        assert evaluation(problem) == evaluation(problem)
        assert torch.equal(torch.get_rng_state(), state)


def test_rosenbrock_starts_at_the_classic_point_and_ends_at_ones():
    problem = Rosenbrock(dimension=2, device=CPU)
    # 100 (1 - 1.44)² + 2.2²
    assert evaluation(problem) == {"loss": pytest.approx(24.2)}
    problem = Rosenbrock(dimension=5, device=CPU)
    torch.testing.assert_close(problem.model.point.detach(), torch.tensor([-1.2, 1.0, -1.2, 1.0, -1.2]))
    # Pairs (-1.2, 1) give 24.2, pairs (1, -1.2) give 100 (-1.2 - 1)² = 484.
    assert evaluation(problem) == {"loss": pytest.approx(2 * 24.2 + 2 * 484)}
    place(problem, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert evaluation(problem) == {"loss": 0.0}
    assert gradients(problem, ())[0].abs().max() == 0


def test_rosenbrock_has_the_gradient_of_its_formula():
    problem = Rosenbrock(dimension=5, device=CPU)
    point = [0.3, -0.7, 1.1, 0.9, -0.2]
    place(problem, *point)
    expected = [0.0] * 5
    for i in range(4):
        valley = point[i + 1] - point[i] ** 2
        expected[i] += -400 * point[i] * valley - 2 * (1 - point[i])
        expected[i + 1] += 200 * valley
    torch.testing.assert_close(gradients(problem, ())[0], torch.tensor(expected), rtol=1e-5, atol=1e-4)
    assert problem.loss(()).item() == pytest.approx(evaluation(problem)["loss"], rel=1e-5)


def test_rosenbrock_has_the_local_minimum_its_documentation_warns_of():
    problem = Rosenbrock(dimension=8, device=CPU)
    problem.model.double()
    place(problem, -1.0, *[1.0] * 7)
    parameter = problem.model.point
    for _ in range(10):
        (gradient,) = torch.autograd.grad(problem.loss(()), parameter, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(entry, parameter, retain_graph=True)[0] for entry in gradient])
        with torch.no_grad():
            parameter -= torch.linalg.solve(hessian, gradient)
    assert gradients(problem, ())[0].abs().max() < 1e-8
    assert torch.linalg.eigvalsh(hessian).min() > 0
    assert parameter[0] < -0.9
    assert evaluation(problem)["loss"] == pytest.approx(4, abs=0.1)


def test_rosenbrock_draws_nothing():
    problem = Rosenbrock(dimension=2, device=CPU)
    order, noise = generator(1), generator(2)
    assert list(problem.batches(order, noise)) == [()] * 100
    assert list(problem.batches(order, noise, first=97)) == [()] * 3
    assert torch.equal(order.get_state(), generator(1).get_state())
    assert torch.equal(noise.get_state(), generator(2).get_state())


def whole_epoch(problem, **options):
    return list(problem.batches(generator(1), generator(2), **options))


def test_an_epoch_of_the_regression_shows_every_example_alike():
    problem = LogisticRegression(examples=200, dimension=3, batch_size=24, device=CPU)
    batches = whole_epoch(problem)
    assert len(batches) == problem.steps_per_epoch == 100
    assert {(tuple(inputs.shape), tuple(targets.shape)) for inputs, targets in batches} == {((24, 3), (24,))}
    # 2400 draws of 160 examples are 15 whole passes.
    _, counts = torch.cat([inputs for inputs, _ in batches]).unique(dim=0, return_counts=True)
    assert counts.tolist() == [15] * 160


def test_the_regression_enters_an_epoch_in_its_middle():
    problem = LogisticRegression(examples=200, dimension=3, batch_size=24, device=CPU)
    noise = generator(2)
    whole, rest = whole_epoch(problem), list(problem.batches(generator(1), noise, first=70))
    assert len(rest) == 30
    for (inputs, targets), (expected_inputs, expected_targets) in zip(rest, whole[70:], strict=True):
        torch.testing.assert_close(inputs, expected_inputs, rtol=0, atol=0)
        torch.testing.assert_close(targets, expected_targets, rtol=0, atol=0)
    assert torch.equal(noise.get_state(), generator(2).get_state())


def test_the_data_are_the_same_for_every_seed_and_the_start_is_not():
    torch.manual_seed(0)
    one = LogisticRegression(examples=100, dimension=3, batch_size=80, device=CPU)
    torch.manual_seed(1)
    other = LogisticRegression(examples=100, dimension=3, batch_size=80, device=CPU)
    torch.testing.assert_close(whole_epoch(one)[0], whole_epoch(other)[0], rtol=0, atol=0)
    assert not torch.equal(one.model.weight, other.model.weight)


def test_the_regression_has_the_loss_and_the_gradient_of_its_formula():
    problem = LogisticRegression(examples=100, dimension=3, batch_size=16, device=CPU)
    problem.model.double()
    with torch.no_grad():
        # Against scales of 10^-1.5, 1 and 10^1.5 no chance comes close to 0 or 1, where the formula below loses digits.
        problem.model.weight.copy_(torch.tensor([20.0, -0.7, 0.03]))
        problem.model.bias.fill_(0.4)
    inputs, targets = (part.double() for part in whole_epoch(problem)[0])
    scores = inputs @ problem.model.weight[0] + problem.model.bias
    chances = 1 / (1 + torch.exp(-scores))
    likelihood = targets * chances.log() + (1 - targets) * (1 - chances).log()
    torch.testing.assert_close(problem.loss((inputs, targets)), -likelihood.mean())
    weight, bias = gradients(problem, (inputs, targets))
    torch.testing.assert_close(weight, ((chances - targets) @ inputs / 16).unsqueeze(0))
    torch.testing.assert_close(bias, (chances - targets).mean().unsqueeze(0))


def test_features_span_three_decades_and_labels_are_only_in_part_predictable():
    problem = LogisticRegression(examples=5000, dimension=4, batch_size=4000, device=CPU)
    inputs, targets = whole_epoch(problem)[0]
    deviations = inputs.std(dim=0).log10()
    torch.testing.assert_close(deviations, torch.tensor([-1.5, -0.5, 0.5, 1.5]), rtol=0, atol=0.03)
    # Newton's method, which no scale disturbs, finds the likeliest weights.
    design = torch.cat([inputs, torch.ones(4000, 1)], dim=1).double()
    weights = torch.zeros(5, dtype=torch.float64)
    for _ in range(12):
        chances = torch.sigmoid(design @ weights)
        curvature = (design.T * (chances * (1 - chances))) @ design
        weights -= torch.linalg.solve(curvature, design.T @ (chances - targets))
    # Every feature has the same weight of 3 / √4 against its scale, and the bias none.
    scales = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64)
    torch.testing.assert_close(
        (weights[:4] * 10**scales).abs(), torch.full((4,), 1.5, dtype=torch.float64), rtol=0, atol=0.25
    )
    assert abs(weights[4].item()) < 0.2
    with torch.no_grad():
        problem.model.weight.copy_(weights[:4])
        problem.model.bias.copy_(weights[4:])
    results = evaluation(problem)
    # For log-odds from N(0, 3²) the best accuracy is 0.836 and the entropy of a label 0.3605.
    assert results["accuracy"] == pytest.approx(0.836, abs=0.03)
    assert results["loss"] == pytest.approx(0.3605, abs=0.04)


def test_the_regression_is_tested_on_examples_it_is_not_trained_on():
    problem = LogisticRegression(examples=100, dimension=3, batch_size=80, device=CPU)
    with torch.no_grad():
        problem.model.weight.zero_()
        problem.model.bias.fill_(2.0)
    everything = LogisticRegression(examples=100, dimension=3, batch_size=80, device=CPU)
    trained = {tuple(row) for inputs, _ in whole_epoch(everything) for row in inputs.tolist()}
    assert len(trained) == 80
    tested = {tuple(row) for row in problem._test_inputs.tolist()}
    assert len(tested) == 20
    assert not trained & tested
    # A constant answer of 1 is right where the label is 1.
    share = problem._test_targets.mean().item()
    results = evaluation(problem)
    assert results["accuracy"] == pytest.approx(share)
    assert results["loss"] == pytest.approx(math.log(1 + math.exp(2)) - 2 * share, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic(1, 10, 0, CPU), "dimension must be at least 2"),
        (lambda: Quadratic(2, 0.5, 0, CPU), "condition must be finite and at least 1"),
        (lambda: Quadratic(2, math.nan, 0, CPU), "condition must be finite"),
        (lambda: Quadratic(2, 10, -1, CPU), "noise must be finite and at least 0"),
        (lambda: Quadratic(2, 10, 0, CPU, start=-1.0), "start must be finite and at least 0"),
        (lambda: Rosenbrock(1, CPU), "dimension must be at least 2"),
        (lambda: LogisticRegression(9, 2, 1, CPU), "examples must be at least 10"),
        (lambda: LogisticRegression(10, 1, 1, CPU), "dimension must be at least 2"),
        (lambda: LogisticRegression(100, 2, 81, CPU), "batch_size must be from 1 to the 80 examples"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
