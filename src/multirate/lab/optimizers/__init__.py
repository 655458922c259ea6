"""The optimizers that an experiment can name: this library's and other people's, in one table."""

from multirate.lab.optimizers.table import OPTIMIZERS

__all__ = ["OPTIMIZERS"]
