"""How a trial uses the machine it runs on."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Machine:
    """Device and precision of a trial.

    Attributes:
        device: `auto` (CUDA when present), `cpu`, `cuda`, `cuda:1`, ….
        bf16: Run the model under bfloat16 autocast.
        channels_last: Store the weights of convolutions, and with them the images they make, channels last.
        compile: Compile the model with torch.compile.
    """

    device: str = "auto"
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False

    def torch_device(self) -> torch.device:
        """Return the device to train on.

        Raises:
            ValueError: If it is none to train on, or not there.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = _parsed(name)
        if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()):
            return device
        raise ValueError(f"device {self.device!r} is not available here: choose auto or cpu")

    def check_name(self) -> None:
        """Refuse what is a device to train on nowhere, whatever this machine has.

        Raises:
            ValueError: If the device is neither `auto` nor the name of a CPU or a GPU.
        """
        if self.device != "auto" and _parsed(self.device).type not in ("cpu", "cuda"):
            raise ValueError(f"device {self.device!r} is none to train on: choose auto, cpu or cuda")

    @contextmanager
    def fork_random(self, seed: int) -> Iterator[None]:
        """Seed torch's random streams while the block runs, on the device that is the current one then.

        Kernels of Triton are launched on the current GPU, wherever their tensors are.
        """
        device = self.torch_device()
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(gpus), torch.cuda.device(device) if gpus else nullcontext():
            torch.manual_seed(seed)
            yield

    def words(self) -> list[str]:
        """Return the command-line options that ask for the same."""
        words = ["--device", self.device] if self.device != "auto" else []
        flags = {"--bf16": self.bf16, "--channels-last": self.channels_last, "--compile": self.compile}
        return words + [flag for flag, wanted in flags.items() if wanted]

    def describe(self, device: str | None = None) -> dict[str, Any]:
        """Return what a row of results says of it.

        Args:
            device: The device, where another machine's worker has it; None for the one here.
        """
        return {
            "device": str(self.torch_device()) if device is None else device,
            "bf16": self.bf16,
            "channels_last": self.channels_last,
            "compile": self.compile,
        }


def _parsed(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        return torch.device("meta")


def keep_freed_memory() -> None:
    """Ask the C library to reuse freed memory instead of returning it to the system.

    Steps allocate large temporaries of the same sizes over and over; handing each back to the system and taking it
    again costs up to a third of a step in page faults. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold = -1, -3
    largest = 2**31 - 1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(trim_threshold, largest)
    mallopt(mmap_threshold, largest)
