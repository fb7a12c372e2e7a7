"""Whose a voxel is that several objects claim: against a voxel-by-voxel reference, and by hand."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gstk.session.label_fusion import ObjectLogits, label_map

SHAPE = (12, 12, 12)
MM = (1.0, 1.0, 1.0)
WHOLE = (slice(0, 12), slice(0, 12), slice(0, 12))


def block(low: int, high: int, logit: float = 1.0, *clicks: tuple[int, int, int], middle: bool = False) -> ObjectLogits:
    """A cube of voxels low to high - 1 along each axis."""
    logits = np.full(SHAPE, -1, np.float32)
    logits[low:high, low:high, low:high] = logit
    centre = (low + high - 1) // 2
    return ObjectLogits(WHOLE, logits, clicks, (centre, centre, centre) if middle else None)


def test_without_overlap_each_has_its_own() -> None:
    labels = label_map(SHAPE, MM, {7: block(0, 4), 300: block(4, 9)})
    assert labels.dtype == np.uint16
    assert (labels[:4, :4, :4] == 7).all()
    assert (labels[4:9, 4:9, 4:9] == 300).all()
    assert (labels > 0).sum() == 4**3 + 5**3
    assert not label_map(SHAPE, MM, {}).any()


def test_what_is_small_is_not_swallowed() -> None:
    """27 voxels in 729 are surer by 4 ln 27, 13 logits; of 14 logits only 6 count."""
    large, small = block(1, 10, 14.0), block(4, 7)
    for claims in ({1: large, 2: small}, {1: small, 2: large}):
        labels = label_map(SHAPE, MM, claims)
        assert (labels[4:7, 4:7, 4:7] == (2 if claims[2] is small else 1)).all()
        assert (labels > 0).sum() == 9**3


def test_of_two_of_a_size_the_surer_one_wins() -> None:
    labels = label_map(SHAPE, MM, {1: block(0, 6, 1.0), 2: block(3, 9, 2.0)})
    assert (labels == 2).sum() == 6**3
    labels = label_map(SHAPE, MM, {1: block(0, 6, 1.0), 2: block(3, 9, 1.0)})
    assert (labels == 1).sum() == 6**3  # the lower number, where nothing else decides
    assert (labels == 2).sum() == 6**3 - 3**3


def test_a_click_takes_what_is_nearer_to_it_than_to_where_the_other_was_said_to_be() -> None:
    large, small = block(0, 12, 1.0, (2, 5, 5)), block(2, 9, 1.0, middle=True)
    labels = label_map(SHAPE, MM, {1: large, 2: small})
    assert (labels[2:4, 2:9, 2:9] == 1).sum() == 7 * 7 + 7 * 7  # the middle is at 5, half of the way at 3.5
    assert (labels[4:9, 2:9, 2:9] == 2).all()
    far = label_map((12, 12, 12), (1.0, 9.0, 9.0), {1: large, 2: small})
    assert (far == labels).all()
    assert (label_map(SHAPE, MM, {1: large, 2: block(2, 9)})[2:9, 2:9, 2:9] == 1).all()  # nobody said where it is
    aside = block(0, 12, 1.0, (11, 11, 11))
    assert (label_map(SHAPE, MM, {1: aside, 2: small})[2:9, 2:9, 2:9] == 2).all()


def reference(claims: dict[int, ObjectLogits]) -> NDArray[np.uint16]:
    """A voxel goes to the largest of min(logit, 6) - 4 ln(voxels of the mask), without clicks."""
    sizes = {k: (claim.logits > 0).sum() for k, claim in claims.items()}
    labels = np.zeros(SHAPE, np.uint16)
    for voxel in np.ndindex(SHAPE):
        best = -math.inf
        for k, claim in sorted(claims.items()):
            place = tuple(i - axis.start for i, axis in zip(voxel, claim.region, strict=True))
            if not all(0 <= i < n for i, n in zip(place, claim.logits.shape, strict=True)) or claim.logits[place] <= 0:
                continue
            sure = min(float(claim.logits[place]), 6.0) - 4 * math.log(sizes[k])
            if sure > best + 1e-4:
                labels[voxel], best = k, sure
    return labels


def random_claims(seed: int, clicked: bool) -> dict[int, ObjectLogits]:
    rng = np.random.default_rng(seed)
    claims = {}
    taken: set[tuple[int, int, int]] = set()
    for k in rng.choice(np.arange(1, 60000), rng.integers(1, 6), replace=False):
        low = rng.integers(0, 7, 3)
        region = tuple(slice(int(a), int(b)) for a, b in zip(low, rng.integers(low + 2, 13), strict=True))
        logits = rng.normal(1, 4, [s.stop - s.start for s in region]).astype(np.float32)
        clicks = []
        for _ in range(int(rng.integers(0, 4)) if clicked else 0):
            click = tuple(int(rng.integers(s.start, s.stop)) for s in region)
            if click not in taken:
                clicks.append(click)
                logits[tuple(i - s.start for i, s in zip(click, region, strict=True))] = 1
            taken.add(click)  # type: ignore[arg-type]
        claims[int(k)] = ObjectLogits(region, logits, tuple(clicks))  # type: ignore[arg-type]
    return claims


@given(seed=st.integers(0, 2**32))
def test_the_surest_has_it(seed: int) -> None:
    claims = random_claims(seed, clicked=False)
    np.testing.assert_array_equal(label_map(SHAPE, (1, 2, 3), claims), reference(claims))


@given(seed=st.integers(0, 2**32))
def test_clicked_voxels_are_the_clicked_objects(seed: int) -> None:
    """Whatever else is claimed; and nobody has a voxel that he does not claim, nor anybody's is nobody's."""
    claims = random_claims(seed, clicked=True)
    labels = label_map(SHAPE, (1, 2, 3), claims)
    claimed = np.zeros(SHAPE, bool)
    for k, claim in claims.items():
        own = np.zeros(SHAPE, bool)
        own[claim.region] = claim.logits > 0
        claimed |= own
        assert not (labels == k)[~own].any()
        for click in claim.clicks:
            assert labels[click] == k
    np.testing.assert_array_equal(labels > 0, claimed)
