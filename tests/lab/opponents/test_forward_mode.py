"""Forward-mode hypergradients against automatic differentiation of the unrolled run."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from multirate.lab.opponents.curvature import hessian_vector_product
from multirate.lab.opponents.forward_mode import ForwardModeSGD

# The graphs go with the gradients before the next step, so that no reference cycle stays.
pytestmark = pytest.mark.filterwarnings(r"ignore:Using backward\(\) with create_graph=True")


def bent(weight, bias):
    """A loss with a Hessian that changes from place to place and mixes both parameters."""
    return ((weight.tanh() @ torch.arange(1.0, 4.0, dtype=weight.dtype) + bias) ** 2).sum() + weight.pow(4).sum()


def start():
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_(),
        torch.randn(2, generator=generator, dtype=torch.float64).requires_grad_(),
    ]


def train(optimizer, parameters, steps):
    """Train, and return the factor that each step used and the gradients it had."""
    factors, gradients = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        bent(*parameters).backward(create_graph=True)
        gradients.append([parameter.grad.detach().clone() for parameter in parameters])
        optimizer.step()
        factors.append(math.exp(optimizer.param_groups[0]["log_factor"]))
    optimizer.zero_grad()
    return factors, gradients


def unrolled(shift, factors, lr, momentum):
    """The same run with `shift` added to all factors, differentiable in it."""
    values = start()
    velocities = [torch.zeros_like(value) for value in values]
    for factor in factors:
        found = torch.autograd.grad(bent(*values), values, create_graph=True)
        velocities = [momentum * velocity + gradient for velocity, gradient in zip(velocities, found, strict=True)]
        rates = [rate * (factor + shift) for rate in lr]
        values = [value - rate * velocity for value, rate, velocity in zip(values, rates, velocities, strict=True)]
    return values


def autograd_tangents(factors, lr, momentum):
    shift = torch.zeros((), dtype=torch.float64)
    return torch.autograd.functional.jacobian(lambda s: tuple(unrolled(s, factors, lr, momentum)), shift)


@pytest.mark.parametrize("hyper_lr", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_tangents_are_the_derivatives_of_the_unrolled_run(hyper_lr, momentum):
    parameters = start()
    optimizer = ForwardModeSGD(parameters, lr=0.004, hyper_lr=hyper_lr, momentum=momentum)
    factors, _ = train(optimizer, parameters, 8)
    assert (len(set(factors)) > 4) == (hyper_lr > 0)
    lr = [0.004, 0.004]
    zero = torch.zeros((), dtype=torch.float64)
    for parameter, value, tangent in zip(
        parameters, unrolled(zero, factors, lr, momentum), autograd_tangents(factors, lr, momentum), strict=True
    ):
        torch.testing.assert_close(parameter.detach(), value.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(optimizer.state[parameter]["tangent"], tangent, rtol=1e-10, atol=1e-12)


def test_groups_with_rates_of_their_own_share_one_factor():
    parameters = start()
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.02}]
    optimizer = ForwardModeSGD(groups, lr=0.004, hyper_lr=0.01, momentum=0.5)
    factors, _ = train(optimizer, parameters, 6)
    for parameter, tangent in zip(parameters, autograd_tangents(factors, [0.004, 0.02], 0.5), strict=True):
        torch.testing.assert_close(optimizer.state[parameter]["tangent"], tangent, rtol=1e-10, atol=1e-12)


def test_the_factor_moves_along_the_gradient_times_the_tangent():
    parameters = start()
    optimizer = ForwardModeSGD(parameters, lr=0.004, hyper_lr=0.001, momentum=0.9)
    factors, gradients = train(optimizer, parameters, 5)
    assert factors[0] == 1.0
    for step in range(1, 5):
        tangents = autograd_tangents(factors[:step], [0.004, 0.004], 0.9)
        hypergradient = sum(float((g * z).sum()) for g, z in zip(gradients[step], tangents, strict=True))
        expected = factors[step - 1] * math.exp(-0.001 * factors[step - 1] * hypergradient)
        assert factors[step] == pytest.approx(expected, rel=1e-10)


def test_one_update_at_most_doubles_the_rate_and_only_every_interval():
    parameters = start()
    optimizer = ForwardModeSGD(parameters, lr=1e-5, hyper_lr=1e9, momentum=0.9, interval=3)
    factors, _ = train(optimizer, parameters, 7)
    assert factors == pytest.approx([1, 1, 1, 2, 2, 2, 4])


def test_a_first_step_too_long_on_a_parabola_is_answered_by_hand_worked_numbers():
    # f = θ²/2 from 1 with rate 3: θ is -2, the tangent -3 · 1, the hypergradient (-2)(-3) = 6.
    parameter = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = ForwardModeSGD([("x", parameter)], lr=3.0, hyper_lr=0.1, momentum=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        (parameter**2 / 2).sum().backward(create_graph=True)
        optimizer.step()
    factor = math.exp(-0.6)
    assert optimizer.applied_rates()["x"].item() == pytest.approx(3 * factor)
    assert parameter.item() == pytest.approx(-2 + 3 * factor * 2)
    # H is 1: the momentum tangent becomes -3 and the tangent -3 - 3 (-2) - 3 f (-3).
    assert optimizer.state[parameter]["tangent"].item() == pytest.approx(-3 + 6 + 9 * factor)


def test_a_schedule_multiplies_the_learned_factor():
    parameters = start()
    optimizer = ForwardModeSGD([("a", parameters[0]), ("b", parameters[1])], lr=0.004, hyper_lr=0.01)
    train(optimizer, parameters, 4)
    before = optimizer.applied_rates()["b"].item()
    assert before != pytest.approx(0.004)
    optimizer.param_groups[0]["lr"] *= 0.5
    assert optimizer.applied_rates()["b"].item() == pytest.approx(before / 2)


def test_an_interrupted_run_resumes_exactly():
    parameters = start()
    optimizer = ForwardModeSGD(parameters, lr=0.004, hyper_lr=0.01)
    train(optimizer, parameters, 4)
    resumed_parameters, resumed = copy.deepcopy((parameters, optimizer))
    loaded_parameters = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    loaded = ForwardModeSGD(loaded_parameters, lr=1.0, hyper_lr=1.0)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected, _ = train(optimizer, parameters, 4)
    assert train(resumed, resumed_parameters, 4)[0] == expected
    assert train(loaded, loaded_parameters, 4)[0] == expected
    for parameter, *others in zip(parameters, resumed_parameters, loaded_parameters, strict=True):
        assert all(torch.equal(parameter, other) for other in others)


def test_hessian_vector_products_skip_what_has_no_curvature():
    curved = torch.tensor([2.0, 3.0], requires_grad=True)
    straight = torch.tensor([1.0], requires_grad=True)
    loss = curved.pow(3).sum() + 5 * straight.sum()
    gradients = torch.autograd.grad(loss, [curved, straight], create_graph=True)
    vectors = [torch.tensor([1.0, 10.0]), torch.tensor([7.0])]
    product = hessian_vector_product(gradients, [curved, straight], vectors)
    assert product[0].tolist() == [12.0, 180.0]
    assert product[1].tolist() == [0.0]
    constant = hessian_vector_product([torch.ones(1)], [straight], [torch.ones(1)])
    assert constant[0].tolist() == [0.0]


def test_gradients_without_a_graph_are_refused():
    parameter = torch.ones(2, requires_grad=True)
    optimizer = ForwardModeSGD([parameter], lr=0.1)
    parameter.pow(2).sum().backward()
    with pytest.raises(ValueError, match="create_graph=True"):
        optimizer.step()


@pytest.mark.parametrize(
    "option", [{"lr": 0.0}, {"hyper_lr": -1.0}, {"momentum": 1.0}, {"interval": 0}, {"lr": math.nan}]
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: "):
        ForwardModeSGD([torch.ones(1, requires_grad=True)], **{"lr": 0.1, **option})
