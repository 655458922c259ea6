"""A small decoder-only transformer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_DEVIATION = 0.02


class Attention(nn.Module):
    """Causal self-attention with several heads.

    Args:
        width: Features of a token, a multiple of `heads`.
        heads: Attention heads.
        dropout: Chance to drop an attention weight.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self._dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, input: Tensor) -> Tensor:
        """Return what each token takes from itself and earlier ones, shaped like `input`: (batch, time, width)."""
        # (batch, time, 3 · width) to three times (batch, heads, time, width / heads)
        query, key, value = self.query_key_value(input).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self._dropout if self.training else 0.0
        )
        output: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """Attention, then a perceptron with one hidden layer; each sees normalised input and adds to the residual stream.

    Args:
        width: Features of a token, a multiple of `heads`.
        heads: Attention heads.
        dropout: Chance to drop an attention weight, or a feature before it is added.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.expansion = nn.Linear(width, 4 * width)
        self.projection = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """Return the residual stream after the block, shaped like before: (batch, time, width)."""
        stream = stream + self.dropout(self.attention(self.norm1(stream)))
        # GPT-2 was trained with the tanh form.
        hidden = F.gelu(self.expansion(self.norm2(stream)), approximate="tanh")
        stream = stream + self.dropout(self.projection(hidden))
        return stream


class Transformer(nn.Module):
    """A language model of the GPT-2 family: `logits[t]` predicts token `t + 1` from tokens `0 … t`.

    Weights start normal with deviation 0.02, those of projections into the residual stream with
    `0.02 / √(2 · layers)`, biases at 0.

    PyTorch's fused attention has no second derivative. To differentiate a gradient again, run the forward pass under
    `torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`.

    Args:
        vocabulary: Number of different tokens.
        context: Most tokens a sequence may have.
        layers: Number of blocks.
        heads: Attention heads of each block.
        width: Features of a token.
        dropout: Chance to drop a feature (of the embedding, of what a block adds) or an attention weight.
        tied: Whether the output layer shares the weight of the token embedding.

    Raises:
        ValueError: If a size is not positive, or `heads` does not divide `width`.

    Reference:
        Radford et al.: Language models are unsupervised multitask learners, 2019, section 2.3.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "context": context, "layers": layers, "heads": heads, "width": width}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} heads for a width of {width}")
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        self._initialise(layers)

    def _initialise(self, layers: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                projects = name.endswith("projection.weight")
                # 2 · layers terms are added to the residual stream, whose variance this keeps from growing.
                nn.init.normal_(parameter, std=INITIAL_DEVIATION / (math.sqrt(2 * layers) if projects else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of every next token, shape (batch, time, vocabulary).

        Args:
            tokens: Shape (batch, time), int64, with at most `context` tokens a sequence.

        Raises:
            ValueError: If the sequences are longer than that.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"sequences of {length} tokens exceed the context of {self.context}; split them")
        stream = self.dropout(self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device)))
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.norm(stream))
        return logits
