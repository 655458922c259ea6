"""The digits that ship with scikit-learn: they need no download."""

from __future__ import annotations

import functools

import torch

from multirate.lab.data.dataset import Dataset

SPLIT_SEED = 20220813


@functools.cache
def digits() -> Dataset:
    """The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn; a fifth is the test set.

    Pixels are standardised together, by the mean and deviation of the training set: most corner pixels are
    always zero, so that a deviation of their own would blow up the few that are not.
    """
    # Imported late: it takes as long as half of torch, in every process of the lab.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.2, random_state=SPLIT_SEED, stratify=labels)
    train_inputs, test_inputs = (torch.as_tensor(part, dtype=torch.float32) for part in parts[:2])
    train_targets, test_targets = (torch.as_tensor(part, dtype=torch.int64) for part in parts[2:])
    mean, deviation = train_inputs.mean(), train_inputs.std()
    return Dataset(
        train_inputs=(train_inputs - mean) / deviation,
        train_targets=train_targets,
        test_inputs=(test_inputs - mean) / deviation,
        test_targets=test_targets,
        classes=10,
    )
