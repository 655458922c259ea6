"""Prediction of the next character of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multirate.lab.data.text import Text
from multirate.lab.problems.base import Batch, Problem

EVALUATION_BATCH = 100
EVALUATION_CHARACTERS = 50_000


class Language(Problem):
    """Cross-entropy, in nats a character, of the next character given those before it in a window.

    An epoch is as many random windows as cover the training text once, on average; they may overlap.

    Args:
        text: The text; `evaluate` measures the beginning of its test part, cut into windows.
        model: Makes a freshly initialised model of so many characters from torch's random generator. It turns
            characters of shape (windows, context) into scores of shape (windows, context, vocabulary).
        batch_size: Windows a step.
        context: Characters a window.
        device: Where to train.
        steps_per_epoch: Steps that count as an epoch, if not those that cover the text once.

    Raises:
        ValueError: If a number is below 1, or a part of the text is too short for a window.
    """

    def __init__(
        self,
        text: Text,
        model: Callable[[int], nn.Module],
        batch_size: int,
        context: int,
        device: torch.device,
        steps_per_epoch: int | None = None,
    ) -> None:
        for option, value in (("batch_size", batch_size), ("context", context), ("steps_per_epoch", steps_per_epoch)):
            if value is not None and value < 1:
                raise ValueError(f"{option} is {value}; it must be at least 1")
        for part, tokens in (("train", text.train), ("test", text.test)):
            if len(tokens) <= context:
                raise ValueError(
                    f"context is {context}, and the {part} text has {len(tokens)} characters; it needs at least one "
                    "more than the context: choose a shorter context"
                )
        self.device = device
        self.model = model(len(text.vocabulary)).to(device)
        self.forward = self.model
        self._train, self._test = text.train.to(device), text.test.to(device)
        self._batch_size, self._context = batch_size, context
        self.steps_per_epoch = steps_per_epoch or max(1, len(text.train) // (batch_size * context))

    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        # Every start leaves room for a window and the character after it.
        starts = torch.randint(
            len(self._train) - self._context, (self.steps_per_epoch, self._batch_size), generator=order
        ).to(self.device)
        for batch_starts in starts[first:]:
            yield _windows(self._train, batch_starts, self._context)

    def loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        return F.cross_entropy(self.forward(inputs).flatten(0, 1), targets.flatten())

    def evaluate(self) -> dict[str, float]:
        """Return mean `loss` and `accuracy` a character.

        Measured are the first windows of the test text, side by side, that together have at most 50,000
        characters (one window at least).
        """
        windows = min((len(self._test) - 1) // self._context, max(1, EVALUATION_CHARACTERS // self._context))
        starts = self._context * torch.arange(windows, device=self.device)
        loss, right = torch.zeros((), dtype=torch.float64), 0
        for batch_starts in starts.split(EVALUATION_BATCH):
            inputs, targets = _windows(self._test, batch_starts, self._context)
            scores = self.forward(inputs).float().flatten(0, 1)
            loss += F.cross_entropy(scores, targets.flatten(), reduction="sum").cpu()
            right += int((scores.argmax(dim=1) == targets.flatten()).sum())
        characters = windows * self._context
        return {"loss": float(loss) / characters, "accuracy": right / characters}


def _windows(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Return the windows that begin at `starts` and what follows each of their characters."""
    windows = tokens[starts[:, None] + torch.arange(context + 1, device=tokens.device)]
    return windows[:, :-1], windows[:, 1:]
