"""Clicks on an object that came from a class, against MONAI's own rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from monai.networks.nets.vista3d import VISTA3D  # noqa: E402
from scipy import ndimage  # noqa: E402

from gstk.session.class_correction import combine_with_clicks  # noqa: E402

MONAI = VISTA3D(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity())


def blobs(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Any:
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, 1 - share)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 4),
    before_share=st.sampled_from([0.0, 0.1, 0.3]),
    answer_share=st.sampled_from([0.0, 0.15, 0.4]),
)
def test_combination_is_monais(seed: int, count: int, before_share: float, answer_share: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(6, 18, 3))
    before, answer = blobs(rng, shape, before_share), blobs(rng, shape, answer_share)
    if not before_share:
        before[:] = False
    points = np.stack([rng.uniform(0, n - 1, count) for n in shape], axis=1)
    labels = rng.integers(0, 2, count)
    logits = torch.from_numpy(np.where(before, 1.0, -1.0).astype(np.float32))[None, None]
    point_logits = torch.from_numpy(np.where(answer, 2.0, -2.0).astype(np.float32))[None, None]
    expected = MONAI.connected_components_combine(
        logits, point_logits, torch.from_numpy(points)[None], torch.from_numpy(labels)[None], torch.tensor([True])
    )
    combined = combine_with_clicks(before, answer, points, labels == 1)
    np.testing.assert_array_equal(combined, expected[0, 0].numpy() > 0)
