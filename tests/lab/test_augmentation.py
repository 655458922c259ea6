"""Random crops and flips, compared with what is done to one image after another."""

import pytest
import torch
import torch.nn.functional as F

from multirate.lab.data.augmentation import MARGIN, crop_and_flip


def reference(images, generator, padding_value):
    """Pad, cut out and mirror each image by itself."""
    count, _, height, width = images.shape
    offsets = torch.randint(2 * MARGIN + 1, (2, count), generator=generator)
    flips = torch.randint(2, (count,), generator=generator)
    results = []
    for image, top, left, flip in zip(images, *offsets.tolist(), flips.tolist(), strict=True):
        padded = torch.stack([F.pad(c, [MARGIN] * 4, value=v) for c, v in zip(image, padding_value, strict=True)])
        crop = padded[:, top : top + height, left : left + width]
        results.append(crop.flip(-1) if flip else crop)
    return torch.stack(results)


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (50, 1, 28, 20), (1, 2, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_image_is_cropped_and_flipped_as_if_alone(shape, dtype):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    black = torch.linspace(-2, -1, shape[1])
    before = images.clone()
    result = crop_and_flip(images, torch.Generator().manual_seed(2), black)
    assert result.dtype == dtype
    assert torch.equal(result, reference(images, torch.Generator().manual_seed(2), black.to(dtype).tolist()))
    assert torch.equal(images, before)


def test_the_margin_is_zero_or_the_number_given():
    images = torch.ones(200, 2, 6, 5)
    for options, value in (((), 0.0), ((-3.0,), -3.0)):
        result = crop_and_flip(images, torch.Generator().manual_seed(0), *options)
        assert result.unique().tolist() == sorted([value, 1.0])


def test_all_shifts_and_both_sides_are_equally_likely():
    # One bright pixel in the middle tells where each image went; the mark right of it tells its side.
    images = torch.zeros(20_000, 1, 11, 11)
    images[:, :, 5, 5] = 2
    images[:, :, 5, 6] = 1
    result = crop_and_flip(images, torch.Generator().manual_seed(0))[:, 0]
    place = (result == 2).flatten(1).int().argmax(1)
    rows, columns = place // 11, place % 11
    marks = F.pad(result, (0, 1))[torch.arange(len(result)), rows, columns + 1]
    # 81 shifts of 247 images each on average, deviation 16; flips of 10,000, deviation 71.
    counts = (rows * 11 + columns).bincount(minlength=121).view(11, 11)[1:10, 1:10]
    assert int(counts.sum()) == 20_000
    assert counts.min() > 247 - 5 * 16
    assert counts.max() < 247 + 5 * 16
    assert abs(int((marks == 1).sum()) - 10_000) < 5 * 71


def test_all_chance_comes_from_the_generator():
    images = torch.randn(40, 3, 8, 8)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    first, second = crop_and_flip(images, generator), crop_and_flip(images, generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert torch.equal(first, crop_and_flip(images, torch.Generator().manual_seed(5)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_same_crops():
    images, black = torch.randn(40, 3, 8, 8), torch.tensor([-1.0, -2.0, -3.0])
    on_cpu, on_gpu = (
        crop_and_flip(images.to(device), torch.Generator().manual_seed(5), black) for device in ("cpu", "cuda")
    )
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), on_cpu)
