"""Generated volumes: what is promised of their arrays, and that a seed keeps meaning the same volume."""

import numpy as np
import pytest
from scipy import ndimage

from gstk.cases.phantoms import KINDS, Phantom, generate_phantom, smooth_noise
from gstk.errors import CaseError, TrainingError

SHAPE = (32, 40, 24)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [generate_phantom(seed, SHAPE, kind) for kind in KINDS for seed in range(4)]


def test_arrays(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert phantom.image.dtype == np.uint8
        assert phantom.labels.dtype == np.int32
        assert phantom.image.shape == phantom.labels.shape == SHAPE
        assert phantom.kind in KINDS
        assert len(phantom.spacing_mm) == 3
        assert all(type(s) is float and 0.5 < s < 10 for s in phantom.spacing_mm)
        assert np.ptp(phantom.image) > 100  # something is to be seen
    assert [phantom.kind for phantom in phantoms[::4]] == list(KINDS)


def test_every_label_is_one_connected_object(phantoms: list[Phantom]) -> None:
    seen = 0
    for phantom in phantoms:
        ids = np.unique(phantom.labels[phantom.labels != 0])
        np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))
        for label in ids:
            _, parts = ndimage.label(phantom.labels == label)
            assert parts == 1
            assert np.count_nonzero(phantom.labels == label) >= 60
        seen += len(ids)
    assert seen > 100


def test_every_kind_gives_objects(phantoms: list[Phantom]) -> None:
    for first in range(0, len(phantoms), 4):
        assert any(phantom.labels.any() for phantom in phantoms[first : first + 4])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_voxels(kind: str) -> None:
    np.random.seed(0)
    first = generate_phantom(5, (16, 20, 24), kind)
    np.random.seed(1)  # the global state has no say
    again, other = generate_phantom(5, (16, 20, 24), kind), generate_phantom(6, (16, 20, 24), kind)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.spacing_mm == again.spacing_mm
    assert (first.image != other.image).any()


PINNED = [
    ("organs", 8, 0.145, 67.6, 1.795),
    ("blobs", 9, 0.906, 100.7, 0.866),
    ("cells", 34, 0.996, 132.6, 1.121),
    ("nuclei", 24, 0.170, 80.5, 1.218),
    ("hot-spots", 1, 0.010, 22.5, 0.899),
    ("nested-tubes", 33, 0.873, 138.4, 1.681),
    ("sheets", 2, 0.432, 93.9, 1.998),
]


@pytest.mark.parametrize(("kind", "objects", "covered", "mean", "spacing_mm"), PINNED)
def test_a_seed_keeps_its_meaning(kind: str, objects: int, covered: float, mean: float, spacing_mm: float) -> None:
    """Recipes and examples name seeds: a change here changes what they train on and show."""
    phantom = generate_phantom(11, SHAPE, kind)
    assert phantom.labels.max() == pytest.approx(objects, abs=1)
    assert (phantom.labels > 0).mean() == pytest.approx(covered, abs=0.005)
    assert phantom.image.mean() == pytest.approx(mean, abs=1)
    assert phantom.spacing_mm[0] == pytest.approx(spacing_mm, abs=1e-3)


def test_kinds_are_drawn_by_the_seed() -> None:
    drawn = [generate_phantom(seed, (16, 16, 16)).kind for seed in range(60)]
    assert drawn[:12] == [
        "nuclei",
        "cells",
        "organs",
        "organs",
        "nested-tubes",
        "hot-spots",
        "cells",
        "nuclei",
        "blobs",
        "nested-tubes",
        "nested-tubes",
        "organs",
    ]
    assert set(drawn) >= set(KINDS) - {"sheets"}  # the rarest, 3 in 100
    assert max(KINDS, key=drawn.count) in ("organs", "blobs")  # the largest shares


def test_kinds_are_drawn_by_weights_of_ones_own() -> None:
    drawn = [generate_phantom(seed, (16, 16, 16), shares={"sheets": 3, "nuclei": 1}).kind for seed in range(80)]
    assert set(drawn) == {"sheets", "nuclei"}
    assert 45 <= drawn.count("sheets") <= 72  # 60 of 80, four standard deviations


def test_objects_differ_from_what_is_around_them(phantoms: list[Phantom]) -> None:
    """Most objects can be told by their brightness: an image is no noise beside its labels."""
    shares = []
    for phantom in phantoms:
        image = phantom.image.astype(float)
        within = [image[phantom.labels == label].var() for label in range(1, phantom.labels.max() + 1)]
        if within:
            shares.append(np.mean(within) / image.var())
    assert np.median(shares) < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((96, 96, 96), "spleen"), "got phantom kind 'spleen', expected one of organs, blobs,"),
        (((96, 96, 15),), r"got phantom shape \(96, 96, 15\), expected three sides of 16 voxels or more"),
        (((96, 96),), r"got phantom shape \(96, 96\)"),
        (((96, 96, 96), None, {"spleen": 1}), "got phantom kind 'spleen', expected one of organs, blobs,"),
        (((96, 96, 96), None, {"organs": -1, "blobs": 2}), "expected 0 or more, and one above 0"),
        (((96, 96, 96), None, {"organs": 0}), "expected 0 or more, and one above 0"),
    ],
)
def test_what_is_no_phantom(arguments: tuple, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        generate_phantom(0, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("period", [2.5, 4.0, 9.0])
def test_noise_has_unit_variance_and_the_correlation_of_cubic_splines(period: float) -> None:
    """White noise under cubic B-splines: its correlation is the spline of degree 7, at whole periods known by hand."""
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_noise(rng, (28, 5, 6), period) for _ in range(1500)]).astype(float)
    assert abs(fields.mean()) < 0.05
    assert (fields**2).mean() == pytest.approx(1, abs=0.05)
    for periods, expected in ((1, 1191 / 2416), (2, 120 / 2416)):
        lag = round(periods * period)
        got = (fields[:, lag:] * fields[:, :-lag]).mean() / (fields**2).mean()
        assert got == pytest.approx(expected, abs=0.06 if lag == periods * period else 0.2)


def test_noise_of_a_line() -> None:
    line = smooth_noise(np.random.default_rng(0), (50, 1, 1), (10, 1, 1))
    assert line.shape == (50, 1, 1)
    assert line.dtype == np.float32
    assert np.abs(np.diff(line[:, 0, 0])).max() < 0.5 * np.ptp(line)


def test_a_demonstration_case() -> None:
    from gstk.cases.phantom_case import phantom_case

    case = phantom_case(3, side=40, objects=2)
    again = phantom_case(3, side=40, objects=2)
    assert case.name == "phantom_organs_3"
    np.testing.assert_array_equal(case.image, again.image)
    assert case.prompts == again.prompts
    assert case.labels is not None
    assert case.labels.dtype == np.uint8
    sizes = np.bincount(case.labels.ravel())[1:]
    assert len(sizes) == 2
    assert sizes[0] >= sizes[1]  # the largest first
    for label, said in case.prompts.items():
        assert len(said.points) == 1
        assert said.points[0].foreground
        assert case.labels[said.points[0].zyx] == label
        assert said.box is None
    boxed = phantom_case(3, side=40, objects=2, with_boxes=True)
    for label, said in boxed.prompts.items():
        assert said.points == case.prompts[label].points
        assert said.box is not None
        voxels = np.argwhere(case.labels == label)
        np.testing.assert_array_equal(said.box.corners(), [voxels.min(0), voxels.max(0)])


def test_a_demonstration_of_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    import gstk.cases.phantoms as home
    from gstk.cases.phantom_case import phantom_case

    labels = np.arange(1, 7**3 + 1, dtype=np.int32).reshape(7, 7, 7)
    many = Phantom(np.zeros((7, 7, 7), np.uint8), labels, (1.0, 1.0, 1.0), "cells")
    monkeypatch.setattr(home, "generate_phantom", lambda *_: many)
    case = phantom_case(objects=300)
    assert len(case.prompts) == 300
    assert case.labels is not None
    assert case.labels.dtype == np.uint16
    assert case.labels.max() == 300


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"objects": 0}, CaseError, "got no object in a phantom of seed 0"),
        ({"kind": "spleen"}, TrainingError, "got phantom kind 'spleen'"),
        ({"side": 8}, TrainingError, "expected three sides of 16"),
    ],
)
def test_what_is_no_demonstration(arguments: dict, kind: type[Exception], message: str) -> None:
    from gstk.cases.phantom_case import phantom_case

    with pytest.raises(kind, match=message):
        phantom_case(**({"side": 16} | arguments))
