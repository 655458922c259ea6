"""Text as a sequence of characters."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from multirate.lab.data.sources import FOLDER_VARIABLE, DataError, data_folder

CHARACTERS = 1_115_394
DISTINCT = 65
TRAIN_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class Text:
    """A text as indices into its own alphabet.

    Attributes:
        train: Shape (characters,), int64.
        test: Like `train`, the part of the text that follows it, never trained on.
        vocabulary: The distinct characters of the whole text, sorted; an index is a place in it.

    Raises:
        ValueError: If an index is no place in the vocabulary.
    """

    train: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, tokens in (("train", self.train), ("test", self.test)):
            if tokens.ndim != 1 or len(tokens) == 0:
                raise ValueError(f"{part} text: {tuple(tokens.shape)} is not a sequence of characters")
            if int(tokens.min()) < 0 or int(tokens.max()) >= len(self.vocabulary):
                raise ValueError(f"{part} text: indices must lie in 0..{len(self.vocabulary) - 1}")


@functools.cache
def tiny_shakespeare() -> Text:
    """Parts of Shakespeare's plays, 1.1 million characters; the last tenth is the test text.

    Raises:
        DataError: If the file is missing or is not this text.

    Reference:
        Karpathy, The unreasonable effectiveness of recurrent neural networks, 2015, `tinyshakespeare/input.txt`.
    """
    advice = f"set --data-dir or {FOLDER_VARIABLE} to a folder that holds tinyshakespeare/input.txt"
    folder = data_folder()
    if folder is None:
        raise DataError(
            f"tinyshakespeare: {FOLDER_VARIABLE} is not set, and the text is read from nowhere else: {advice}"
        )
    file = folder / "tinyshakespeare" / "input.txt"
    try:
        # Decoded from the bytes, because text files have their line ends translated.
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"tinyshakespeare: {file} is missing: {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tinyshakespeare: {file} cannot be read ({error}): {advice}") from error
    vocabulary = tuple(sorted(set(text)))
    if (len(text), len(vocabulary)) != (CHARACTERS, DISTINCT):
        raise DataError(
            f"tinyshakespeare: {file} has {len(text):,} characters, {len(vocabulary)} of them distinct, "
            f"not {CHARACTERS:,} and {DISTINCT}: {advice} as it was published"
        )
    places = {character: place for place, character in enumerate(vocabulary)}
    tokens = torch.tensor([places[character] for character in text], dtype=torch.int64)
    boundary = int(TRAIN_SHARE * len(tokens))
    return Text(train=tokens[:boundary], test=tokens[boundary:], vocabulary=vocabulary)
