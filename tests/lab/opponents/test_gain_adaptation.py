"""Rates learned parameter by parameter: IDBD, Almeida's and SMD, against loops written after the papers."""

import copy
import math

import pytest
import torch

from multirate.lab.opponents.almeida import Almeida
from multirate.lab.opponents.curvature import hessian_vector_product
from multirate.lab.opponents.idbd import IDBD, exact_diagonals
from multirate.lab.opponents.smd import SMD

SETTINGS = {
    Almeida: {"lr": 0.05, "meta_lr": 0.1},
    IDBD: {"lr": 0.05, "meta_lr": 0.02},
    SMD: {"lr": 0.05, "meta_lr": 0.3, "decay": 0.9},
}
METHODS = list(SETTINGS)


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"hidden": (2, 3), "bias": (2,), "out": (2,)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in shapes.items()
    }


def batches(steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 3, generator=generator).double(), torch.randn(4, generator=generator).double())
            for _ in range(steps)]  # fmt: skip


def loss_of(values, batch):
    inputs, targets = batch
    return (torch.tanh(inputs @ values["hidden"].T + values["bias"]) @ values["out"] - targets).square().mean()


def set_gradients(loss, values):
    # As backward(create_graph=True), without its warning about reference cycles.
    for value, gradient in zip(values, torch.autograd.grad(loss, values, create_graph=True), strict=True):
        value.grad = gradient


def train(optimizer, values, data, loss_of=loss_of):
    for batch in data:
        optimizer.zero_grad()
        set_gradients(loss_of(values, batch), list(values.values()))
        optimizer.step()
    optimizer.zero_grad()


def flat(values):
    return torch.cat([value.detach().flatten() for value in values.values()])


def unflat(numbers, values):
    pieces = numbers.split([value.numel() for value in values.values()])
    return {name: piece.view(value.shape) for piece, (name, value) in zip(pieces, values.items(), strict=True)}


def derivatives(numbers, values, batch):
    """Gradient and full Hessian, by torch.autograd.functional, as lists."""

    def loss(point):
        return loss_of(unflat(point, values), batch)

    gradient = torch.autograd.functional.jacobian(loss, numbers)
    return gradient.tolist(), torch.autograd.functional.hessian(loss, numbers).tolist()


# -- what all of them promise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_resumes_exactly(method):
    data = batches(30)
    straight = network()
    train(method(list(straight.items()), **SETTINGS[method]), straight, data)

    values = network()
    optimizer = method(list(values.items()), **SETTINGS[method])
    train(optimizer, values, data[:13])
    again, through_copy = copy.deepcopy((values, optimizer))
    train(through_copy, again, data[13:])
    fresh = method(list(values.items()), **SETTINGS[method])
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(fresh, values, data[13:])
    assert torch.equal(flat(again), flat(straight))
    assert torch.equal(flat(values), flat(straight))


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_multiplies_what_was_learned(method):
    values, data = network(), batches(21)
    optimizer = method(list(values.items()), **SETTINGS[method])
    train(optimizer, values, data[:20])
    (group,) = optimizer.param_groups
    learned = {name: rate.clone() for name, rate in optimizer.applied_rates().items()}
    assert max((rate / group["lr"] - 1).abs().max() for rate in learned.values()) > 1e-3
    group["lr"] *= 0.1
    for name, rate in optimizer.applied_rates().items():
        torch.testing.assert_close(rate, 0.1 * learned[name], rtol=1e-12, atol=0)
    before = {name: value.detach().clone() for name, value in values.items()}
    set_gradients(loss_of(values, data[20]), list(values.values()))
    optimizer.step()
    for name, value in values.items():
        step = optimizer.applied_rates()[name] * value.grad
        torch.testing.assert_close(value.detach(), (before[name] - step).detach(), rtol=1e-12, atol=0)
        assert value.is_leaf


@pytest.mark.parametrize("method", METHODS)
def test_groups_have_their_own_rates_and_idle_parameters_stay(method):
    idle = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    values, data = network(), batches(1)
    settings = SETTINGS[method]
    optimizer = method(
        [
            {"params": [("idle", idle), ("hidden", values["hidden"])]},
            {"params": [("bias", values["bias"]), ("out", values["out"])], "lr": 0.5},
        ],
        **settings,
    )
    train(optimizer, values, data)
    assert idle.tolist() == [1.0, 1.0, 1.0]
    rates = optimizer.applied_rates()
    assert {name: set(rate.flatten().tolist()) for name, rate in rates.items()} == {
        "hidden": {settings["lr"]}, "bias": {0.5}, "out": {0.5},
    }  # fmt: skip


@pytest.mark.parametrize("method", [IDBD, SMD])
@pytest.mark.parametrize("own", [{}, {"curvature": "exact"}])
def test_second_order_methods_ask_for_a_graph(method, own):
    assert method.needs == "graph"
    values = network()
    loss_of(values, batches(1)[0]).backward()
    with pytest.raises(RuntimeError, match="create_graph=True"):
        method(list(values.items()), lr=0.1, **(own if method is IDBD else {})).step()


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (Almeida, "lr", -1.0),
        (Almeida, "meta_lr", -1.0),
        (Almeida, "decay", 1.0),
        (IDBD, "lr", -1.0),
        (IDBD, "meta_lr", -1.0),
        (IDBD, "decay", 1.0),
        (IDBD, "curvature", "guess"),
        (IDBD, "seed", -1),
        (SMD, "lr", -1.0),
        (SMD, "meta_lr", -1.0),
        (SMD, "decay", 1.1),
        (SMD, "floor", 0.0),
    ],
)
def test_refuses_options_out_of_range(method, option, value):
    with pytest.raises(ValueError, match=option):
        method(list(network().items()), **{"lr": 0.1, option: value})


# -- the derivatives they use ------------------------------------------------------------------------------------


def test_curvatures_are_those_of_the_explicit_hessian():
    values, (batch,) = network(), batches(1)
    gradient, hessian = derivatives(flat(values), values, batch)
    hessian = torch.tensor(hessian, dtype=torch.float64)
    vector = torch.randn(len(gradient), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tensors = list(values.values())
    set_gradients(loss_of(values, batch), tensors)
    diagonal = torch.cat([entry.flatten() for entry in exact_diagonals(tensors)])
    torch.testing.assert_close(diagonal, hessian.diagonal(), rtol=1e-10, atol=1e-14)
    gradients = [tensor.grad for tensor in tensors]
    product = hessian_vector_product(gradients, tensors, list(unflat(vector, values).values()))
    torch.testing.assert_close(torch.cat([p.flatten() for p in product]), hessian @ vector, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", [IDBD, SMD])
def test_a_parameter_with_constant_gradient_has_no_curvature(method):
    values = {
        "straight": torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64)),
        "curved": torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64)),
    }
    optimizer = method(list(values.items()), lr=0.1, meta_lr=0.01)

    def loss(values, batch):
        return (3 * values["straight"] + values["curved"].square()).sum()

    train(optimizer, values, [None], loss)
    trace = {name: optimizer.state[value]["trace"].item() for name, value in values.items()}
    assert trace == pytest.approx({"straight": -0.1 * 3, "curved": -0.1 * 4}, rel=1e-12)
    train(optimizer, values, [None], loss)
    # The gradients 3 and 2 · 1.6 again, the gains 1 − 0.01 trace gradient or their exponential; H is 0 and 2.
    gains = {name: 0.01 * size * slope for name, size, slope in [("straight", 0.3, 3), ("curved", 0.4, 3.2)]}
    rates = {name: 0.1 * (math.exp(gain) if method is IDBD else 1 + gain) for name, gain in gains.items()}
    kept = 1 - 2 * rates["curved"] if method is IDBD else 0.99 * (1 - 2 * rates["curved"])
    trace = {name: optimizer.state[value]["trace"].item() for name, value in values.items()}
    assert trace == pytest.approx(
        {
            "straight": -0.3 * (1 if method is IDBD else 0.99) - 3 * rates["straight"],
            "curved": -0.4 * kept - 3.2 * rates["curved"],
        },
        rel=1e-12,
    )


# -- Almeida -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta_lr", [0.1, 0.6])
def test_almeida_follows_its_recursion(meta_lr):
    """At 0.6 the floor of one half acts too."""
    values, data = network(), batches(40)
    optimizer = Almeida(list(values.items()), lr=0.05, meta_lr=meta_lr, decay=0.8)
    train(optimizer, values, data)

    w, rates, previous, squares, floored = flat(network()).tolist(), None, None, None, 0
    for batch in data:
        gradient, _ = derivatives(torch.tensor(w, dtype=torch.float64), values, batch)
        if previous is None:
            rates, squares = [0.05] * len(w), [g * g for g in gradient]
        else:
            for i, g in enumerate(gradient):
                squares[i] = 0.8 * squares[i] + 0.2 * g * g
                factor = 1 + meta_lr * g * previous[i] / squares[i]
                floored += factor < 0.5
                rates[i] *= max(0.5, factor)
        previous = gradient
        w = [number - rate * g for number, rate, g in zip(w, rates, gradient, strict=True)]
    assert (floored > 0) == (meta_lr == 0.6)
    assert flat(values).tolist() == pytest.approx(w, rel=1e-10)
    assert flat(optimizer.applied_rates()).tolist() == pytest.approx(rates, rel=1e-10)


def test_almeida_leaves_the_rate_of_a_zero_gradient():
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = Almeida([("w", w)], lr=0.1)
    for _ in range(3):
        w.grad = torch.tensor([0.0, 1.0], dtype=torch.float64)
        optimizer.step()
    assert optimizer.applied_rates()["w"][0] == 0.1
    assert optimizer.applied_rates()["w"][1] > 0.1
    assert w[0] == 1.0


# -- SMD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta_lr", [0.3, 4.0])
def test_smd_follows_its_recursion_with_the_explicit_hessian(meta_lr):
    """At 4 the floor acts too; δ is minus the gradient, as in the paper."""
    values, data = network(), batches(25)
    optimizer = SMD(list(values.items()), lr=0.05, meta_lr=meta_lr, decay=0.9)
    train(optimizer, values, data)

    w = flat(network()).tolist()
    rates, v, floored = [0.05] * len(w), [0.0] * len(w), 0
    for batch in data:
        gradient, hessian = derivatives(torch.tensor(w, dtype=torch.float64), values, batch)
        delta = [-g for g in gradient]
        product = [sum(h * entry for h, entry in zip(row, v, strict=True)) for row in hessian]
        for i in range(len(w)):
            factor = 1 + meta_lr * v[i] * delta[i]
            floored += factor < 0.5
            rates[i] *= max(0.5, factor)
            w[i] += rates[i] * delta[i]
            v[i] = 0.9 * v[i] + rates[i] * (delta[i] - 0.9 * product[i])
    assert (floored > 0) == (meta_lr == 4.0)
    assert flat(values).tolist() == pytest.approx(w, rel=1e-10)
    assert flat(optimizer.applied_rates()).tolist() == pytest.approx(rates, rel=1e-10)


def test_smd_on_a_quadratic_with_its_own_hessian():
    matrix = [[2.0, 0.5], [0.5, 1.0]]
    values = {"w": torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))}
    optimizer = SMD(list(values.items()), lr=0.1, meta_lr=0.02, decay=1.0)

    def loss(values, batch):
        return values["w"] @ torch.tensor(matrix, dtype=torch.float64) @ values["w"] / 2

    train(optimizer, values, [None] * 20, loss)
    w, rates, v = [1.0, -2.0], [0.1, 0.1], [0.0, 0.0]
    for _ in range(20):
        gradient = [sum(m * entry for m, entry in zip(row, w, strict=True)) for row in matrix]
        product = [sum(m * entry for m, entry in zip(row, v, strict=True)) for row in matrix]
        for i in range(2):
            rates[i] *= max(0.5, 1 - 0.02 * v[i] * gradient[i])
            w[i] -= rates[i] * gradient[i]
            v[i] += rates[i] * (-gradient[i] - product[i])
    assert values["w"].tolist() == pytest.approx(w, rel=1e-10)


# -- IDBD --------------------------------------------------------------------------------------------------------

INPUTS, RELEVANT = 20, 5


def tracking_examples(steps, seed=0):
    """Sutton's task: five of twenty normal inputs matter, with signs of which one switches every 20 examples."""
    generator = torch.Generator().manual_seed(seed)
    signs, examples = torch.ones(RELEVANT, dtype=torch.float64), []
    for step in range(steps):
        if step % 20 == 0:
            signs[torch.randint(RELEVANT, (), generator=generator)] *= -1
        inputs = torch.randn(INPUTS, generator=generator, dtype=torch.float64)
        examples.append((inputs, inputs[:RELEVANT] @ signs))
    return examples


def linear_unit(examples, meta_lr, **settings):
    values = {"w": torch.nn.Parameter(torch.zeros(INPUTS, dtype=torch.float64))}
    optimizer = IDBD(list(values.items()), lr=0.05, meta_lr=meta_lr, **settings)
    train(optimizer, values, examples, lambda values, batch: (batch[1] - values["w"] @ batch[0]).square() / 2)
    return values["w"].tolist(), optimizer.applied_rates()["w"].tolist()


def sutton(examples, theta):
    """Figure 2 of the paper, line by line; returns weights and rates."""
    w, beta, h = [0.0] * INPUTS, [math.log(0.05)] * INPUTS, [0.0] * INPUTS
    for inputs, target in examples:
        x = inputs.tolist()
        delta = target.item() - sum(a * b for a, b in zip(w, x, strict=True))
        for i in range(INPUTS):
            beta[i] += theta * delta * x[i] * h[i]
            alpha = math.exp(beta[i])
            w[i] += alpha * delta * x[i]
            h[i] = h[i] * max(0.0, 1 - alpha * x[i] ** 2) + alpha * delta * x[i]
    return w, [math.exp(entry) for entry in beta]


def test_idbd_is_suttons_recursion_on_a_linear_unit():
    examples = tracking_examples(150)
    w, rates = linear_unit(examples, 0.02, curvature="exact")
    expected_w, expected_rates = sutton(examples, 0.02)
    assert w == pytest.approx(expected_w, rel=1e-10)
    assert rates == pytest.approx(expected_rates, rel=1e-10)


def test_idbd_finds_the_relevant_inputs_as_in_suttons_experiment():
    examples = tracking_examples(3000)
    _, rates = linear_unit(examples, 0.02)
    relevant, irrelevant = rates[:RELEVANT], rates[RELEVANT:]
    assert min(relevant) > 3 * max(irrelevant)
    # The estimated diagonal leads to the rates that the exact one leads to.
    assert rates == pytest.approx(sutton(examples, 0.02)[1], rel=0.25)


def test_idbd_follows_its_recursion_on_a_network_with_the_explicit_hessian():
    values, data = network(), batches(25)
    optimizer = IDBD(list(values.items()), lr=0.05, meta_lr=0.02, curvature="exact")
    train(optimizer, values, data)

    w = flat(network()).tolist()
    beta, h, negative = [math.log(0.05)] * len(w), [0.0] * len(w), 0
    for batch in data:
        gradient, hessian = derivatives(torch.tensor(w, dtype=torch.float64), values, batch)
        for i, g in enumerate(gradient):
            beta[i] -= 0.02 * g * h[i]
            alpha = math.exp(beta[i])
            w[i] -= alpha * g
            negative += hessian[i][i] < 0
            h[i] = h[i] * max(0.0, 1 - alpha * max(0.0, hessian[i][i])) - alpha * g
    assert negative > 0
    assert flat(values).tolist() == pytest.approx(w, rel=1e-10)


def test_idbd_estimates_the_diagonal_without_bias():
    """Rates of zero keep the weights in place, so that the average runs over the signs alone."""
    values, (batch,) = network(), batches(1)
    _, hessian = derivatives(flat(values), values, batch)
    optimizer = IDBD(list(values.items()), lr=0.0, decay=0.999)
    train(optimizer, values, [batch] * 1000)
    average = torch.cat([optimizer.state[value]["diagonal"].flatten() for value in values.values()])
    hessian = torch.tensor(hessian, dtype=torch.float64)
    # The variance of one estimate is the sum of the squares beside the diagonal. The squared weights of the average
    # add up to (1 − β)(1 − β²ⁿ) / ((1 + β)(1 − βⁿ)²) = 1 / 924.
    error = (hessian.square().sum(1) - hessian.diagonal().square()).sqrt() * math.sqrt(1 / 924)
    assert ((average / (1 - 0.999**1000) - hessian.diagonal()).abs() < 5 * error).all()


def test_idbd_bounds_the_change_of_the_log_rates():
    """At w = 10 the first trace is −1 and the next gradient 9, which asks for a change by 9."""
    values = {"w": torch.nn.Parameter(torch.tensor([10.0], dtype=torch.float64))}
    optimizer = IDBD(list(values.items()), lr=0.1, meta_lr=1.0, curvature="exact")

    def loss(values, batch):
        return values["w"].square().sum() / 2

    train(optimizer, values, [None], loss)
    assert optimizer.applied_rates()["w"].item() == 0.1
    train(optimizer, values, [None], loss)
    assert optimizer.applied_rates()["w"].item() == pytest.approx(0.1 * math.exp(2), rel=1e-12)
    for _ in range(7):
        optimizer.state[values["w"]]["trace"].fill_(-10.0)
        values["w"].data.fill_(-100.0)
        train(optimizer, values, [None], loss)
    assert optimizer.applied_rates()["w"].item() == pytest.approx(0.1 * math.exp(-10), rel=1e-12)


def test_idbd_forgets_all_where_a_step_passes_the_minimum():
    """On w²/2 from 1 at rate 1.5: w = −1/2 next, where 1 − α < 0 leaves nothing of the trace."""
    values = {"w": torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))}
    optimizer = IDBD(list(values.items()), lr=1.5, meta_lr=0.01, curvature="exact")
    train(optimizer, values, [None] * 2, lambda values, batch: values["w"].square().sum() / 2)
    trace = optimizer.state[values["w"]]["trace"].item()
    assert trace == pytest.approx(0.5 * 1.5 * math.exp(-0.01 * 0.5 * 1.5), rel=1e-12)


def test_idbd_draws_other_signs_with_another_seed():
    runs = []
    for seed in (0, 0, 1):
        values = network()
        train(IDBD(list(values.items()), **SETTINGS[IDBD], seed=seed), values, batches(5))
        runs.append(flat(values))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
