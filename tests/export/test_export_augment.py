"""Augmentation: bounded, reproducible, and a Gaussian where it says so."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from outrider_export.augment import Capture, Jitter, blurred, translated


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_blurred_point_is_a_gaussian() -> None:
    point = torch.zeros(2, 1, 15, 15)
    point[:, :, 7, 7] = 1.0
    seen = blurred(point, torch.tensor([0.0, 1.0]))

    assert torch.equal(seen[0], point[0])
    expected = gaussian_filter(point[1, 0].numpy(), 1.0, radius=3)
    assert np.allclose(seen[1, 0].numpy(), expected, atol=1e-6)


def test_a_capture_stays_in_range_and_repeats_with_its_generator() -> None:
    images = torch.rand(5, 3, 16, 16, generator=seeded())
    first, again = Capture()(images, seeded(1)), Capture()(images, seeded(1))

    assert torch.equal(first, again)
    assert not torch.equal(first, Capture()(images, seeded(2)))
    assert float(first.min()) >= 0 and float(first.max()) <= 1


def test_a_capture_leaves_the_images_that_it_was_given() -> None:
    images = torch.rand(3, 3, 8, 8, generator=seeded())
    before = images.clone()
    Capture()(images, seeded())

    assert torch.equal(images, before)


def test_a_translation_moves_and_repeats_the_border() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    seen = {tuple(translated(image, 1, seeded(seed)).flatten().tolist()) for seed in range(60)}

    assert len(seen) == 9
    assert tuple(image.flatten().tolist()) in seen


def test_a_mirror_is_used_only_where_it_was_asked_for() -> None:
    image = torch.rand(2, 3, 4, 4, generator=seeded())

    assert torch.equal(Jitter()(image, seeded(), mirrored=True), image)
    assert torch.equal(Jitter(flip=True)(image, seeded(), mirrored=True), image.flip(3))
    assert torch.equal(Jitter(flip=True)(image, seeded(), mirrored=False), image)
