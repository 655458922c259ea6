"""Train a small network on handwritten digits, its learning rates learned on the way.

Run it with `python examples/train_digits.py`; it needs scikit-learn and takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn

import multirate

FAMILIES = {
    "camhd": lambda model, lr: multirate.AdamCAMHD(
        model.named_parameters(), lr=lr, levels=("global", "layer"), weights=(0.5, 0.5), hyper_lr=1e-7, weight_lr=0.01
    ),
    "hd": lambda model, lr: multirate.AdamHD(
        model.named_parameters(), lr=lr, hyper_lr=1e-7, levels=("global", "layer")
    ),
    "self-tuning": lambda model, lr: multirate.Adam(model.named_parameters(), lr=lr),
}


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, show what was learned, and return the accuracy on the held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3, help="where the learned rates start")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="camhd")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images))
    train, test = order[:1400], order[1400:]

    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = FAMILIES[options.family](model, options.lr)

    for epoch in range(1, options.epochs + 1):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        rates = optimizer.rates()
        layers = "  ".join(f"layer {name} {float(rate):.2e}" for name, rate in rates["layer"].items())
        print(f"epoch {epoch:2d}  loss {loss.item():.3f}  rates: global {float(rates['global']):.2e}  {layers}")

    with torch.no_grad():
        accuracy = (model(images[test]).argmax(dim=1) == labels[test]).float().mean().item()
    print(f"accuracy on {len(test)} digits it has not seen: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
