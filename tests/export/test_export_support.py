"""The support distance: Mahalanobis, the same in torch as on paper, and honest about the rows that it was fitted on."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from outrider_export.networks import ImageNet, Shape
from outrider_export.promises import FALSE_ALARMS
from outrider_export.support import Deployable, farthest, fit_gaussian, fit_known, unseen_distance
from outrider_wire.errors import RuleRefusalError


def cloud(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3


def test_the_gaussian_gives_the_mahalanobis_distance() -> None:
    rows = cloud(500, 4)
    gaussian = fit_gaussian(rows)
    expected = [mahalanobis(row, rows.mean(0), np.linalg.inv(np.cov(rows.T))) for row in rows[:20]]

    assert np.allclose(gaussian.distances(rows[:20]), expected, rtol=2e-2)


def test_a_feature_that_never_varied_does_not_break_it() -> None:
    rows = np.hstack([cloud(100, 3), np.full((100, 1), 7.0)])
    gaussian = fit_gaussian(rows)
    strange = rows[:1] + np.array([[0, 0, 0, 1.0]])

    assert np.isfinite(gaussian.distances(rows)).all()
    assert gaussian.distances(strange)[0] > 10 * gaussian.distances(rows).max()


def test_a_feature_that_varies_by_rounding_alone_has_no_say_among_what_is_known() -> None:
    """As 32 bits give the log-variance of pictures of one colour: no two programs round it alike."""
    rows = np.hstack([cloud(200, 3), np.full((200, 1), -11.512925)])
    gaussian = fit_gaussian(rows)
    step = float(np.spacing(np.float32(11.5)))
    rounded = rows + np.array([[0, 0, 0, 4 * step]])

    assert np.allclose(gaussian.distances(rounded), gaussian.distances(rows), atol=0.02)
    assert gaussian.distances(rows + np.array([[0, 0, 0, 0.5]])).min() > 100, (
        "and a picture that is not of one colour is far"
    )


def test_a_distance_on_the_rows_it_was_fitted_on_is_corrected_to_the_left_out_one() -> None:
    rows = cloud(60, 20)
    own = fit_gaussian(rows).distances(rows)
    left_out = [fit_gaussian(np.delete(rows, k, 0)).distances(rows[k : k + 1])[0] for k in range(len(rows))]

    assert np.median(left_out) > 1.1 * np.median(own)
    assert np.allclose([unseen_distance(distance, 60) for distance in own], left_out, rtol=0.03)


def test_too_few_rows_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(RuleRefusalError, match="5 rows") as few:
        fit_gaussian(cloud(5, 2))
    assert "32" in few.value.fix


@pytest.fixture
def module() -> ImageNet:
    torch.manual_seed(0)
    return ImageNet(Shape(image=16, channels=(8, 8), strides=(2, 2), width=6), 3).eval()


def views(module: ImageNet, images: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        return [view.double().numpy() for view in module.pooled(images)]


def test_pictures_of_one_colour_are_as_far_in_32_bits_as_in_64(module: ImageNet) -> None:
    """Their spread and sharpness do not vary at all: what is left of these is rounding."""
    colours = torch.rand(300, 3, 1, 1).expand(300, 3, 16, 16)
    known = fit_known(views(module, colours[:150]))
    unseen, noise = colours[150:], torch.rand(50, 3, 16, 16)
    with torch.inference_mode():
        found = Deployable(module, known).eval()(unseen)[1].numpy()
        strange = Deployable(module, known).eval()(noise)[1].numpy()

    double = [view.detach().numpy() for view in module.double().pooled(unseen.double())]
    assert np.allclose(found, farthest(known, double), rtol=2e-2, atol=2e-2)
    assert strange.min() > 10 * found.max()


def test_the_deployed_module_gives_logits_and_the_farther_distance(module: ImageNet) -> None:
    images = torch.rand(300, 3, 16, 16)
    known = fit_known(views(module, images))
    with torch.inference_mode():
        logits, support = Deployable(module, known).eval()(images)
        assert torch.equal(logits, module(images))

    of_each = [
        each.gaussian.distances(view) / each.unit for each, view in zip(known, views(module, images), strict=True)
    ]
    assert np.allclose(support.numpy(), np.maximum(*of_each), rtol=1e-3)
    assert all((one == support.numpy()).any() or (one > other).any() for one, other in [of_each, of_each[::-1]])


def test_about_the_stated_share_of_unseen_known_rows_is_farther_than_one_unit() -> None:
    """Both views fitted on 400 rows, judged on 4,000 others."""
    rng = np.random.default_rng(1)
    mix = [rng.normal(size=(d, d)) for d in (9, 30)]
    rows = [[rng.normal(size=(n, m.shape[0])) @ m for m in mix] for n in (400, 4000)]
    known = fit_known(rows[0])
    far = (
        np.maximum(*(each.gaussian.distances(view) / each.unit for each, view in zip(known, rows[1], strict=True))) > 1
    )

    assert 0.3 * FALSE_ALARMS < far.mean() < 2.5 * FALSE_ALARMS


def noisy(level: float, n: int = 300) -> torch.Tensor:
    pictures = (0.5 * torch.ones(n, 3, 16, 16)).clone()
    pictures[:, 0, 4:12, 4:12] = 0.9
    return (pictures + level * torch.randn(pictures.shape)).clamp(0, 1)


@pytest.mark.parametrize(
    "foreign",
    {
        "blank": torch.full((1, 3, 16, 16), 0.5),
        "black": torch.zeros(1, 3, 16, 16),
        "noise": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)),
        "swapped": noisy(0.05, 1).flip(1),
        "sharp": noisy(0.0, 1),
    }.items(),
    ids=lambda item: item[0],
)
def test_foreign_pictures_are_farther_than_any_known_one(module: ImageNet, foreign: tuple[str, torch.Tensor]) -> None:
    torch.manual_seed(1)
    images = noisy(0.05)
    deployed = Deployable(module, fit_known(views(module, images)))
    with torch.inference_mode():
        known, strange = deployed(images)[1], deployed(foreign[1])[1]

    assert float(strange) > 1.2 * float(known.max())
