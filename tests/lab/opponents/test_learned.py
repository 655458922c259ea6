"""The learned optimizer: its formulas, how it is trained, and how it fails beyond its horizon."""

from __future__ import annotations

import copy
import math
import statistics
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from multirate.lab.data.digits import digits
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.opponents.learned import SHIPPED_WEIGHTS, CoordinatewiseLSTM, LearnedOptimizer, preprocess
from multirate.lab.opponents.learned_training import HORIZON, digits_network, main, quadratics, train, unroll
from multirate.lab.storage import Storage


def test_preprocessing_splits_size_and_sign_as_in_the_appendix():
    gradient = torch.tensor([math.exp(5.0), -math.exp(-5.0), 1.0, 0.0, -math.exp(-12.0)], dtype=torch.float64)
    expected = [[0.5, 1.0], [-0.5, -1.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, -math.exp(-2.0)]]
    torch.testing.assert_close(preprocess(gradient), torch.tensor(expected, dtype=torch.float64))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def layer_by_hand(inputs, output, cell, weights):
    """One LSTM layer (Hochreiter & Schmidhuber 1997, with forget gates) on one coordinate, in plain Python."""
    units = len(output)
    gates = weights[0] @ torch.tensor(inputs) + weights[2] + weights[1] @ torch.tensor(output) + weights[3]
    enter, forget, new, leave = gates.view(4, units).tolist()
    cell = [sigmoid(f) * c + sigmoid(e) * math.tanh(n) for f, c, e, n in zip(forget, cell, enter, new, strict=True)]
    return [sigmoid(gate) * math.tanh(c) for gate, c in zip(leave, cell, strict=True)], cell


def test_steps_are_the_scaled_outputs_of_a_network_run_on_every_coordinate_alone():
    gradients = [[3.0, -0.01, 1e-6], [0.5, -2.0, 0.0]]
    parameter = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = LearnedOptimizer([parameter], scale=0.2)
    weights = {name: value.detach() for name, value in optimizer.network.state_dict().items()}
    cells = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    expected = [1.0, 2.0, 3.0]
    hidden = [[[0.0] * 20 for _ in range(4)] for _ in range(3)]
    for row in gradients:
        parameter.grad = torch.tensor(row)
        optimizer.step()
        for index, (inputs, state) in enumerate(zip(preprocess(torch.tensor(row)).tolist(), hidden, strict=True)):
            state[:2] = layer_by_hand(inputs, *state[:2], [weights[f"first.{cell}"] for cell in cells])
            state[2:] = layer_by_hand(state[0], *state[2:], [weights[f"second.{cell}"] for cell in cells])
            output = weights["output.weight"] @ torch.tensor(state[2]) + weights["output.bias"]
            expected[index] += 0.2 * output.item()
    assert parameter.tolist() == pytest.approx(expected, rel=1e-5)
    assert parameter.tolist() != pytest.approx([1.0, 2.0, 3.0], abs=1e-3)


def test_a_schedule_multiplies_the_step():
    moves = []
    for factor in (1.0, 0.5):
        parameter = nn.Parameter(torch.zeros(2))
        optimizer = LearnedOptimizer([parameter])
        optimizer.param_groups[0]["lr"] *= factor
        parameter.grad = torch.tensor([1.0, -3.0])
        optimizer.step()
        moves.append(parameter.detach())
    torch.testing.assert_close(moves[1], moves[0] / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_interrupted_run_resumes_exactly(dtype):
    def advance(parameters, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            sum((parameter - 1).square().sum() for parameter in parameters).backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in parameters]

    parameters = [
        nn.Parameter(torch.linspace(-1, 1, 6, dtype=dtype).view(2, 3)),
        nn.Parameter(torch.ones((), dtype=dtype)),
    ]
    optimizer = LearnedOptimizer(parameters)
    advance(parameters, optimizer, 5)
    copied_parameters, copied = copy.deepcopy((parameters, optimizer))
    expected = advance(parameters, optimizer, 5)
    assert all(map(torch.equal, expected, advance(copied_parameters, copied, 5)))
    if dtype != torch.bfloat16:
        # A bfloat16 parameter makes torch round the state that is loaded.
        advance(copied_parameters, copied, 5)
        loaded_parameters = copy.deepcopy(copied_parameters)
        loaded = LearnedOptimizer(loaded_parameters)
        loaded.load_state_dict(copy.deepcopy(copied.state_dict()))
        expected = advance(copied_parameters, copied, 5)
        assert all(map(torch.equal, expected, advance(loaded_parameters, loaded, 5)))


def test_a_scale_out_of_range_is_named():
    with pytest.raises(ValueError, match="scale: -1"):
        LearnedOptimizer([nn.Parameter(torch.zeros(1))], scale=-1.0)


def test_quadratics_have_the_loss_of_the_paper():
    generator = torch.Generator().manual_seed(4)
    matrices = torch.randn(3, 10, 10, generator=generator)
    targets = torch.randn(3, 10, generator=generator)
    expected_start = torch.randn(30, generator=generator)
    start, loss = quadratics(torch.Generator().manual_seed(4), count=3)
    assert torch.equal(start, expected_start)
    expected = sum(((W @ point - y) ** 2).sum() for W, y, point in zip(matrices, targets, start.split(10), strict=True))
    torch.testing.assert_close(loss(start), expected)


def test_the_digits_task_can_be_learned_and_starts_without_knowledge():
    start, loss = digits_network(torch.Generator().manual_seed(0))
    assert start.shape == (64 * 20 + 20 + 20 * 10 + 10,)
    with torch.no_grad():
        values = torch.stack([loss(start) for _ in range(20)])
        assert torch.stack([loss(torch.zeros_like(start)) for _ in range(3)]).tolist() == pytest.approx(
            [math.log(10)] * 3
        )
    assert abs(values.mean() - math.log(10)) < 0.5
    assert values.std() > 0


def test_a_window_drops_second_derivatives_and_nothing_else():
    """On a quadratic with known gradients the meta-gradient is that of the recursion with gradients held fixed."""
    torch.manual_seed(0)
    network = CoordinatewiseLSTM().double()
    A = torch.randn(3, 3, dtype=torch.float64)
    A = A @ A.T
    origin, hidden = torch.randn(3, dtype=torch.float64), torch.randn(4, 3, 20, dtype=torch.float64)
    total, end, state = unroll(network, lambda x: x @ A @ x / 2, origin, hidden, steps=4)
    found = torch.autograd.grad(total, list(network.parameters()))

    point, memory, losses = origin, hidden, []
    for _ in range(4):
        update, memory = network((A @ point).detach(), memory)
        point = point + 0.1 * update
        losses.append(point @ A @ point / 2)
    expected = torch.autograd.grad(sum(losses), list(network.parameters()))
    assert total.item() == pytest.approx(sum(losses).item(), rel=1e-12)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(end, point.detach())
    torch.testing.assert_close(state, memory.detach())
    assert not end.requires_grad
    assert not state.requires_grad


def test_training_is_repeatable_and_leaves_the_random_generator_alone(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = train(seed=3, runs=2).state_dict()
    assert torch.equal(torch.rand(1), expected)
    threads = torch.get_num_threads()
    try:
        main(["--seed", "3", "--runs", "2", "--out", str(tmp_path / "weights.pt")])
    finally:
        torch.set_num_threads(threads)
    written = torch.load(tmp_path / "weights.pt", weights_only=True)
    untrained = train(seed=3, runs=0).state_dict()
    for name, value in first.items():
        torch.testing.assert_close(written[name], value, rtol=1e-4, atol=1e-6)
        assert not torch.equal(untrained[name], value)
    parameter = nn.Parameter(torch.zeros(2))
    assert torch.equal(
        LearnedOptimizer([parameter], weights=tmp_path / "weights.pt").network.output.weight, written["output.weight"]
    )


def test_the_shipped_weights_are_small():
    assert SHIPPED_WEIGHTS.stat().st_size < 64 * 1024


QUADRATICS = 20


def losses_on_quadratics(make_optimizer, steps=20 * HORIZON, measured=(HORIZON, 10 * HORIZON, 20 * HORIZON)):
    """Train on new quadratics; return the loss of each at the measured steps, shape (measured, quadratics)."""
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(QUADRATICS, 10, 10, generator=generator)
    targets = torch.randn(QUADRATICS, 10, generator=generator)
    start, loss = quadratics(torch.Generator().manual_seed(1), QUADRATICS)
    parameter = nn.Parameter(start)
    optimizer, values = make_optimizer([parameter]), []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(parameter).backward()
        optimizer.step()
        if step in measured:
            points = parameter.detach().view(QUADRATICS, 10, 1)
            values.append((torch.bmm(matrices, points).squeeze(2) - targets).square().sum(dim=1))
    return torch.stack(values)


def test_within_its_horizon_it_beats_tuned_adam_and_far_beyond_it_stalls():
    """Lv et al. 2017 and Wichrowska et al. 2017 report the failure; on these quadratics it is a stall, no explosion."""
    learned = losses_on_quadratics(LearnedOptimizer)

    def adam(lr, steps=20 * HORIZON):
        return losses_on_quadratics(lambda params: torch.optim.Adam(params, lr=lr), steps)

    short = {lr: adam(lr, HORIZON)[0].mean().item() for lr in (0.1, 0.3, 1.0, 3.0)}
    best = min(short, key=short.__getitem__)
    assert best not in (0.1, 3.0), "the best rate must lie inside the grid"
    assert learned[0].mean() < 0.5 * short[best]

    # The median, as a few badly conditioned quadratics keep the mean of SGD and Adam high for long.
    assert learned[2].median() > 0.5 * learned[1].median()
    for tuned in (adam(best), losses_on_quadratics(lambda params: torch.optim.SGD(params, lr=0.03, momentum=0.9))):
        assert tuned[2].median() < 1e-3 * tuned[0].median()
        assert tuned[2].median() < 1e-2 * learned[2].median()


def test_a_network_unlike_those_it_was_trained_on_is_hardly_learned():
    """Andrychowicz et al. 2016 report that rectified units break it (section 3.2); width is changed too."""
    data = digits()

    def training_loss(make_optimizer):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = FeedForward((64, 100, 100, 10))
        optimizer, generator = make_optimizer(model.parameters()), torch.Generator().manual_seed(1)
        for _ in range(200):
            batch = torch.randint(len(data.train_targets), (64,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(data.train_inputs[batch]), data.train_targets[batch]).backward()
            optimizer.step()
        return F.cross_entropy(model(data.train_inputs), data.train_targets).item()

    assert training_loss(lambda parameters: torch.optim.Adam(parameters, lr=3e-3)) < 0.05
    assert training_loss(LearnedOptimizer) > 0.3


def test_the_documentation_says_what_the_results_of_the_short_horizon_say():
    root = Path(__file__).parents[3]
    losses = {}
    for result in Storage(root / "results" / "learned-optimizer").results():
        name = result.trial.variant.optimizer
        losses.setdefault((result.task, name), {}).setdefault(result.optimizer, []).append(result.test_loss)
    least = {key: min(map(statistics.fmean, variants.values())) for key, variants in losses.items()}
    text = (root / "docs" / "lab.md").read_text(encoding="utf-8").partition("**The learned optimizer**")[2]
    for loss in least.values():
        assert f"{loss:.2g}" in text
    within, beyond, network = "quadratics/100-steps", f"quadratics/{20 * HORIZON}-steps", "digits/ffnn"
    assert least[within, "learned"] < 0.5 * least[within, "adam"]
    for other in ("adam", "sgd"):
        assert least[beyond, "learned"] > 1000 * least[beyond, other]
        assert least[network, "learned"] > 5 * least[network, other]
