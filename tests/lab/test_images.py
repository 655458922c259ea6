"""Image data sets: decoding, the cache, and what is said when something is wrong."""

import io
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import datasets
import huggingface_hub
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from multirate.lab.data import cache, images
from multirate.lab.data.cache import cached_images
from multirate.lab.data.sources import DataError, DecodedImages, ImageSource, decode

GREY = ImageSource("tiny", "nobody/tiny", None, "image", (1, 5, 4), (12, 6), classes=3)
COLOUR = ImageSource("tiny", "nobody/tiny", "cropped", "img", (3, 5, 4), (12, 6), classes=3)

needs_data = pytest.mark.skipif(not os.environ.get("MULTIRATE_DATA"), reason="MULTIRATE_DATA is not set")


def png(pixels):
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def make_pixels(source, part, seed=0):
    channels, height, width = source.shape
    shape = (source.counts[part], height, width, channels)
    return np.random.default_rng([part, seed]).integers(256, size=shape, dtype=np.uint8)


def write(file, source, encoded, labels):
    file.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array([{"bytes": data, "path": None} for data in encoded])
    pq.write_table(pa.table({source.image_column: column, "label": pa.array(labels)}), file)


def write_all(folder, source, seed=0):
    for part, name in enumerate(("train", "test")):
        encoded = [png(image.squeeze()) for image in make_pixels(source, part, seed)]
        write(folder / source.name / f"{name}.parquet", source, encoded, [i % 3 for i in range(len(encoded))])


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in DecodedImages.__dataclass_fields__
    )


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A data folder (its name would match nothing, were it a pattern) and an empty cache."""
    folder = tmp_path / "data [1]"
    folder.mkdir()
    monkeypatch.setenv("MULTIRATE_DATA", str(folder))
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.parametrize("source", [GREY, COLOUR])
def test_images_are_decoded_channels_first_in_their_order(places, source):
    write_all(places, source)
    decoded = decode(source)
    assert np.array_equal(decoded.train_images, make_pixels(source, 0).transpose(0, 3, 1, 2))
    assert np.array_equal(decoded.test_images, make_pixels(source, 1).transpose(0, 3, 1, 2))
    assert decoded.train_images.dtype == np.uint8
    assert decoded.train_labels.tolist() == [0, 1, 2] * 4
    assert decoded.test_labels.tolist() == [0, 1, 2] * 2


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_both_parts_are_standardised_by_the_training_set(places, monkeypatch, name):
    source = replace(COLOUR, name=name)
    write_all(places, source)
    monkeypatch.setattr(images, name.upper(), source)
    data = getattr(images, name).__wrapped__()

    train, test = (torch.tensor(make_pixels(source, part)).permute(0, 3, 1, 2).double() for part in (0, 1))
    mean, deviation = train.mean((0, 2, 3)), train.std((0, 2, 3), correction=0)
    for inputs, raw in ((data.train_inputs, train), (data.test_inputs, test)):
        assert inputs.dtype == torch.float32
        expected = (raw - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
        torch.testing.assert_close(inputs.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(data.black.double(), -mean / deviation, atol=1e-6, rtol=1e-6)
    assert data.train_targets.tolist() == [0, 1, 2] * 4
    assert data.classes == 3


def test_the_published_data_sets_are_asked_for():
    assert (images.MNIST.hub_name, images.MNIST.image_column) == ("ylecun/mnist", "image")
    assert (images.MNIST.shape, images.MNIST.counts) == ((1, 28, 28), (60_000, 10_000))
    assert (images.CIFAR10.hub_name, images.CIFAR10.image_column) == ("uoft-cs/cifar10", "img")
    assert (images.CIFAR10.shape, images.CIFAR10.counts) == ((3, 32, 32), (50_000, 10_000))
    assert (images.SVHN.hub_name, images.SVHN.configuration) == ("ufldl-stanford/svhn", "cropped_digits")
    assert (images.SVHN.shape, images.SVHN.counts) == ((3, 32, 32), (73_257, 26_032))


def test_a_missing_folder_or_file_is_named(places, monkeypatch):
    write_all(places, GREY)
    test_file = places / "tiny" / "test.parquet"
    test_file.unlink()
    with pytest.raises(DataError, match=r"test\.parquet is missing.*--data-dir.*tiny/test\.parquet") as caught:
        cached_images(GREY)
    assert str(test_file) in str(caught.value)
    monkeypatch.setenv("MULTIRATE_DATA", str(places / "nowhere"))
    with pytest.raises(DataError, match=r"MULTIRATE_DATA is .*nowhere.*no such folder.*--data-dir"):
        cached_images(GREY)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"hello", lambda data: b""])
def test_a_damaged_file_is_named(places, damage):
    write_all(places, GREY)
    file = places / "tiny" / "test.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"damaged or not a parquet file") as caught:
        cached_images(GREY)
    assert str(file) in str(caught.value)


def first_image(data):
    return lambda encoded, labels: ([data, *encoded[1:]], labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda encoded, labels: (encoded[:9], labels[:9]), r"images \(9, 1, 5, 4\).*not \(12, 1, 5, 4\)"),
        (lambda encoded, labels: (encoded, [0, 1] * 6), r"classes \[0, 1\], not 0 to 2"),
        (lambda encoded, labels: (encoded, [*labels[:-1], 3]), r"classes \[0, 1, 2, 3\], not 0 to 2"),
        (lambda encoded, labels: (encoded, [*labels[:-1], None]), "could not be decoded"),
        (lambda encoded, labels: (encoded, [0.5] * 12), "could not be decoded"),
        (first_image(b"no image"), "could not be decoded.*UnidentifiedImageError"),
        (first_image(None), "could not be decoded"),
        (first_image(png(np.zeros((4, 5), np.uint8))), r"image 0 is L \(5, 4\), not L \(4, 5\)"),
        (first_image(png(np.zeros((5, 4, 3), np.uint8))), r"image 0 is RGB \(4, 5\), not L"),
    ],
)
def test_files_that_hold_something_else_are_refused(places, change, message):
    write_all(places, GREY)
    encoded = [png(image.squeeze()) for image in make_pixels(GREY, 0)]
    write(places / "tiny" / "train.parquet", GREY, *change(encoded, [0, 1, 2] * 4))
    with pytest.raises(DataError, match=message) as caught:
        cached_images(GREY)
    assert str(places / "tiny") in str(caught.value)
    assert "tiny/train.parquet" in str(caught.value)
    assert not cache.cache_folder().exists()


def test_another_column_name_is_told(places):
    write_all(places, GREY)
    with pytest.raises(DataError, match=r"columns \['image', 'label'\], not \['img', 'label'\]"):
        cached_images(replace(GREY, image_column="img"))


@pytest.mark.parametrize("package", ["datasets", "PIL.Image"])
def test_a_missing_package_is_told(places, monkeypatch, package):
    write_all(places, GREY)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"package '{package}'.*pip install 'multirate\[lab\]'"):
        cached_images(GREY)


def test_without_folder_and_network_both_ways_are_told_at_once(places, monkeypatch):
    monkeypatch.delenv("MULTIRATE_DATA")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked = []

    def getaddrinfo(host, *arguments, **options):
        asked.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    begin = time.perf_counter()
    with pytest.raises(DataError) as caught:
        cached_images(GREY)
    assert asked
    assert time.perf_counter() - begin < 5
    for words in ("MULTIRATE_DATA is not set", "nobody/tiny", "hub", "no network", "tiny/train.parquet", "--data-dir"):
        assert words in str(caught.value)


def test_local_files_need_no_network(places, monkeypatch):
    write_all(places, GREY)
    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *arguments, **options: asked.append(host) or [])
    decode(GREY)
    assert asked == []


def test_the_hub_is_read_where_no_folder_is_set(places, monkeypatch):
    write_all(places, COLOUR)
    monkeypatch.delenv("MULTIRATE_DATA")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *arguments, **options: None)
    load, asked = datasets.load_dataset, []

    def load_dataset(name, configuration, split, download_config):
        asked.append((name, configuration, split, download_config.max_retries))
        table = pq.read_table(places / "tiny" / f"{split}.parquet")
        return datasets.Dataset(table).cast_column("img", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    from_hub = cached_images(COLOUR)
    assert asked == [("nobody/tiny", "cropped", "train", 0), ("nobody/tiny", "cropped", "test", 0)]
    assert same(cached_images(COLOUR), from_hub)
    assert len(asked) == 2
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setenv("MULTIRATE_DATA", str(places))
    assert same(decode(COLOUR), from_hub)


def test_nothing_is_decoded_twice_until_the_files_change(places, monkeypatch):
    write_all(places, GREY)
    decoded, calls = decode(GREY), []
    monkeypatch.setattr(cache, "decode", lambda source: calls.append(source) or decode(source))
    assert same(cached_images(GREY), decoded)
    assert [file.name for file in cache.cache_folder().iterdir()] == ["tiny.npz"]
    assert same(cached_images(GREY), decoded)
    assert len(calls) == 1
    write_all(places, GREY, seed=1)
    assert np.array_equal(cached_images(GREY).train_images, make_pixels(GREY, 0, seed=1).transpose(0, 3, 1, 2))
    assert len(calls) == 2
    file = places / "tiny" / "test.parquet"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    cached_images(GREY)
    assert len(calls) == 3


def test_no_damage_to_the_cache_gets_through(places, monkeypatch):
    write_all(places, GREY)
    decoded = cached_images(GREY)
    file = cache.cache_folder() / "tiny.npz"
    intact = file.read_bytes()
    rebuilt = []
    monkeypatch.setattr(cache, "decode", lambda source: rebuilt.append(source) or decoded)
    monkeypatch.setattr(cache, "_store", lambda *arguments: None)
    places_to_damage = range(0, len(intact), 5)
    for place in places_to_damage:
        file.write_bytes(intact[:place] + bytes([intact[place] ^ 0x11]) + intact[place + 1 :])
        assert same(cached_images(GREY), decoded)
    # Some bytes, such as the times in an archive, mean nothing; those of the images do.
    assert len(rebuilt) > len(places_to_damage) // 3
    for place in (intact.index(decoded.train_images.tobytes()) + 7, intact.index(decoded.test_labels.tobytes())):
        rebuilt.clear()
        file.write_bytes(intact[:place] + bytes([intact[place] ^ 0x01]) + intact[place + 1 :])
        assert same(cached_images(GREY), decoded)
        assert len(rebuilt) == 1


@pytest.mark.parametrize("content", ["truncated", "empty", "other images"])
def test_a_damaged_cache_is_replaced(places, content, caplog):
    write_all(places, GREY)
    decoded = cached_images(GREY)
    file = cache.cache_folder() / "tiny.npz"
    intact = file.read_bytes()
    if content == "other images":
        with np.load(file) as arrays:
            np.savez(file, **{**arrays, "train_images": arrays["train_images"][:5]})
    else:
        file.write_bytes(intact[: len(intact) // 2] if content == "truncated" else b"")
    assert same(cached_images(GREY), decoded)
    assert "cannot be used" in caplog.text
    with np.load(file) as arrays:
        assert np.array_equal(arrays["train_images"], decoded.train_images)


def test_a_cache_that_cannot_be_written_is_no_error(places, tmp_path, monkeypatch):
    write_all(places, GREY)
    decoded = decode(GREY)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "file" / "cache"))
    assert same(cached_images(GREY), decoded)

    def savez(stream, **arrays):
        stream.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(np, "savez", savez)
    assert same(cached_images(GREY), decoded)
    assert list((tmp_path / "full").iterdir()) == []


def test_two_processes_may_fill_the_cache_at_once(places, tmp_path):
    write_all(places, GREY)
    script = (
        "import pathlib, sys, time, datasets\n"
        "from multirate.lab.data.cache import cached_images\n"
        "from multirate.lab.data.sources import ImageSource\n"
        f"source = {GREY!r}\n"
        "folder, me, other = pathlib.Path(sys.argv[1]), *sys.argv[2:]\n"
        "(folder / me).touch()\n"
        "while not (folder / other).exists(): time.sleep(0.001)\n"
        "for _ in range(3): images = cached_images(source).train_images\n"
        "sys.exit(int(images.sum() % 251))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *names]) for names in (("a", "b"), ("b", "a"))
    ]
    expected = int(make_pixels(GREY, 0).sum(dtype=np.int64) % 251)
    assert [process.wait(timeout=60) for process in processes] == [expected, expected]
    assert [file.name for file in cache.cache_folder().iterdir()] == ["tiny.npz"]


@needs_data
@pytest.mark.parametrize(("name", "mean", "deviation"), [("mnist", [0.1307], [0.3081]), ("cifar10", None, None)])
def test_the_real_data_are_read(name, mean, deviation):
    data = getattr(images, name)()
    torch.testing.assert_close(data.train_inputs.mean((0, 2, 3)), torch.zeros_like(data.black), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train_inputs.std((0, 2, 3)), torch.ones_like(data.black), atol=1e-5, rtol=0)
    assert torch.equal(data.train_inputs.amin((0, 2, 3)), data.black)
    if mean is not None:
        # The well-known statistics, and the labels of the first images.
        torch.testing.assert_close(data.black, -torch.tensor(mean) / torch.tensor(deviation), atol=1e-3, rtol=0)
        assert data.train_targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    else:
        assert data.train_targets.bincount().tolist() == [5000] * 10
