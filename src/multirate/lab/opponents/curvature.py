"""Products with the Hessian of the loss, from gradients that carry their graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hessian_vector_product(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return H v, one tensor per parameter, and zeros where no second derivative exists.

    Args:
        gradients: The gradient ∇f of every parameter, with its graph where it depends on any parameter; the graph is
            freed here.
        parameters: Where the gradients were taken, leaves.
        vectors: The vector v, shaped like the parameters.
    """
    # A gradient that depends on no parameter carries no graph; its rows of the Hessian are zero.
    curved = [(gradient, vector) for gradient, vector in zip(gradients, vectors, strict=True) if gradient.requires_grad]
    if not curved:
        return tuple(torch.zeros_like(parameter) for parameter in parameters)
    return torch.autograd.grad(
        [gradient for gradient, _ in curved],
        parameters,
        [vector for _, vector in curved],
        allow_unused=True,
        materialize_grads=True,
    )


def require_graph(gradients: Sequence[Tensor]) -> None:
    """Refuse gradients of which none carries a graph.

    Raises:
        RuntimeError: With the cure; a method would otherwise take the loss for one without curvature.
    """
    if not any(gradient.requires_grad for gradient in gradients):
        raise RuntimeError("the gradients carry no graph; call loss.backward(create_graph=True) before step()")
