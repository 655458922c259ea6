"""What every test shares."""

import os
from pathlib import Path

import torch

# The test processes share the cores already: more threads in each only make them wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# Without a GPU Triton's kernels are interpreted, which has to be said before Triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# One folder for all test processes, so that what one of them compiled serves the others.
os.environ["MULTIRATE_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "multirate")
