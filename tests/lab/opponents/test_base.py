"""The frame of a step that the lab's optimizers share, and the check that gradients carry a graph."""

import pytest
import torch

from multirate.lab.checkpoint import pack_optimizer, unpack_optimizer
from multirate.lab.opponents.base import Opponent
from multirate.lab.opponents.curvature import require_graph


class Descent(Opponent):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.5})
        self.losses = []

    def _move(self, loss):
        self.losses.append(loss)
        for parameter, gradient, group in self._with_gradients():
            parameter.sub_(gradient, alpha=group["lr"])


def test_the_closure_runs_once_with_gradients_before_the_move():
    weight = torch.tensor([3.0], requires_grad=True)
    optimizer = Descent([weight])
    calls = []

    def closure():
        calls.append(weight.item())
        loss = weight.square().sum()
        loss.backward()
        return loss

    returned = optimizer.step(closure)
    assert calls == [3.0]
    assert returned is optimizer.losses[0]
    assert returned.item() == 9.0
    assert weight.item() == 0.0
    assert weight.is_leaf


def test_a_step_without_a_closure_returns_none():
    optimizer = Descent([torch.ones(1, requires_grad=True)])
    assert optimizer.step() is None
    assert optimizer.losses == [None]


def test_parameters_without_gradients_stay_and_each_moves_at_the_rate_of_its_group():
    first, idle, last = (torch.ones(1, requires_grad=True) for _ in range(3))
    optimizer = Descent([{"params": [first, idle]}, {"params": [last], "lr": 0.25}])
    first.grad, last.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert [first.item(), idle.item(), last.item()] == [0.5, 1.0, 0.75]


def test_a_method_without_a_move_cannot_be_built():
    with pytest.raises(TypeError, match="_move"):
        type("Idle", (Opponent,), {})([torch.ones(1, requires_grad=True)], {"lr": 0.1})


def test_what_the_loop_asks_for_by_presence_is_not_inherited():
    assert Opponent.needs == "gradient"
    assert not hasattr(Opponent, "prepare")


def test_checkpoints_keep_attributes_that_no_class_names():
    weight = torch.ones(1, requires_grad=True)
    optimizer = Descent([weight])
    optimizer.losses = [1.5, 0.5]
    assert unpack_optimizer(pack_optimizer(optimizer), lambda: Descent([weight])).losses == [1.5, 0.5]


def test_one_gradient_with_a_graph_is_enough():
    curved = torch.ones(1, requires_grad=True).square()
    require_graph([torch.ones(1), curved])
    with pytest.raises(RuntimeError, match="create_graph=True"):
        require_graph([torch.ones(1)])
