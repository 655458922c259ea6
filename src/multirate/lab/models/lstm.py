"""A recurrent language model."""

from __future__ import annotations

from torch import Tensor, nn


class LSTMLanguageModel(nn.Module):
    """An embedding, long short-term memory and a linear output: `logits[t]` predicts token `t + 1` from `0 … t`.

    Every sequence starts from a state of zeros. Dropout applies to connections between layers only, never in time.

    The recurrent layers of cuDNN have no second derivative. To differentiate a gradient again on a GPU, run the forward
    pass under `torch.backends.cudnn.flags(enabled=False)`.

    Args:
        vocabulary: Number of different tokens.
        width: Features of a token, and units of every layer.
        layers: Recurrent layers.
        dropout: Chance to drop a feature of the embedding or of the output of a layer.

    Raises:
        ValueError: If a size is not positive.

    Reference:
        Zaremba, Sutskever, Vinyals: Recurrent neural network regularization, 2014, section 3.
    """

    def __init__(self, vocabulary: int, width: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        for name, size in {"vocabulary": vocabulary, "width": width, "layers": layers}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.tokens = nn.Embedding(vocabulary, width)
        # With a single layer there is nothing between layers to drop, which torch would warn of.
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, width, num_layers=layers, dropout=between, batch_first=True)
        self.head = nn.Linear(width, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of every next token, shape (batch, time, vocabulary).

        Args:
            tokens: Shape (batch, time), int64.
        """
        outputs, _ = self.lstm(self.dropout(self.tokens(tokens)))
        logits: Tensor = self.head(self.dropout(outputs))
        return logits
