"""Where image data sets come from: a local folder of parquet files, or the Hugging Face hub."""

from __future__ import annotations

import glob
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER_VARIABLE = "MULTIRATE_DATA"
PARTS = ("train", "test")
HUB_TIMEOUT = 5.0


class DataError(Exception):
    """A data set is missing or not what it should be; the message says what to do."""


@dataclass(frozen=True)
class ImageSource:
    """What an image data set is called and what it must hold.

    Attributes:
        name: Its folder's name.
        hub_name: Its name on the Hugging Face hub.
        configuration: Which of the hub's versions of it is meant, where there are several.
        image_column: The column of the images; that of the class indices is called `label`.
        shape: Channels, height and width of every image.
        counts: Training and test images.
        classes: Number of classes.
    """

    name: str
    hub_name: str
    configuration: str | None
    image_column: str
    shape: tuple[int, int, int]
    counts: tuple[int, int]
    classes: int = 10


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """A data set as it was stored: bytes and class indices.

    Attributes:
        train_images: Shape (examples, channels, height, width), uint8.
        train_labels: Shape (examples,), int64.
        test_images: Like `train_images`.
        test_labels: Like `train_labels`.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def data_folder() -> Path | None:
    """Return the folder that the environment variable names, if it names one.

    Raises:
        DataError: If there is no such folder.
    """
    name = os.environ.get(FOLDER_VARIABLE)
    if not name:
        return None
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(
            f"{FOLDER_VARIABLE} is {name!r}, and there is no such folder: "
            f"set --data-dir or {FOLDER_VARIABLE} to the folder that holds the data sets"
        )
    return folder


def local_files(source: ImageSource) -> dict[str, Path] | None:
    """Return the files of the training and the test part, or None where no local folder is set.

    Raises:
        DataError: If a local folder is set and one of the files is not there.
    """
    folder = data_folder()
    if folder is None:
        return None
    files = {part: folder / source.name / f"{part}.parquet" for part in PARTS}
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{source.name}: {file} is missing: {_folder_advice(source)}, or {_hub_advice(source)}")
    return files


def decode(source: ImageSource) -> DecodedImages:
    """Read and decode a data set from the local folder, or from the hub where no folder is set.

    Raises:
        DataError: If it cannot be read, or does not hold what it should.
    """
    files = local_files(source)
    images, labels = {}, {}
    for part in PARTS:
        place = f"{source.name}: {files[part] if files else f'{part} part of {source.hub_name} on the hub'}"
        with tempfile.TemporaryDirectory(prefix="multirate-", ignore_cleanup_errors=True) as scratch:
            rows = _local_rows(source, files[part], scratch) if files else _hub_rows(source, part)
            images[part], labels[part] = _decode_rows(source, rows, place)
    decoded = DecodedImages(images["train"], labels["train"], images["test"], labels["test"])
    problem = find_problem(source, decoded)
    if problem:
        origin = files["train"].parent if files else f"{source.hub_name} on the hub"
        raise DataError(f"{source.name}: {origin} is not the expected data set: {problem}; {_folder_advice(source)}")
    return decoded


def find_problem(source: ImageSource, decoded: DecodedImages) -> str | None:
    """Say in what a data set differs from what its source must hold; None if in nothing."""
    parts = (("train", decoded.train_images, decoded.train_labels), ("test", decoded.test_images, decoded.test_labels))
    for (part, images, labels), count in zip(parts, source.counts, strict=True):
        if images.shape != (count, *source.shape) or images.dtype != np.uint8:
            return f"the {part} part has images {images.shape} {images.dtype}, not {(count, *source.shape)} uint8"
        if labels.shape != (count,) or labels.dtype != np.int64:
            return f"the {part} part has labels {labels.shape} {labels.dtype}, not {(count,)} int64"
        found = np.unique(labels).tolist()
        if found != list(range(source.classes)):
            return f"the {part} part has the classes {found}, not 0 to {source.classes - 1}"
    return None


def _local_rows(source: ImageSource, file: Path, scratch: str) -> Any:
    datasets = _import_datasets(source)
    try:
        # Not `load_dataset`, which reports every load to the hub, and waits for it. The name is taken for a pattern.
        return datasets.Dataset.from_parquet(glob.escape(str(file)), cache_dir=scratch, keep_in_memory=True)
    except Exception as error:  # a damaged file surfaces as any of several libraries' exceptions
        raise DataError(
            f"{source.name}: {file} ({file.stat().st_size:,} bytes) is damaged or not a parquet file "
            f"({_first_cause(error)}): replace it, or {_hub_advice(source)}"
        ) from error


def _hub_rows(source: ImageSource, part: str) -> Any:
    datasets = _import_datasets(source)
    from huggingface_hub import HfApi, constants

    try:
        # One short question first: without a network, `datasets` would try again for minutes.
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(source.hub_name, timeout=HUB_TIMEOUT)
        return datasets.load_dataset(
            source.hub_name, source.configuration, split=part, download_config=datasets.DownloadConfig(max_retries=0)
        )
    except Exception as error:  # the network's, the hub's and the files' exceptions have no common base
        raise DataError(
            f"{source.name}: {FOLDER_VARIABLE} is not set, and {source.hub_name} could not be read from the "
            f"Hugging Face hub ({_first_cause(error)}): {_folder_advice(source)}, or connect to the network"
        ) from error


def _import_datasets(source: ImageSource) -> Any:
    try:
        import datasets
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{source.name}: reading it needs the package {error.name!r}, which is not installed: "
            "pip install 'multirate[lab]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _decode_rows(source: ImageSource, rows: Any, place: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import datasets
    import PIL.Image

    for column in (source.image_column, "label"):
        if column not in rows.column_names:
            raise DataError(f"{place} has the columns {rows.column_names}, not {[source.image_column, 'label']}")
    channels, height, width = source.shape
    images = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    expected = ({1: "L", 3: "RGB"}[channels], (width, height))
    try:
        labels = np.asarray(rows.with_format("numpy")["label"][:]).astype(np.int64, casting="safe")
        encoded = rows.cast_column(source.image_column, datasets.Image(decode=False))[source.image_column]
        for index, image in enumerate(encoded):
            with PIL.Image.open(io.BytesIO(image["bytes"])) as opened:
                if (opened.mode, opened.size) != expected:
                    raise ValueError(f"image {index} is {opened.mode} {opened.size}, not {expected[0]} {expected[1]}")
                images[index] = np.asarray(opened).reshape(height, width, channels)
    except Exception as error:  # Pillow's and pyarrow's exceptions have no common base
        raise DataError(f"{place} could not be decoded ({_first_cause(error)}): {_folder_advice(source)}") from error
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _folder_advice(source: ImageSource) -> str:
    files = " and ".join(f"{source.name}/{part}.parquet" for part in PARTS)
    return f"set --data-dir or {FOLDER_VARIABLE} to a folder that holds {files}"


def _hub_advice(source: ImageSource) -> str:
    return f"unset {FOLDER_VARIABLE} to read {source.hub_name} from the Hugging Face hub"


def _first_cause(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    if cause is not None:
        return _first_cause(cause)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
