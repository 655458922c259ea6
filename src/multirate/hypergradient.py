"""Baydin's family (``*HD``) and the paper's (``*CAMHD``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from multirate import rules
from multirate.adaptation import CAMHD, Additive, Multiplicative, Transition
from multirate.levels import Level
from multirate.optimizer import MultiRate, Parameters


def _baydin(
    hyper_lr: float | Mapping[str, float], multiplicative: bool, reduction: str, bounds: tuple[float, float]
) -> Additive | Multiplicative:
    if multiplicative:
        return Multiplicative(hyper_lr=hyper_lr, bounds=bounds)
    return Additive(hyper_lr=hyper_lr, reduction=reduction, bounds=bounds)


class SGDHD(MultiRate):
    """SGD-HD: plain or heavy-ball gradient descent whose rate learns by hypergradient.

    Args:
        params: The model, ``model.named_parameters()``, or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        momentum: Momentum factor μ.
        dampening: Dampening of the momentum.
        weight_decay: Weight decay.
        nesterov: Nesterov momentum.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        hyper_lr: β ≥ 0, the step size of the rate, in absolute units.
        multiplicative: ``α ← α (1 + β cos)`` (Eq. 8 of the reference) instead of ``α ← α + β H``.
        levels: Levels that share a rate; Baydin's own is global alone.
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.SGDHD(model.named_parameters(), hyper_lr=1e-3)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference:
        Baydin, Cornish, Rubio, Schmidt, Wood: Online Learning Rate Adaptation with Hypergradient Descent, ICLR 2018.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        hyper_lr: float | Mapping[str, float] = 1e-3,
        multiplicative: bool = False,
        levels: Sequence[str | Level] = ("global",),
        reduction: str = "sum",
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.SGD(momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov),
            levels=levels,
            adaptation=_baydin(hyper_lr, multiplicative, reduction, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class SGDNHD(MultiRate):
    """SGDN-HD: Nesterov momentum (0.9 by default) whose rate learns by hypergradient.

    Args:
        params: The model, ``model.named_parameters()``, or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        momentum: Momentum factor μ.
        dampening: Dampening of the momentum.
        weight_decay: Weight decay.
        nesterov: Nesterov momentum.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        hyper_lr: β ≥ 0, the step size of the rate, in absolute units.
        multiplicative: ``α ← α (1 + β cos)`` (Eq. 8 of the reference) instead of ``α ← α + β H``.
        levels: Levels that share a rate; Baydin's own is global alone.
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.SGDNHD(model.named_parameters(), hyper_lr=1e-3)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference:
        Baydin, Cornish, Rubio, Schmidt, Wood: Online Learning Rate Adaptation with Hypergradient Descent, ICLR 2018.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        hyper_lr: float | Mapping[str, float] = 1e-3,
        multiplicative: bool = False,
        levels: Sequence[str | Level] = ("global",),
        reduction: str = "sum",
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.SGD(momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov),
            levels=levels,
            adaptation=_baydin(hyper_lr, multiplicative, reduction, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class AdamHD(MultiRate):
    """Adam-HD: Adam whose rate learns by hypergradient.

    Args:
        params: The model, ``model.named_parameters()``, or what ``torch.optim`` takes.
        lr: Starting learning rate, > 0.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        amsgrad: Use the largest second moment so far.
        decoupled_weight_decay: Decay beside the gradient (AdamW) instead of as part of it.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        capturable: Accepted for compatibility: every step can be captured.
        hyper_lr: β ≥ 0, the step size of the rate, in absolute units.
        multiplicative: ``α ← α (1 + β cos)`` (Eq. 8 of the reference) instead of ``α ← α + β H``.
        levels: Levels that share a rate; Baydin's own is global alone.
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        transition: Transition to a fixed rate, or its rate r.
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.AdamHD(model.named_parameters(), hyper_lr=1e-8)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference:
        Baydin, Cornish, Rubio, Schmidt, Wood: Online Learning Rate Adaptation with Hypergradient Descent, ICLR 2018.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        hyper_lr: float | Mapping[str, float] = 1e-8,
        multiplicative: bool = False,
        levels: Sequence[str | Level] = ("global",),
        reduction: str = "sum",
        transition: Transition | float | None = None,
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.Adam(
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
            levels=levels,
            adaptation=_baydin(hyper_lr, multiplicative, reduction, bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class SGDCAMHD(MultiRate):
    """SGD-CAM-HD: plain or heavy-ball gradient descent with combined learned rates.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell units), or what ``torch.optim`` takes.
        lr: Learning rate every node of every level starts at, > 0.
        momentum: Momentum factor μ.
        dampening: Dampening of the momentum.
        weight_decay: Weight decay.
        nesterov: Nesterov momentum.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        levels: Levels to combine, see :class:`multirate.MultiRate`.
        weights: First combination weights γ, in the order of ``levels`` or by name; they sum to 1. ``None``: equal.
        hyper_lr: β ≥ 0, the step size of the rates: one number or one per level.
        weight_lr: δ ≥ 0, the step size of the weights; 0 fixes them.
        transition: Transition τ(t) to a fixed rate, or its rate r (Section 3.5).
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        normalization: ``"clip"`` or ``"softmax"``, how weights stay a convex combination.
        weight_level: ``"global"`` for shared weights, ``"layer"`` for weights of every layer (then one of ``levels``).
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.SGDCAMHD(model.named_parameters(), levels=("global", "unit"), weights=(0.8, 0.2))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> round(float(optimizer.weights()["global"]), 3)
        0.8

    Reference:
        Jie, Gao, Vasnev, Tran: Adaptive Hierarchical Hyper-gradient Descent, arXiv 2008.07277, Algorithm 1.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        levels: Sequence[str | Level] = ("global", "unit"),
        weights: Sequence[float] | Mapping[str, float] | None = (0.8, 0.2),
        hyper_lr: float | Mapping[str, float] = 1e-3,
        weight_lr: float = 0.03,
        transition: Transition | float | None = None,
        reduction: str = "sum",
        normalization: str = "clip",
        weight_level: str = "global",
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.SGD(momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov),
            levels=levels,
            adaptation=CAMHD(weights, hyper_lr, weight_lr, normalization, weight_level, reduction, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class SGDNCAMHD(MultiRate):
    """SGDN-CAM-HD: Nesterov momentum (0.9 by default) with combined learned rates.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell units), or what ``torch.optim`` takes.
        lr: Learning rate every node of every level starts at, > 0.
        momentum: Momentum factor μ.
        dampening: Dampening of the momentum.
        weight_decay: Weight decay.
        nesterov: Nesterov momentum.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        levels: Levels to combine, see :class:`multirate.MultiRate`.
        weights: First combination weights γ, in the order of ``levels`` or by name; they sum to 1. ``None``: equal.
        hyper_lr: β ≥ 0, the step size of the rates: one number or one per level.
        weight_lr: δ ≥ 0, the step size of the weights; 0 fixes them.
        transition: Transition τ(t) to a fixed rate, or its rate r (Section 3.5).
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        normalization: ``"clip"`` or ``"softmax"``, how weights stay a convex combination.
        weight_level: ``"global"`` for shared weights, ``"layer"`` for weights of every layer (then one of ``levels``).
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.SGDNCAMHD(model.named_parameters(), levels=("global", "unit"), weights=(0.8, 0.2))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> round(float(optimizer.weights()["global"]), 3)
        0.8

    Reference:
        Jie, Gao, Vasnev, Tran: Adaptive Hierarchical Hyper-gradient Descent, arXiv 2008.07277, Algorithm 1.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        levels: Sequence[str | Level] = ("global", "unit"),
        weights: Sequence[float] | Mapping[str, float] | None = (0.8, 0.2),
        hyper_lr: float | Mapping[str, float] = 1e-3,
        weight_lr: float = 0.03,
        transition: Transition | float | None = None,
        reduction: str = "sum",
        normalization: str = "clip",
        weight_level: str = "global",
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.SGD(momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov),
            levels=levels,
            adaptation=CAMHD(weights, hyper_lr, weight_lr, normalization, weight_level, reduction, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class AdamCAMHD(MultiRate):
    """Adam-CAM-HD: Adam with combined learned rates.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell units), or what ``torch.optim`` takes.
        lr: Learning rate every node of every level starts at, > 0.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        amsgrad: Use the largest second moment so far.
        decoupled_weight_decay: Decay beside the gradient (AdamW) instead of as part of it.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        capturable: Accepted for compatibility: every step can be captured.
        levels: Levels to combine, see :class:`multirate.MultiRate`.
        weights: First combination weights γ, in the order of ``levels`` or by name; they sum to 1. ``None``: equal.
        hyper_lr: β ≥ 0, the step size of the rates: one number or one per level.
        weight_lr: δ ≥ 0, the step size of the weights; 0 fixes them.
        transition: Transition τ(t) to a fixed rate, or its rate r (Section 3.5).
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        normalization: ``"clip"`` or ``"softmax"``, how weights stay a convex combination.
        weight_level: ``"global"`` for shared weights, ``"layer"`` for weights of every layer (then one of ``levels``).
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.AdamCAMHD(model.named_parameters(), levels=("global", "unit"), weights=(0.8, 0.2))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> round(float(optimizer.weights()["global"]), 3)
        0.8

    Reference:
        Jie, Gao, Vasnev, Tran: Adaptive Hierarchical Hyper-gradient Descent, arXiv 2008.07277, Algorithm 1.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        levels: Sequence[str | Level] = ("global", "unit"),
        weights: Sequence[float] | Mapping[str, float] | None = (0.8, 0.2),
        hyper_lr: float | Mapping[str, float] = 1e-8,
        weight_lr: float = 0.03,
        transition: Transition | float | None = None,
        reduction: str = "sum",
        normalization: str = "clip",
        weight_level: str = "global",
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rules.Adam(
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
            levels=levels,
            adaptation=CAMHD(weights, hyper_lr, weight_lr, normalization, weight_level, reduction, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )


class AdaBoundCAMHD(MultiRate):
    """AdaBound-CAM-HD: the combined rate inside the closing bounds of AdaBound, in the form of Eq. (36).

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell units), or what ``torch.optim`` takes.
        lr: Learning rate every node of every level starts at, > 0.
        betas: Decay of the averages of the gradient and of its square.
        final_lr: Rate the bounds close in on.
        gamma: Speed at which they do.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        amsbound: Use the largest second moment so far.
        decoupled_weight_decay: Decay beside the gradient (AdamW) instead of as part of it.
        paper_form: Eq. (36), bounds from β₂ and a factor 1/√t; ``False``: the released AdaBound.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        late: Move with the rates learned up to the step before: one pass over memory instead of two.
        in_backward: Measure (with ``late`` move, and free gradients) while ``backward`` goes on.
        levels: Levels to combine, see :class:`multirate.MultiRate`.
        weights: First combination weights γ, in the order of ``levels`` or by name; they sum to 1. ``None``: equal.
        hyper_lr: β ≥ 0, the step size of the rates: one number or one per level.
        weight_lr: δ ≥ 0, the step size of the weights; 0 fixes them.
        transition: Transition τ(t) to a fixed rate, or its rate r (Section 3.5).
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        normalization: ``"clip"`` or ``"softmax"``, how weights stay a convex combination.
        weight_level: ``"global"`` for shared weights, ``"layer"`` for weights of every layer (then one of ``levels``).
        bounds: Smallest and largest rate.
        state_dtype: ``torch.bfloat16`` halves what is remembered of every element, rounding it at random.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.AdaBoundCAMHD(model.named_parameters(), levels=("global", "unit"), weights=(0.8, 0.2))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> round(float(optimizer.weights()["global"]), 3)
        0.8

    Reference:
        Jie, Gao, Vasnev, Tran: Adaptive Hierarchical Hyper-gradient Descent, arXiv 2008.07277, Alg. 1 and Eq. (36).
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
        paper_form: bool = True,
        levels: Sequence[str | Level] = ("global", "unit"),
        weights: Sequence[float] | Mapping[str, float] | None = (0.8, 0.2),
        hyper_lr: float | Mapping[str, float] = 1e-8,
        weight_lr: float = 0.03,
        transition: Transition | float | None = None,
        reduction: str = "sum",
        normalization: str = "clip",
        weight_level: str = "global",
        bounds: tuple[float, float] = (0.0, inf),
        late: bool = False,
        in_backward: bool = False,
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
                paper_form=paper_form,
            ),
            levels=levels,
            adaptation=CAMHD(weights, hyper_lr, weight_lr, normalization, weight_level, reduction, bounds=bounds),
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            late=late,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )
