"""Reverse-mode hypergradients: exact reversal, and automatic differentiation of the unrolled run."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from multirate.lab.opponents import reverse_mode_arithmetic
from multirate.lab.opponents.reverse_mode import ReverseModeSGD, reverse_hypergradients
from multirate.lab.opponents.reverse_mode_arithmetic import ReversibleMomentum
from multirate.lab.problems.base import Problem

STEPS = 12


def targets(step):
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def loss_at(step, weight, bias):
    """Another batch at every step, through a bent model."""
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(100 + step), dtype=torch.float64)
    return ((inputs @ weight).tanh() + bias - targets(step)).square().mean()


def start():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_(),
        torch.randn(2, generator=generator, dtype=torch.float64).requires_grad_(),
    ]


def unrolled_objective(log_rates, momentum, weights):
    values = start()
    velocities = [torch.zeros_like(value) for value in values]
    total = 0.0
    for step, row in enumerate(log_rates.exp()):
        loss = loss_at(step, *values)
        total = total + weights[step] * loss
        found = torch.autograd.grad(loss, values, create_graph=True)
        velocities = [momentum * velocity + gradient for velocity, gradient in zip(velocities, found, strict=True)]
        values = [value - rate * velocity for value, rate, velocity in zip(values, row, velocities, strict=True)]
    return total + weights[-1] * loss_at(len(log_rates), *values)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
@pytest.mark.parametrize(
    "weights", [[0.0] * STEPS + [1.0], [0.0] + [1 / STEPS] * STEPS, [0.1 * step for step in range(STEPS + 1)]]
)
def test_hypergradients_are_those_of_the_unrolled_run(momentum, weights):
    generator = torch.Generator().manual_seed(2)
    log_rates = (torch.rand(STEPS, 2, generator=generator, dtype=torch.float64) - 2.0).requires_grad_()
    expected = unrolled_objective(log_rates, momentum, weights)
    expected.backward()
    parameters = start()
    objective, derivatives = reverse_hypergradients(
        lambda step: loss_at(step, *parameters), parameters, log_rates.exp().tolist(), momentum, weights
    )
    assert objective == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(derivatives, log_rates.grad, rtol=1e-8, atol=1e-10)
    assert log_rates.grad.abs().min() > 1e-6 or weights[0] > 0


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.5, 1 / 3])
def test_hundreds_of_steps_run_back_bit_by_bit(momentum):
    generator = torch.Generator().manual_seed(0)
    origin = torch.randn(50, generator=generator, dtype=torch.float64)
    run = ReversibleMomentum([origin], momentum)
    first = run.parameters()[0]
    history, gradients = [], []
    for _ in range(700):
        history.append((*run.parameters(), *run.velocities()))
        gradients.append(torch.randn(50, generator=generator, dtype=torch.float64))
        run.step([gradients[-1]], [0.03])
    # log2(1 / 0.99) bits a step do not fill 62 bits; all the others do.
    assert bool(run._put_aside) == (momentum != 0.99)
    for gradient in reversed(gradients):
        position, velocity = history.pop()
        run.undo_positions([0.03])
        assert torch.equal(run.parameters()[0], position)
        run.undo_velocities([gradient])
        assert torch.equal(run.velocities()[0], velocity)
    assert torch.equal(run.parameters()[0], first)
    assert not run._put_aside
    assert not run._remainders[0].any()


def test_the_whole_numbers_follow_momentum_sgd():
    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_()
    run = ReversibleMomentum([parameter], 0.9)
    sgd = torch.optim.SGD([parameter], lr=0.05, momentum=0.9)
    for _ in range(100):
        parameter.grad = torch.randn(20, generator=generator, dtype=torch.float64)
        run.step([parameter.grad], [0.05])
        sgd.step()
    torch.testing.assert_close(run.parameters()[0], parameter.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("gradient", [math.nan, math.inf, 2.0**30])
def test_a_diverging_run_is_told(gradient):
    run = ReversibleMomentum([torch.zeros(2)], 0.9)
    with pytest.raises(OverflowError, match="diverged"):
        run.step([torch.tensor([0.0, gradient])], [0.1])


def test_gradients_that_do_not_repeat_are_told():
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    noise = torch.Generator().manual_seed(0)
    with pytest.warns(RuntimeWarning, match="use_deterministic_algorithms"):
        reverse_hypergradients(
            lambda step: (parameter * torch.rand(3, generator=noise, dtype=torch.float64)).square().sum(),
            [parameter], [[0.1]] * 3, 0.9, [0.0, 0.0, 0.0, 1.0],
        )  # fmt: skip


class Regression(Problem):
    """A linear model with dropout on fixed batches."""

    device = torch.device("cpu")
    steps_per_epoch = 4

    def __init__(self, seed, dropout=0.3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 1))
        self.forward = self.model
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(32, 5, generator=generator)
        self.targets = self.inputs.prod(dim=1, keepdim=True) + self.inputs[:, :1]

    def batches(self, order, noise, first=0):
        for rows in torch.randperm(32, generator=order).split(8)[first:]:
            yield self.inputs[rows], self.targets[rows]

    def loss(self, batch):
        return (self.forward(batch[0]) - batch[1]).square().mean()

    def evaluate(self):
        return {"loss": self.loss((self.inputs, self.targets)).item()}


def prepared(steps=30, problem=Regression, **settings):
    optimizer = ReverseModeSGD(list(problem(0).model.named_parameters()), **{"segments": 3, **settings})
    optimizer.prepare(problem, steps)
    return optimizer


def log_factors(optimizer):
    return torch.stack([state["log_factors"] for state in optimizer.state.values()])


@pytest.mark.parametrize("objective", ["final", "mean"])
def test_practice_hypergradients_are_the_slopes_of_the_practised_objective(objective):
    steps, shift = 6, 1e-4
    optimizer = prepared(meta_iterations=0, objective=objective, lr=0.05)

    def problem(seed):
        made = Regression(seed)
        made.model.double()
        made.inputs, made.targets = made.inputs.double(), made.targets.double()
        return made

    def trained_objective(table):
        """Plain training with the same batches and dropout, one rate per tensor and segment."""
        made, total = problem(4), 0.0
        order = torch.Generator().manual_seed(4)
        batches = [batch for _ in range(4) for batch in made.batches(order, order)]
        groups = [{"params": [parameter], "lr": 0.0} for parameter in made.model.parameters()]
        sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        for step in range(steps):
            for group, row in zip(sgd.param_groups, table, strict=True):
                group["lr"] = 0.05 * math.exp(row[step // 2])
            torch.manual_seed(4 * (steps + 1) + step)
            loss = made.loss(batches[step])
            total += loss.item() / steps if step > 0 else 0.0
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        torch.manual_seed(4 * (steps + 1) + steps)
        last = [made.loss(batch).item() for batch in batches[steps : steps + (4 if objective == "final" else 1)]]
        return sum(last) / len(last) if objective == "final" else total + last[0] / steps

    table = torch.linspace(-0.5, 0.5, 12, dtype=torch.float64).view(4, 3)
    derivatives = optimizer._practise(problem, 4, steps, table)
    for row in range(4):
        for segment in range(3):
            up, down = table.clone(), table.clone()
            up[row, segment] += shift
            down[row, segment] -= shift
            with torch.random.fork_rng(devices=[]):
                slope = (trained_objective(up) - trained_objective(down)) / (2 * shift)
            assert derivatives[row, segment].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_meta_iterations_are_steps_of_adam_from_new_initial_weights():
    table = torch.zeros(4, 3, dtype=torch.float64)
    adam = torch.optim.Adam([table], lr=0.07)
    for seed in (11, 12, 13):
        table.grad = prepared(meta_iterations=0, lr=0.02)._practise(Regression, seed, 20, table)
        adam.step()
    optimizer = prepared(meta_iterations=3, meta_lr=0.07, lr=0.02, horizon=20, seed=11)
    torch.testing.assert_close(log_factors(optimizer), table.float())
    assert len(set(log_factors(optimizer).flatten().tolist())) == 12


def test_a_learned_schedule_beats_the_rate_it_started_from():
    def final_loss(optimizer_settings, seed):
        problem = Regression(seed, dropout=0.0)
        optimizer = ReverseModeSGD(list(problem.model.named_parameters()), lr=1e-3, segments=3, **optimizer_settings)
        optimizer.prepare(lambda seed: Regression(seed, dropout=0.0), 20)
        order = torch.Generator().manual_seed(seed)
        for _ in range(5):
            for batch in problem.batches(order, order):
                optimizer.zero_grad()
                problem.loss(batch).backward()
                optimizer.step()
        return problem.evaluate()["loss"]

    learned = final_loss({"meta_iterations": 6, "meta_lr": 0.5}, 101)
    assert learned < 0.8 * final_loss({"meta_iterations": 0}, 101)


def test_a_diverging_practice_run_halves_all_rates():
    optimizer = prepared(meta_iterations=2, lr=1e6)
    torch.testing.assert_close(log_factors(optimizer), torch.full((4, 3), -2 * math.log(2)))


def test_practice_leaves_the_random_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    prepared(meta_iterations=1)
    assert torch.equal(torch.rand(3), expected)


def test_practice_runs_with_dropout_run_back_exactly():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared(meta_iterations=1, horizon=30)


def test_training_follows_the_schedule_stretched_over_its_steps():
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ReverseModeSGD([("x", parameter)], lr=0.1, momentum=0.5, segments=2, meta_iterations=0)
    optimizer.prepare(lambda seed: pytest.fail("no practice was asked for"), 5)
    optimizer.state[parameter]["log_factors"].copy_(torch.tensor([2.0, 3.0]).log())
    rates = []
    for _ in range(6):
        parameter.grad = torch.ones_like(parameter)
        before = parameter.detach().clone()
        optimizer.step()
        velocity = 2 - 0.5 ** len(rates)
        rates.append((before - parameter.detach())[0].item() / velocity)
        assert optimizer.applied_rates()["x"].item() == pytest.approx(rates[-1], rel=1e-6)
    assert rates == pytest.approx([0.2, 0.2, 0.2, 0.3, 0.3, 0.3])
    optimizer.param_groups[0]["lr"] = 0.01
    assert optimizer.applied_rates()["x"].item() == pytest.approx(0.03)


def test_an_interrupted_run_resumes_exactly():
    def advance(problem, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (problem.model[0](problem.inputs).square().mean() + problem.model[3].weight.pow(2).sum()).backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in problem.model.parameters()]

    problem = Regression(0)
    optimizer = ReverseModeSGD(list(problem.model.named_parameters()), lr=0.05, segments=3, meta_iterations=1)
    optimizer.prepare(Regression, 9)
    advance(problem, optimizer, 4)
    copied_problem, copied = copy.deepcopy((problem, optimizer))
    loaded_problem = copy.deepcopy(problem)
    loaded = ReverseModeSGD(list(loaded_problem.model.named_parameters()), segments=3)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected = advance(problem, optimizer, 5)
    for other in (advance(copied_problem, copied, 5), advance(loaded_problem, loaded, 5)):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(expected, other, strict=True))


@pytest.mark.parametrize(
    "option",
    [
        {"lr": 0.0}, {"momentum": 0.0}, {"momentum": 1.0}, {"meta_iterations": -1}, {"meta_lr": 0.0}, {"segments": 0},
        {"horizon": 0}, {"objective": "best"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: "):
        ReverseModeSGD([("x", torch.ones(1, requires_grad=True))], **option)


def test_parameters_need_names_that_the_practice_problem_has():
    with pytest.raises(ValueError, match="named_parameters"):
        ReverseModeSGD([torch.ones(1, requires_grad=True)])
    optimizer = ReverseModeSGD([("stranger", torch.ones(1, requires_grad=True))])
    with pytest.raises(ValueError, match="stranger"):
        optimizer.prepare(Regression, 5)


def test_a_momentum_that_cannot_be_reversed_is_refused():
    with pytest.raises(ValueError, match="momentum"):
        ReversibleMomentum([torch.zeros(1)], 0.0)
    assert reverse_mode_arithmetic.LARGEST * 2**reverse_mode_arithmetic.FRACTION_BITS * 2 <= 2**63
