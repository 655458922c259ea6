"""The self-tuning family: ``torch.optim`` names whose learning rates learn themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from multirate import rules
from multirate.adaptation import DistanceRates, LogRates, Transition
from multirate.averaged import Averaged
from multirate.levels import Level, level_name
from multirate.optimizer import MultiRate, Parameters

_KAPPA = {"global": 0.03, "group": 0.01, "layer": 0.01, "gate": 0.01, "unit": 0.003, "parameter": 0.001}


def _log_rates(
    levels: Sequence[str | Level],
    hyper_lr: float | Mapping[str, float] | None,
    trace: float,
    bounds: tuple[float, float],
) -> LogRates:
    """Log-rates with a step size for each level; finer levels, whose agreement is noisier, move less."""
    if hyper_lr is None:
        hyper_lr = {level_name(level): _KAPPA.get(level_name(level), 0.01) for level in levels}
    return LogRates(hyper_lr=hyper_lr, trace=trace, bounds=bounds)


class SGD(Averaged):
    """Gradient descent that tunes its own rates.

    Averaged iterates with rates from the hypergradient of the distance travelled, at global and layer level
    (:class:`multirate.averaged.Averaged`, :class:`multirate.adaptation.DistanceRates`): no rate to search, no schedule
    needed. Parameters hold the average outside a training pass, so there is nothing to switch before evaluating.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: What the factor of a schedule is relative to, > 0. It does not say how fast to learn: the first step moves
            parameters by 0.3 % of their norm, then the rate finds itself (``bounds`` limits it).
        momentum: Weight β in [0, 1) of the average in the point where gradients are taken, the work of momentum.
        dampening: Accepted for compatibility; an average is dampened already.
        weight_decay: Weight decay.
        nesterov: Accepted for compatibility; gradients are always taken ahead of the average.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        in_backward: Move parameters, and free gradients, while ``backward`` goes on.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: κ: how far the hypergradient moves the rate of the coarsest level (default 20), and nodes of finer
            levels are lowered where they swing (default 3): one number or one per level.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.SGD(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.8,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        in_backward: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.Gradient(momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov),
            levels=levels,
            adaptation=DistanceRates(hyper_lr=hyper_lr, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            in_backward=in_backward,
        )


class Adam(Averaged):
    """Adam that tunes its own rates.

    Averaged iterates with rates from the hypergradient of the distance travelled, at global and layer level
    (:class:`multirate.averaged.Averaged`, :class:`multirate.adaptation.DistanceRates`): no rate to search, no schedule
    needed. Parameters hold the average outside a training pass, so there is nothing to switch before evaluating.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: What the factor of a schedule is relative to, > 0. It does not say how fast to learn: the first step moves
            parameters by 0.3 % of their norm, then the rate finds itself (``bounds`` limits it).
        betas: Weight β of the average in the point where gradients are taken, which does the work of a first moment;
            decay of the average of squared gradients.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        amsgrad: Use the largest second moment so far.
        decoupled_weight_decay: Decay beside the gradient, as :class:`AdamW` does, instead of as part of it.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        in_backward: Move parameters, and free gradients, while ``backward`` goes on.
        capturable: Accepted for compatibility: every step can be captured.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: κ: how far the hypergradient moves the rate of the coarsest level (default 20), and nodes of finer
            levels are lowered where they swing (default 3): one number or one per level.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves the buffers of the rule, rounding them at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.Adam(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.8, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.SecondMoment(
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
            levels=levels,
            adaptation=DistanceRates(hyper_lr=hyper_lr, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class AdamW(Averaged):
    """AdamW that tunes its own rates.

    Averaged iterates with rates from the hypergradient of the distance travelled, at global and layer level
    (:class:`multirate.averaged.Averaged`, :class:`multirate.adaptation.DistanceRates`): no rate to search, no schedule
    needed. Parameters hold the average outside a training pass, so there is nothing to switch before evaluating.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: What the factor of a schedule is relative to, > 0. It does not say how fast to learn: the first step moves
            parameters by 0.3 % of their norm, then the rate finds itself (``bounds`` limits it).
        betas: Weight β of the average in the point where gradients are taken, which does the work of a first moment;
            decay of the average of squared gradients.
        eps: Added to the denominator.
        weight_decay: Weight decay beside the gradient, in proportion to how far an element moves anyway.
        amsgrad: Use the largest second moment so far.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        in_backward: Move parameters, and free gradients, while ``backward`` goes on.
        capturable: Accepted for compatibility: every step can be captured.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: κ: how far the hypergradient moves the rate of the coarsest level (default 20), and nodes of finer
            levels are lowered where they swing (default 3): one number or one per level.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves the buffers of the rule, rounding them at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.AdamW(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.8, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-1,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.SecondMoment(
                betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, decoupled_weight_decay=True
            ),
            levels=levels,
            adaptation=DistanceRates(hyper_lr=hyper_lr, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class RMSprop(Averaged):
    """RMSProp that tunes its own rates.

    Averaged iterates with rates from the hypergradient of the distance travelled, at global and layer level
    (:class:`multirate.averaged.Averaged`, :class:`multirate.adaptation.DistanceRates`): no rate to search, no schedule
    needed. Parameters hold the average outside a training pass, so there is nothing to switch before evaluating.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: What the factor of a schedule is relative to, > 0. It does not say how fast to learn: the first step moves
            parameters by 3 % of their norm, then the rate finds itself (``bounds`` limits it).
        alpha: Decay of the average of squares.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        momentum: Weight β in [0, 1) of the average in the point where gradients are taken, the work of momentum.
        centered: Subtract the squared mean.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        in_backward: Move parameters, and free gradients, while ``backward`` goes on.
        capturable: Accepted for compatibility: every step can be captured.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: κ: how far the hypergradient moves the rate of the coarsest level (default 20), and nodes of finer
            levels are lowered where they swing (default 3): one number or one per level.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves the buffers of the rule, rounding them at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.RMSprop(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.8,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        *,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.RootMeanSquare(
                alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered
            ),
            levels=levels,
            adaptation=DistanceRates(hyper_lr=hyper_lr, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class Adagrad(MultiRate):
    """Adagrad that tunes its own rates.

    Experimental: log-rates at global and layer level (see :class:`multirate.adaptation.LogRates`), which can blow up
    late. ``lr`` is where the rates start, and a scheduler's factor still applies.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        lr_decay: Decay of the rate with the number of steps.
        weight_decay: Weight decay.
        initial_accumulator_value: Start of the accumulated squares.
        eps: Added to the denominator.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: Step size κ of the log-rates: one number or one per level.
        trace: Horizon ρ in [0, 1] of the trace of directions; 0 needs no extra buffer.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.Adagrad(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        trace: float = 0.999,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.Adagrad(
                lr_decay=lr_decay,
                weight_decay=weight_decay,
                initial_accumulator_value=initial_accumulator_value,
                eps=eps,
            ),
            levels=levels,
            adaptation=_log_rates(levels, hyper_lr, trace, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            state_dtype=state_dtype,
        )


class RAdam(MultiRate):
    """Rectified Adam that tunes its own rates.

    Experimental: log-rates at global and layer level (see :class:`multirate.adaptation.LogRates`), which can blow up
    late. ``lr`` is where the rates start, and a scheduler's factor still applies.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        decoupled_weight_decay: Decay beside the gradient (AdamW) instead of as part of it.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        capturable: Accepted for compatibility: every step can be captured.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: Step size κ of the log-rates: one number or one per level.
        trace: Horizon ρ in [0, 1] of the trace of directions; 0 needs no extra buffer.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.RAdam(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        trace: float = 0.999,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.RAdam(
                betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay
            ),
            levels=levels,
            adaptation=_log_rates(levels, hyper_lr, trace, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            state_dtype=state_dtype,
        )


class NAdam(MultiRate):
    """Adam with Nesterov momentum that tunes its own rates.

    Experimental: log-rates at global and layer level (see :class:`multirate.adaptation.LogRates`), which can blow up
    late. ``lr`` is where the rates start, and a scheduler's factor still applies.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        momentum_decay: Decay of the momentum schedule.
        decoupled_weight_decay: Decay beside the gradient (AdamW) instead of as part of it.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        capturable: Accepted for compatibility: every step can be captured.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: Step size κ of the log-rates: one number or one per level.
        trace: Horizon ρ in [0, 1] of the trace of directions; 0 needs no extra buffer.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.NAdam(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        trace: float = 0.999,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.NAdam(
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                momentum_decay=momentum_decay,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
            levels=levels,
            adaptation=_log_rates(levels, hyper_lr, trace, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            state_dtype=state_dtype,
        )


class AdaBound(MultiRate):
    """AdaBound (Luo et al. 2019) that tunes its own rates within its closing bounds.

    Experimental: log-rates at global and layer level (see :class:`multirate.adaptation.LogRates`), which can blow up
    late. ``lr`` is where the rates start, and a scheduler's factor still applies.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        betas: Decay of the averages of the gradient and of its square.
        final_lr: Rate the bounds close in on.
        gamma: Speed at which they do.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        amsbound: Use the largest second moment so far.
        decoupled_weight_decay: Decay beside the gradient (AdamW) instead of as part of it.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: Step size κ of the log-rates: one number or one per level.
        trace: Horizon ρ in [0, 1] of the trace of directions; 0 needs no extra buffer.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.AdaBound(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsbound: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        trace: float = 0.999,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.AdaBound(
                betas=betas,
                final_lr=final_lr,
                gamma=gamma,
                eps=eps,
                weight_decay=weight_decay,
                amsbound=amsbound,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
            levels=levels,
            adaptation=_log_rates(levels, hyper_lr, trace, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            state_dtype=state_dtype,
        )


class Lion(MultiRate):
    """Lion (Chen et al. 2023) that tunes its own rates.

    Experimental: log-rates at global and layer level (see :class:`multirate.adaptation.LogRates`), which can blow up
    late. ``lr`` is where the rates start, and a scheduler's factor still applies.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        betas: Decay of the averages of the gradient and of its square.
        weight_decay: Weight decay.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        hyper_lr: Step size κ of the log-rates: one number or one per level.
        trace: Horizon ρ in [0, 1] of the trace of directions; 0 needs no extra buffer.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest applied rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.Lion(model.named_parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.rates())
        ['global', 'layer']
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        levels: Sequence[str | Level] = ("global", "layer"),
        hyper_lr: float | Mapping[str, float] | None = None,
        trace: float = 0.999,
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.Lion(betas=betas, weight_decay=weight_decay, decoupled_weight_decay=True),
            levels=levels,
            adaptation=_log_rates(levels, hyper_lr, trace, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            state_dtype=state_dtype,
        )
