"""Where is kept what one process works out for those to come: compiled kernels, and decoded data of the lab."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE = "MULTIRATE_CACHE"


def cache_folder() -> Path:
    """Return the folder that the environment variable names, else the user's own for this program.

    Raises:
        ImportError: Without the variable, when platformdirs (of the extras ``fast`` and ``lab``) is not installed.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("multirate"))
