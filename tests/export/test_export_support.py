"""The support distance: Mahalanobis, the same in torch as on paper, and honest about the rows that it was fitted on."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from outrider_export.networks import ImageNet, Shape
from outrider_export.support import Deployable, fit_gaussian, unseen_distance
from outrider_wire.errors import RuleRefusalError


def cloud(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3


def distances(rows: np.ndarray, gaussian: object) -> np.ndarray:
    away = rows - gaussian.mean
    return np.sqrt((away @ gaussian.precision * away).sum(1))


def test_the_gaussian_gives_the_mahalanobis_distance() -> None:
    rows = cloud(500, 4)
    gaussian = fit_gaussian(rows)
    expected = [mahalanobis(row, rows.mean(0), np.linalg.inv(np.cov(rows.T))) for row in rows[:20]]

    assert np.allclose(distances(rows[:20], gaussian), expected, rtol=2e-2)


def test_a_feature_that_never_varied_does_not_break_it() -> None:
    rows = np.hstack([cloud(100, 3), np.full((100, 1), 7.0)])
    gaussian = fit_gaussian(rows)
    strange = rows[:1] + np.array([[0, 0, 0, 1.0]])

    assert np.isfinite(distances(rows, gaussian)).all()
    assert distances(strange, gaussian)[0] > 10 * distances(rows, gaussian).max()


def test_a_distance_on_the_rows_it_was_fitted_on_is_corrected_to_the_left_out_one() -> None:
    rows = cloud(60, 20)
    own = distances(rows, fit_gaussian(rows))
    left_out = [distances(rows[k : k + 1], fit_gaussian(np.delete(rows, k, 0)))[0] for k in range(len(rows))]

    assert np.median(left_out) > 1.1 * np.median(own)
    assert np.allclose([unseen_distance(distance, 60) for distance in own], left_out, rtol=0.03)


def test_too_few_rows_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(RuleRefusalError, match="5 rows") as few:
        fit_gaussian(cloud(5, 2))
    assert "32" in few.value.fix


def test_the_deployed_module_gives_logits_and_that_distance() -> None:
    torch.manual_seed(0)
    module = ImageNet(Shape(image=8, channels=(4, 4), strides=(2, 1), width=6), 3).eval()
    images = torch.rand(80, 3, 8, 8)
    with torch.inference_mode():
        features = module.pooled(images).double().numpy()
        gaussian = fit_gaussian(features)
        logits, support = Deployable(module, gaussian).eval()(images)

        assert torch.equal(logits, module(images))
    assert np.allclose(support.numpy(), distances(features, gaussian), rtol=1e-3)


def test_pooled_features_tell_a_flat_picture_from_a_textured_one() -> None:
    torch.manual_seed(0)
    module = ImageNet(Shape(image=16, channels=(8, 8), strides=(2, 2), width=6), 3).eval()
    textured = (0.5 + 0.2 * torch.randn(300, 3, 16, 16)).clamp(0, 1)
    with torch.inference_mode():
        gaussian = fit_gaussian(module.pooled(textured).double().numpy())
        known = Deployable(module, gaussian)(textured)[1]
        flat = Deployable(module, gaussian)(torch.full((1, 3, 16, 16), 0.5))[1]

    assert float(flat) > float(known.max())
