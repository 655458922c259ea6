"""What the lab's own optimizers share: the frame of a step, and what they ask of the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor


class Opponent(torch.optim.Optimizer, ABC):
    """An optimizer of the lab: a subclass writes `_move`, and says in `needs` what the training loop gives `step`.

    The protocol holds for every optimizer of the lab, of this class or not; one without ``needs`` gets ``"gradient"``:

    * ``"gradient"``: ``loss.backward(); optimizer.step()``.
    * ``"loss"``: ``loss.backward(); optimizer.step(lambda: loss.detach())``. The closure returns the value already
      computed.
    * ``"graph"``: ``loss.backward(create_graph=True); optimizer.step()``. Gradients carry their graph, so that
      `hessian_vector_product` can be taken of them. The loop sets them to None before the next step, or the graph
      would keep itself alive; the optimizer leaves the parameters leaves.
    * ``"closure"``: ``loss.backward(); optimizer.step(closure)``. The closure returns the loss of the same batch at the
      present parameters, in evaluation mode and without gradients, as often as it is called. How often is up to the
      method, which therefore replaces `step`.

    A method that practises before training has, besides, ``prepare(make_problem: Callable[[int], Problem],
    steps: int) -> None``, which the loop calls once: ``make_problem(seed)`` returns a fresh problem of the same task,
    with the same training data and new initial weights, and ``steps`` is how many steps the real training will have.
    The loop may write a checkpoint whenever it is asked for a problem, or raise: called again, on this object or on one
    that came out of the checkpoint, `prepare` goes on with the problem that it asked for last.
    This class has none, as its presence is what is asked for.

    All that a method remembers lies in `state`, in `param_groups`, or in attributes that can be pickled, so that an
    interrupted run resumes exactly. Checkpoints keep every attribute of a class without ``__getstate__``; a class that
    has it, so that copies keep attributes too, must name them all: hence there is none here.

    A schedule may rewrite ``group["lr"]`` before each step, so learned factors lie elsewhere, and
    ``applied_rates() -> dict[str, Tensor]`` then tells the rate really applied, by parameter name.
    """

    needs: ClassVar[str] = "gradient"

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; return what the closure returns.

        Args:
            closure: Called once, with gradients enabled, before anything moves; see `needs` for what it returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._move(loss)
        return loss

    @abstractmethod
    def _move(self, loss: Any) -> None:
        """Change the parameters that have gradients; runs without recording gradients.

        Args:
            loss: What the closure returned; ``None`` without a closure.
        """

    def _with_gradients(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Yield each parameter that has a gradient, with the gradient and its group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter, parameter.grad, group


class GainAdaptation(Opponent):
    """An optimizer that learns a gain for every number in the parameters, a factor to its group's ``lr``."""

    @abstractmethod
    def _gain(self, state: dict[str, Any]) -> Tensor:
        """Return the gains of one parameter, of its shape, from its state."""

    def applied_rates(self) -> dict[str, Tensor]:
        """Return for each parameter's name its rates, of its shape; only parameters that had a gradient are there."""
        return {
            name: group["lr"] * self._gain(self.state[parameter])
            for group in self.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if parameter in self.state
        }
