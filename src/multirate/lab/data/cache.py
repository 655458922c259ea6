"""Decoded images, kept on disk: decoding takes many times as long as reading."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from multirate.cache_folder import cache_folder
from multirate.lab.data.sources import DecodedImages, ImageSource, decode, find_problem, local_files

logger = logging.getLogger(__name__)


def cached_images(source: ImageSource) -> DecodedImages:
    """Return a decoded data set, from the cache if it holds the one that would be decoded.

    Raises:
        DataError: If it must be decoded and cannot be.
    """
    origin = _origin(source)
    file = cache_folder() / f"{source.name}.npz"
    decoded = _load(source, origin, file)
    if decoded is None:
        decoded = decode(source)
        _store(decoded, origin, file)
    return decoded


def _origin(source: ImageSource) -> str:
    files = local_files(source)
    if files is None:
        return json.dumps({"hub": source.hub_name, "configuration": source.configuration})
    status = {part: file.stat() for part, file in files.items()}
    return json.dumps({part: [stat.st_size, stat.st_mtime_ns] for part, stat in status.items()})


def _load(source: ImageSource, origin: str, file: Path) -> DecodedImages | None:
    try:
        # The archive carries a checksum of each array, and reading an array to its end compares it.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if str(arrays["origin"]) != origin:
                return None
            decoded = DecodedImages(**{name: arrays[name] for name in DecodedImages.__dataclass_fields__})
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive fails in as many ways as it has fields
        logger.warning("The cached data in %s cannot be used (%s); decoding them again", file, error)
        return None
    problem = find_problem(source, decoded)
    if problem:
        logger.warning("The cached data in %s cannot be used (%s); decoding them again", file, problem)
        return None
    return decoded


def _store(decoded: DecodedImages, origin: str, file: Path) -> None:
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written beside it and then renamed: other processes see the old file or the new one, never half of one.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.stem, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
            np.savez(stream, origin=np.array(origin), **asdict(decoded))
        os.replace(temporary, file)
    except OSError as error:
        logger.info("The decoded data could not be kept in %s (%s)", file, error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
