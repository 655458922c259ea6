"""Data sets as plain tensors, always split the same way."""
