"""MetaOptimize: step-sizes, one or one a block, learned from what they did to the discounted sum of losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from multirate.lab.opponents.base import Opponent

Base: TypeAlias = Literal["sgd", "adamw", "lion"]
Meta: TypeAlias = Literal["sgd", "adam", "lion"]
Blocks: TypeAlias = Literal["scalar", "layer", "tensor"] | Sequence[int]

BASE_MOMENTUM = {"sgd": 0.9, "adamw": 0.9, "lion": 0.99}
META_MOMENTUM = {"sgd": 0.0, "adam": 0.9, "lion": 0.99}


class MetaOptimize(Opponent):
    """Hessian-free MetaOptimize with scalar or blockwise step-sizes α = lr · e^β.

    With g_t the gradient and h_0 = 0, Algorithm 3 of the paper moves parameters and log step-sizes by

        Δw = −α_t (u_t + κ w_t),  w_{t+1} = w_t + Δw,  h_{t+1} = γ(1 − κ α_t) h_t + Δw,
        z = Σ_block h_t g_t,  β_{t+1} = β_t − η ū_t.

    The base update u_t is m_t for "sgd" (the momentum before g_t enters it, as the algorithm and the authors' code have
    it), Sign(c m_t + (1 − c) g_t) for "lion", and Adam's bias-corrected m̂/√(v̂ + eps) for "adamw", where
    m_{t+1} = ρ m_t + (1 − ρ) g_t and v_{t+1} = λ v_t + (1 − λ) g_t². The meta update ū_t is z for "sgd" (Algorithm 2),
    and the same as the base's on z for "lion" and "adam". With the meta update "sgd" this is the
    Hessian-free L-approximation, where Y_t = 1.

    β counts from zero: lr is α_0, and a schedule on it multiplies what is learned.

    Args:
        params: Parameters, or pairs of name and parameter, or groups of them.
        lr: α_0, one or two orders of magnitude below a good fixed rate (the paper's 1e-6).
        base: How parameters move.
        meta: How log step-sizes move.
        blocks: What shares a step-size: "scalar" everything, "layer" what has the same name up to its last dot,
            "tensor" nothing, or how many parameters in order each block has.
        meta_lr: η.
        discount: γ in [0, 1]; the paper's 1 for stationary problems.
        weight_decay: κ, decoupled; the paper's experiments take 0.1.
        momentum: ρ; when None 0.9, with Lion 0.99.
        square_decay: λ.
        sign_mix: c of Lion.
        meta_momentum: ρ̄; when None 0.9 for Adam and 0.99 for Lion.
        meta_square_decay: λ̄.
        meta_sign_mix: c̄ of Lion.
        eps: Added to the squares under the roots, as in the authors' code of the experiments; the paper has none.

    Raises:
        ValueError: An option is out of its range, or "layer" is asked for without names.

    Reference: Sharifnassab, Salehkaleybar & Sutton 2025, arXiv 2402.02342, Algorithm 3, section 6, and Table 2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-6,
        *,
        base: Base = "adamw",
        meta: Meta = "lion",
        blocks: Blocks = "scalar",
        meta_lr: float = 1e-3,
        discount: float = 1.0,
        weight_decay: float = 0.0,
        momentum: float | None = None,
        square_decay: float = 0.999,
        sign_mix: float = 0.9,
        meta_momentum: float | None = None,
        meta_square_decay: float = 0.999,
        meta_sign_mix: float = 0.9,
        eps: float = 1e-10,
    ) -> None:
        if base not in BASE_MOMENTUM:
            raise ValueError(f"base must be one of {sorted(BASE_MOMENTUM)}, got {base!r}; use 'adamw'")
        if meta not in META_MOMENTUM:
            raise ValueError(f"meta must be one of {sorted(META_MOMENTUM)}, got {meta!r}; use 'lion'")
        fractions = {
            "momentum": BASE_MOMENTUM[base] if momentum is None else momentum,
            "square_decay": square_decay,
            "sign_mix": sign_mix,
            "meta_momentum": META_MOMENTUM[meta] if meta_momentum is None else meta_momentum,
            "meta_square_decay": meta_square_decay,
            "meta_sign_mix": meta_sign_mix,
        }
        for name, fraction in fractions.items():
            if not 0 <= fraction < 1:
                raise ValueError(f"{name} must be in [0, 1), got {fraction}; leave it at its default")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be in [0, 1], got {discount}; use 1 for stationary problems")
        for name, number in {"lr": lr, "meta_lr": meta_lr, "eps": eps}.items():
            if number <= 0:
                raise ValueError(f"{name} must be positive, got {number}; leave it at its default")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}; use 0 for none")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        members = self._members(blocks)
        first = self.param_groups[0]["params"][0]
        # What all blocks share lies in the first group: state_dict, pickle and deepcopy all keep groups.
        self.param_groups[0].update(
            fractions,
            base=base,
            meta=meta,
            meta_lr=meta_lr,
            discount=discount,
            eps=eps,
            members=members,
            meta_steps=0,
            log_factors=first.new_zeros(max(members) + 1),
            meta_average=first.new_zeros(max(members) + 1),
            meta_square=first.new_zeros(max(members) + 1),
        )

    def _move(self, loss: Any) -> None:
        """Move the parameters with the present step-sizes, then the step-sizes."""
        shared = self.param_groups[0]
        factors = shared["log_factors"].exp()
        alignments: list[list[Tensor]] = [[] for _ in factors]
        for block, parameter, group in self._items():
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["momentum"], state["trace"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                if shared["base"] == "adamw":
                    state["square"] = torch.zeros_like(parameter)
            alignments[block].append((state["trace"] * parameter.grad).sum())
            rate, decay = group["lr"] * factors[block], group["weight_decay"]
            change = -rate * self._base_update(state, parameter.grad).add_(parameter, alpha=decay)
            parameter.add_(change)
            state["trace"].mul_(shared["discount"] * (1 - decay * rate)).add_(change)
        none = factors.new_zeros(())
        self._meta_update(torch.stack([torch.stack(parts).sum() if parts else none for parts in alignments]))

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the rate of each parameter's next step, by name (by position where none were given)."""
        factors = self.param_groups[0]["log_factors"].exp()
        rates = [group["lr"] * factors[block] for block, _, group in self._items()]
        return dict(zip(self._names() or map(str, range(len(rates))), rates, strict=True))

    def _base_update(self, state: dict[str, Any], gradient: Tensor) -> Tensor:
        shared = self.param_groups[0]
        average, decay = state["momentum"], shared["momentum"]
        state["step"] += 1
        if shared["base"] == "lion":
            update = torch.sign(shared["sign_mix"] * average + (1 - shared["sign_mix"]) * gradient)
        elif shared["base"] == "sgd":
            update = average.clone()
        average.mul_(decay).add_(gradient, alpha=1 - decay)
        if shared["base"] == "adamw":
            square, square_decay = state["square"], shared["square_decay"]
            square.mul_(square_decay).addcmul_(gradient, gradient, value=1 - square_decay)
            root = (square / (1 - square_decay ** state["step"]) + shared["eps"]).sqrt_()
            update = average / (1 - decay ** state["step"]) / root
        return update

    def _meta_update(self, alignment: Tensor) -> None:
        shared = self.param_groups[0]
        average, decay = shared["meta_average"], shared["meta_momentum"]
        shared["meta_steps"] += 1
        update = alignment
        if shared["meta"] == "lion":
            update = torch.sign(shared["meta_sign_mix"] * average + (1 - shared["meta_sign_mix"]) * alignment)
        average.mul_(decay).add_(alignment, alpha=1 - decay)
        if shared["meta"] == "adam":
            square, square_decay = shared["meta_square"], shared["meta_square_decay"]
            square.mul_(square_decay).addcmul_(alignment, alignment, value=1 - square_decay)
            root = (square / (1 - square_decay ** shared["meta_steps"]) + shared["eps"]).sqrt_()
            update = average / (1 - decay ** shared["meta_steps"]) / root
        shared["log_factors"].sub_(update, alpha=shared["meta_lr"])

    def _items(self) -> list[tuple[int, Tensor, dict[str, Any]]]:
        pairs = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        members = self.param_groups[0]["members"]
        return [(block, parameter, group) for block, (parameter, group) in zip(members, pairs, strict=True)]

    def _names(self) -> list[str]:
        return [name for group in self.param_groups for name in group.get("param_names", [])]

    def _members(self, blocks: Blocks) -> list[int]:
        """Return the number of the block of each parameter."""
        count = sum(len(group["params"]) for group in self.param_groups)
        if blocks == "scalar":
            return [0] * count
        if blocks == "tensor":
            return list(range(count))
        if blocks == "layer":
            if len(self._names()) < count:
                raise ValueError("blocks must not be 'layer' without names; pass model.named_parameters()")
            layers = [name.rpartition(".")[0] for name in self._names()]
            order = list(dict.fromkeys(layers))
            return [order.index(layer) for layer in layers]
        sizes: Any = blocks
        if isinstance(sizes, str) or sum(sizes) != count or min(sizes) < 1:
            raise ValueError(
                f"blocks must be 'scalar', 'layer', 'tensor' or positive sizes that sum to {count}, got {blocks!r}"
            )
        return [block for block, size in enumerate(sizes) for _ in range(size)]
