"""Learning-rate schedules learned by running whole training runs backwards."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from multirate.lab.opponents.base import Opponent
from multirate.lab.opponents.curvature import hessian_vector_product
from multirate.lab.opponents.reverse_mode_arithmetic import ReversibleMomentum
from multirate.lab.problems.base import Batch, Problem

# Batches whose mean loss is the final loss of a practice run: a single one would make the objective noisy.
FINAL_BATCHES = 10
OBJECTIVES = ("final", "mean")


def reverse_hypergradients(
    loss: Callable[[int], Tensor],
    parameters: Sequence[Tensor],
    rates: Sequence[Sequence[float]],
    momentum: float,
    weights: Sequence[float],
) -> tuple[float, Tensor]:
    r"""Train, then run backwards, for the derivatives of :math:`\sum_t w_t L_t(\theta_t)` in all log-rates.

    Forwards, :math:`v_{t+1} = \mu v_t + g_t` and :math:`\theta_{t+1} = \theta_t - \alpha_t v_{t+1}`. Backwards, with
    bars for the derivatives of the objective,

    .. math::
        \bar v \leftarrow \bar v - \alpha_t \bar\theta, \quad
        \partial / \partial \log \alpha_t = -\alpha_t \langle \bar\theta, v_{t+1} \rangle, \quad
        \bar\theta \leftarrow \bar\theta + w_t g_t + H_t \bar v, \quad
        \bar v \leftarrow \mu \bar v

    while θ and v are recovered exactly from the step after (see `ReversibleMomentum`), not from a tape.

    Args:
        loss: Returns the loss :math:`L_t` at the present values of the parameters, the same whenever it is called
            with the same number of the step, 0 to the number of steps.
        parameters: Leaves, where the run starts; left where it ended.
        rates: For every step the rate of every parameter.
        momentum: The momentum μ, in (0, 1).
        weights: One more than there are steps; the last is that of the loss after the last step.

    Returns:
        The objective, and its derivatives, shape (steps, parameters), float64.

    Raises:
        OverflowError: If the run diverges.

    Warns:
        RuntimeWarning: If running backwards did not end at the start, because gradients did not repeat exactly.

    Reference:
        Maclaurin, Duvenaud, Adams 2015 (arXiv 1502.03492), algorithm 2.
    """

    def gradients(step: int) -> tuple[float, list[Tensor]]:
        # With a graph forwards too: some kernels round differently without one, and the reversal would drift.
        value = loss(step)
        found = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        return float(value.detach()), list(found)

    def place(values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)

    steps, objective = len(rates), 0.0
    run = ReversibleMomentum(list(parameters), momentum)
    start = run.parameters()
    place(start)
    for step in range(steps):
        value, found = gradients(step)
        objective += weights[step] * value
        run.step([gradient.detach() for gradient in found], rates[step])
        place(run.parameters())
    end = run.parameters()

    value, found = gradients(steps)
    objective += weights[steps] * value
    if not math.isfinite(objective):
        raise OverflowError("the run has diverged")
    # Adjoints of the parameters and of the velocities.
    adjoints = [weights[steps] * gradient.detach() for gradient in found]
    velocity_adjoints = [torch.zeros_like(adjoint) for adjoint in adjoints]
    derivatives = torch.zeros(steps, len(parameters), dtype=torch.float64)
    for step in reversed(range(steps)):
        for index, velocity in enumerate(run.velocities()):
            rate = rates[step][index]
            derivatives[step, index] = -rate * (adjoints[index].double() * velocity).sum()
            velocity_adjoints[index] = velocity_adjoints[index] - rate * adjoints[index]
        run.undo_positions(rates[step])
        place(run.parameters())
        _, found = gradients(step)
        run.undo_velocities([gradient.detach() for gradient in found])
        products = hessian_vector_product(found, parameters, velocity_adjoints)
        for index, (gradient, product) in enumerate(zip(found, products, strict=True)):
            adjoints[index] = adjoints[index] + weights[step] * gradient.detach() + product
            velocity_adjoints[index] = float(run.ratio) * velocity_adjoints[index]
    if not all(torch.equal(first, last) for first, last in zip(start, run.parameters(), strict=True)):
        warnings.warn(
            "the run could not be reversed exactly, as gradients do not repeat bit by bit; "
            "call torch.use_deterministic_algorithms(True)",
            RuntimeWarning,
            stacklevel=2,
        )
    place(end)
    return objective, derivatives


class ReverseModeSGD(Opponent):
    r"""SGD with momentum under a schedule learned in practice runs that were differentiated as a whole.

    Every parameter tensor has one learned factor for each segment of the run:

    .. math::
        v_{t+1} = \mu v_t + g_t, \qquad \theta_{t+1} = \theta_t - \alpha e^{s_{p, k(t)}} v_{t+1},
        \qquad k(t) = \lfloor t \cdot \text{segments} / T \rfloor

    `prepare` makes practice runs, each from new initial weights, and after each moves all logarithms s by a step of
    Adam along the reverse-mode hypergradients of the training loss. A practice run is bounded by ``horizon``, and
    its segments are then stretched over the real run: a schedule learned on a short run decays too early for a
    long one, which is the known weakness of such a bound. A practice run that diverges halves all rates instead.
    Without `prepare` this is plain SGD with momentum.

    Args:
        params: Named parameters, or groups of them; the names find them in the practice problems.
        lr: The rate α, positive; a schedule may rewrite it and the learned factors stay.
        momentum: The momentum μ, between 0.001 and 0.999.
        meta_iterations: Number of practice runs, at least 0.
        meta_lr: Rate of Adam on the logarithms, positive.
        segments: Pieces of the run with factors of their own, at least 1.
        horizon: Steps of a practice run; ``None`` for 100, or those of the real run if these are fewer.
        objective: ``"final"``, the paper's, for the training loss after the last step, measured on up to 10
            batches; ``"mean"`` for the mean training loss over the run.
        seed: First of the seeds of the practice runs.

    Raises:
        ValueError: If an option is out of its range, or the parameters have no names.

    Reference:
        Maclaurin, Duvenaud, Adams: Gradient-based Hyperparameter Optimization through Reversible Learning,
        ICML 2015 (arXiv 1502.03492), section 3.1.
    """

    practice: tuple[int, torch.optim.Adam] | None = None
    """How many practice runs are done, and the optimizer of the logarithms with them, while there are more to come."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        momentum: float = 0.9,
        meta_iterations: int = 10,
        meta_lr: float = 0.2,
        segments: int = 10,
        horizon: int | None = None,
        objective: str = "final",
        seed: int = 0,
    ) -> None:
        for name, value in (("lr", lr), ("meta_lr", meta_lr)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: {value!r} must be a positive number")
        if not 1e-3 <= momentum <= 0.999:
            raise ValueError(f"momentum: {momentum!r} must lie between 0.001 and 0.999: running back divides by it")
        for name, count, least in (("meta_iterations", meta_iterations, 0), ("segments", segments, 1)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ValueError(f"{name}: {count!r} must be a whole number, at least {least}")
        if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1):
            raise ValueError(f"horizon: {horizon!r} must be a whole number of steps, at least 1, or None")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective: {objective!r} must be one of {', '.join(OBJECTIVES)}")
        super().__init__(params, {"lr": lr, "steps": 0, "total_steps": 0})
        if not all("param_names" in group for group in self.param_groups):
            raise ValueError("params: they have no names; give model.named_parameters()")
        self.momentum, self.meta_iterations, self.meta_lr = momentum, meta_iterations, meta_lr
        self.segments, self.horizon, self.objective, self.seed = segments, horizon, objective, seed
        for _, _, parameter in self._named():
            self.state[parameter] = {
                "momentum_buffer": torch.zeros_like(parameter),
                "log_factors": torch.zeros(segments, device=parameter.device),
            }

    def __getstate__(self) -> dict[str, Any]:
        # torch leaves out attributes of a subclass when an optimizer is copied or pickled.
        names = ("momentum", "meta_iterations", "meta_lr", "segments", "horizon", "objective", "seed", "practice")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def _named(self) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
        for group in self.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                yield group, name, parameter

    def _segment(self, step: int, steps: int) -> int:
        return min(step * self.segments // max(steps, 1), self.segments - 1)

    def prepare(self, make_problem: Callable[[int], Problem], steps: int) -> None:
        """Learn the schedule in practice runs; called again after a run that raised, go on with that run.

        Args:
            make_problem: Returns a fresh problem of the task, with initial weights decided by a seed; called at the
                beginning of every practice run.
            steps: How many steps the real run will have.

        Raises:
            ValueError: If a practice problem lacks one of the parameters.
        """
        horizon = min(steps, self.horizon or 100)
        if self.practice is None:
            factors = [self.state[parameter]["log_factors"].double().cpu() for _, _, parameter in self._named()]
            self.practice = 0, torch.optim.Adam([torch.stack(factors)], lr=self.meta_lr)
        done, adam = self.practice
        table = adam.param_groups[0]["params"][0]
        device = next(self._named())[2].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for iteration in range(done, self.meta_iterations):
                try:
                    table.grad = self._practise(make_problem, self.seed + iteration, horizon, table)
                    adam.step()
                except OverflowError:
                    table -= math.log(2.0)
                self.practice = iteration + 1, adam
        self.practice = None
        for row, (group, _, parameter) in zip(table, self._named(), strict=True):
            self.state[parameter]["log_factors"].copy_(row)
            group["total_steps"] = steps

    def _practise(self, make_problem: Callable[[int], Problem], seed: int, steps: int, table: Tensor) -> Tensor:
        """Return the hypergradients of one practice run, shape (parameters, segments).

        Raises:
            OverflowError: If the run, or its derivative, diverges.
        """
        problem = make_problem(seed)
        problem.model.train()
        practised = dict(problem.model.named_parameters())
        missing = [name for _, name, _ in self._named() if name not in practised]
        if missing:
            raise ValueError(f"params: the practice problem has no parameter named {missing[0]!r}")
        last = min(FINAL_BATCHES, problem.steps_per_epoch) if self.objective == "final" else 1
        batches = list(itertools.islice(_endless(problem, seed), steps + last))

        def loss(step: int) -> Tensor:
            torch.manual_seed(seed * (steps + 1) + step)
            if step < steps:
                return problem.loss(batches[step])
            return torch.stack([problem.loss(batch) for batch in batches[steps:]]).mean()

        segments = [self._segment(step, steps) for step in range(steps)]
        factors = table.exp().T.tolist()
        rates = [
            [group["lr"] * factor for (group, _, _), factor in zip(self._named(), factors[segment], strict=True)]
            for segment in segments
        ]
        weights = [0.0] * steps + [1.0] if self.objective == "final" else [0.0] + [1.0 / steps] * steps
        parameters = [practised[name] for _, name, _ in self._named()]
        _, derivatives = reverse_hypergradients(loss, parameters, rates, self.momentum, weights)
        if not bool(derivatives.isfinite().all()):
            raise OverflowError("the derivative of the run has diverged")
        return torch.zeros_like(table.T).index_add_(0, torch.tensor(segments), derivatives).T.contiguous()

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the rate that the last step used, or before any the first will use, by parameter name."""
        return {
            name: self._rate(group, parameter, max(group["steps"] - 1, 0)) for group, name, parameter in self._named()
        }

    def _rate(self, group: dict[str, Any], parameter: Tensor, step: int) -> Tensor:
        factor: Tensor = self.state[parameter]["log_factors"][self._segment(step, group["total_steps"])].exp()
        return factor * float(group["lr"])

    def _move(self, loss: Any) -> None:
        for parameter, gradient, group in self._with_gradients():
            momentum_buffer = self.state[parameter]["momentum_buffer"]
            momentum_buffer.mul_(self.momentum).add_(gradient)
            rate = self._rate(group, parameter, group["steps"]).to(parameter.dtype)
            parameter.sub_(rate * momentum_buffer)
        for group in self.param_groups:
            group["steps"] += 1


def _endless(problem: Problem, seed: int) -> Iterator[Batch]:
    """Yield the batches of epoch after epoch."""
    order, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    while True:
        yield from problem.batches(order, noise)
