"""Edge-center sampling against the paper's equations on a distance transform of the full volume."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from gstk.core.click_rule import component_centre, next_click
from gstk.errors import TrainingError
from gstk.training.sampling import (
    FIRST_CLICKS,
    SAMPLERS,
    Prompts,
    centre_point,
    edge_center_points,
    error_point,
    gaussian_count,
    make_sampler,
    random_choice,
)

RNG = np.random.default_rng


class Prescribed:
    """A generator whose every whole number is the same, as far as the range allows: walks through a region."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.bounds: list[int] = []

    def integers(self, bound: int) -> int:
        self.bounds.append(bound)
        return min(self.number, bound - 1)


def regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Center and edge by equations 1 and 2, voxels (K, 3) in scan order; no voxel of the whole volume left out."""
    depth = ndimage.distance_transform_edt(mask)
    center = depth > 0.5 * depth.max()
    edge = (depth > 0.1 * depth.max()) & (depth <= 0.5 * depth.max())
    return np.argwhere(center), np.argwhere(edge & mask)


def all_picks(mask: np.ndarray, which: int) -> np.ndarray:
    """Every voxel that the foreground point number `which` can be, in scan order."""
    first = Prescribed(0)
    edge_center_points(mask, first, which + 1, 0)
    picks = [edge_center_points(mask, Prescribed(n), which + 1, 0)[which] for n in range(first.bounds[which])]
    assert all(pick.foreground for pick in picks)
    return np.array([pick.zyx for pick in picks])


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """An object that may touch any face of its volume, or fill all of it but a voxel."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(1, 3))):
        ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
        mask[tuple(slice(a, b) for a, b in ends)] = True
    for voxel in draw(st.lists(st.tuples(*[st.integers(0, n - 1) for n in shape]), max_size=4)):
        mask[voxel] ^= True
    assume(mask.any() and not mask.all())
    return mask


@settings(deadline=None, max_examples=80)
@given(masks())
def test_the_first_point_is_in_the_center_the_others_at_the_edge(mask: np.ndarray) -> None:
    center, edge = regions(mask)
    np.testing.assert_array_equal(all_picks(mask, 0), center)
    np.testing.assert_array_equal(all_picks(mask, 1), edge if len(edge) else np.argwhere(mask))


def test_thick_objects_have_an_edge() -> None:
    mask = np.zeros((30, 30, 30), bool)
    mask[3:26, 3:26, 3:26] = True  # depth 1 to 12: the shell of depth 1 is neither, 2 to 6 is edge
    rng = Prescribed(0)
    edge_center_points(mask, rng, 2, 0)
    assert rng.bounds == [11**3, 21**3 - 11**3]
    center, *edge = (np.array(p.zyx) for p in edge_center_points(mask, RNG(0), 2000, 0))
    assert np.abs(center - 14).max() <= 5
    far = np.abs(np.array(edge) - 14).max(axis=1)
    assert (far.min(), far.max()) == (6, 10)


def test_the_volume_border_is_no_border_of_the_object() -> None:
    """An object that the volume cuts goes on unseen: it is deepest on the cut."""
    mask = np.zeros((11, 21, 21), bool)
    z, y, x = np.meshgrid(*[np.arange(n) for n in mask.shape], indexing="ij")
    mask[z**2 + (y - 10) ** 2 + (x - 10) ** 2 <= 81] = True
    picks = all_picks(mask, 0)
    assert [0, 10, 10] in picks.tolist()


def test_thin_objects_use_any_voxel() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 1:8] = True  # depth 1 everywhere: all center, no edge
    np.testing.assert_array_equal(all_picks(mask, 0), np.argwhere(mask))
    np.testing.assert_array_equal(all_picks(mask, 3), np.argwhere(mask))


@settings(deadline=None, max_examples=60)
@given(masks(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_counts_and_labels(mask: np.ndarray, foreground: int, background: int, seed: int) -> None:
    points = edge_center_points(mask, RNG(seed), foreground, background)
    assert [p.foreground for p in points] == [True] * foreground + [False] * background
    assert all(mask[p.zyx] == p.foreground for p in points)
    assert all(type(n) is int for p in points for n in p.zyx)
    assert points == edge_center_points(mask, RNG(seed), foreground, background)


def test_empty_and_full_masks() -> None:
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    assert edge_center_points(empty, RNG(0), 3, 3) == []
    points = edge_center_points(full, RNG(0), 3, 3)  # no outside to click on
    assert [p.foreground for p in points] == [True] * 3


def test_points_are_spread_evenly() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[1:4, 1:4, 1:4] = True
    rng = RNG(0)
    drawn = [edge_center_points(mask, rng, 2, 1) for _ in range(1000)]
    for which in (1, 2):  # with depths 1 and 2 there are 26 edge voxels around the center; outside are 189
        voxels = np.argwhere(~mask) if which == 2 else regions(mask)[1]
        index = {tuple(v): i for i, v in enumerate(voxels.tolist())}
        counts = np.bincount([index[points[which].zyx] for points in drawn], minlength=len(voxels))
        assert stats.chisquare(counts).pvalue > 1e-4
    assert {points[0].zyx for points in drawn} == {(2, 2, 2)}


@pytest.mark.parametrize("maximum", [1, 4, 10, 50])
@pytest.mark.parametrize("minimum", [0, 1])
def test_counts_are_gaussian_around_half_the_maximum(maximum: int, minimum: int) -> None:
    rng = RNG(0)
    counts = np.array([gaussian_count(rng, maximum, minimum) for _ in range(4000)])
    bell = stats.norm(maximum / 2, maximum / 4)
    numbers = np.arange(minimum, maximum + 1)
    upper = bell.cdf(numbers + 0.5)
    upper[-1] = 1  # what lies beyond the ends is counted at the ends
    expected = np.diff(upper, prepend=0) * len(counts)
    assert type(gaussian_count(rng, maximum)) is int
    assert counts.min() >= minimum
    assert counts.max() <= maximum
    if len(numbers) > 1:
        assert stats.chisquare(np.bincount(counts, minlength=maximum + 1)[minimum:], expected).pvalue > 1e-4


def test_no_points_from_none() -> None:
    assert gaussian_count(RNG(0), 0) == 0


def test_official_clicks_with_their_own_tie_break() -> None:
    truth = np.zeros((12, 12, 12), bool)
    truth[2:8, 2:8, 2:8] = True
    first = {centre_point(truth, RNG(seed)) for seed in range(60)}
    middle = set(np.ndindex(2, 2, 2))
    assert {tuple(n - 4 for n in click.zyx) for click in first} == middle
    assert all(click.foreground for click in first)
    prediction = truth.copy()
    prediction[2:8, 2:8, 8:12] = True
    missed = {error_point(prediction, truth, RNG(seed)) for seed in range(60)}
    expected = {next_click(prediction, truth, lambda count, n=n: n) for n in range(4 * 4 * 2)}
    assert missed <= expected
    assert len(missed) > 1
    assert not any(click.foreground for click in missed if click)
    assert error_point(truth, truth, RNG(0)) is None


def test_large_objects_are_clicked_within_a_voxel_of_their_centre() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"), -1)
    ball = ((grid - 23.0) ** 2).sum(axis=-1) <= 20**2
    assert component_centre(ball) == (23, 23, 23)
    for seed in range(5):
        assert np.abs(np.array(centre_point(ball, RNG(seed)).zyx) - 23).max() <= 2


def test_random_choice_draws_from_its_generator() -> None:
    choose = random_choice(RNG(3))
    rng = RNG(3)
    assert [choose(9) for _ in range(20)] == [rng.integers(9) for _ in range(20)]


def scene() -> np.ndarray:
    """Three boxes of three classes, and a class 7 of one voxel."""
    labels = np.zeros((20, 22, 24), np.int16)
    labels[2:13, 3:14, 4:15] = 1
    labels[14:19, 2:9, 2:20] = 2
    labels[3:9, 16:21, 17:23] = 4
    labels[0, 0, 0] = 7
    return labels


def flood(labels: np.ndarray, classes: list[int]):
    """A network that finds one third of each object's error, whatever it is asked."""

    def predict(prompts: Prompts) -> np.ndarray:
        seen.append(prompts)
        return np.stack([(labels == c) & (np.indices(labels.shape)[2] % 3 == 0) for c in classes])

    seen: list[Prompts] = []
    return predict, seen


@pytest.mark.parametrize("name", SAMPLERS)
@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 7, 300]), unique=True, max_size=5), st.integers(1, 9), st.integers(0, 99))
def test_every_sampler_keeps_the_contract(name: str, classes: list[int], max_points: int, seed: int) -> None:
    labels = scene()
    before = labels.copy()
    sampler = make_sampler(name, max_points, max_rounds=3, special_classes=(2, 7))
    predict, _ = flood(labels, classes)
    prompts = sampler(labels, classes, RNG(seed), predict)
    np.testing.assert_array_equal(labels, before)
    assert prompts.coords.dtype == prompts.labels.dtype == np.int64
    assert prompts.coords.shape == (*prompts.labels.shape, 3)
    assert len(prompts.labels) == len(classes)
    for label, coords, kinds in zip(classes, prompts.coords, prompts.labels, strict=True):
        if label in (3, 300):  # not in the patch
            assert (kinds == -1).all()
            continue
        allowed = {2, 3} if label in (2, 7) else {0, 1}
        assert kinds.max() in (1, 3)
        for zyx, kind in zip(coords, kinds, strict=True):
            assert kind == -1 or kind in allowed
            assert kind == -1 or (labels[tuple(zyx)] == label) == (kind % 2 == 1)
        assert (coords[kinds == -1] == 0).all()
    again = sampler(labels, classes, RNG(seed), predict)
    np.testing.assert_array_equal(again.coords, prompts.coords)
    np.testing.assert_array_equal(again.labels, prompts.labels)


@pytest.mark.parametrize("name", ["edge-center", "error"])
def test_threads_do_not_change_the_points(name: str) -> None:
    labels, classes = scene(), [1, 2, 4, 7]
    predict, _ = flood(labels, classes)
    alone, together = (make_sampler(name, workers=n)(labels, classes, RNG(5), predict) for n in (1, 4))
    np.testing.assert_array_equal(alone.coords, together.coords)
    np.testing.assert_array_equal(alone.labels, together.labels)


def drawn_counts(name: str, law: str, maximum: int) -> tuple[np.ndarray, np.ndarray]:
    sampler = make_sampler(name, maximum, count_law=law)
    rng = RNG(1)
    labels = [sampler(scene(), [1], rng, None).labels for _ in range(3000)]
    return np.array([(k == 1).sum() for k in labels]), np.array([(k == 0).sum() for k in labels])


@pytest.mark.parametrize(("name", "law"), [("vista3d", "paper"), ("edge-center", "authors"), ("edge-center", "paper")])
def test_counts_follow_their_law(name: str, law: str) -> None:
    """|N(0, max // 2)|, cut: k points with probability P(k <= |x| < k + 1); the paper's: N(max/2, max/4), rounded."""
    maximum = 6
    numbers = np.arange(maximum + 1)
    half, bell = stats.halfnorm(scale=maximum // 2), stats.norm(maximum / 2, maximum / 4)
    for counts, least in zip(drawn_counts(name, law, maximum), (1, 0), strict=True):
        if law == "paper" and name == "edge-center":
            upper = np.where(numbers == maximum, 1, bell.cdf(numbers + 0.5))
            upper[:least] = 0
        else:
            upper = np.where(numbers == maximum, 1, half.cdf(numbers + 1 - least))
        expected = np.diff(upper, prepend=0) * len(counts)
        kept = expected > 0
        found = np.bincount(counts, minlength=maximum + 1)
        assert found[~kept].sum() == 0
        assert stats.chisquare(found[kept], expected[kept]).pvalue > 1e-4


def test_vista3d_points_lie_anywhere_on_the_object() -> None:
    sampler, rng, labels = make_sampler("vista3d", 8), RNG(0), scene()
    index = {tuple(v): i for i, v in enumerate(np.argwhere(labels == 4).tolist())}
    counts = np.zeros(len(index))
    for _ in range(2000):
        prompts = sampler(labels, [4], rng, None)
        for zyx in prompts.coords[0][prompts.labels[0] == 1].tolist():
            counts[index[tuple(zyx)]] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


def test_vista3d_counts_agree_with_monai() -> None:
    sampler_module = pytest.importorskip("monai.apps.vista3d.sampler")
    torch = pytest.importorskip("torch")
    import random

    random.seed(0)
    labels = scene()
    theirs = []
    for _ in range(1500):
        _, _, kinds, _ = sampler_module.sample_prompt_pairs(
            torch.from_numpy(labels.astype(np.int64))[None, None], [1, 2], max_point=6, drop_label_prob=1
        )
        theirs.append(((kinds[0] == 1).sum().item(), (kinds[0] == 0).sum().item()))
    for ours, of_monai in zip(drawn_counts("vista3d", "paper", 6), np.transpose(theirs), strict=True):
        table = np.array([np.bincount(c, minlength=8) for c in (ours, of_monai)])
        table = table[:, table.sum(axis=0) > 0]
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_the_error_sampler_clicks_where_the_network_errs() -> None:
    labels, classes = scene(), [1, 2]
    sampler = make_sampler("error", max_rounds=3)
    rounds = []
    for seed in range(60):
        predict, seen = flood(labels, classes)
        prompts = sampler(labels, classes, RNG(seed), predict)
        rounds.append(len(seen))
        for b, label in enumerate(classes):
            own = prompts.coords[b][prompts.labels[b] >= 0].tolist()
            first = seen[0].coords[b][seen[0].labels[b] >= 0].tolist() if seen else own
            assert own[: len(first)] == first
            assert len(own) == len(first) + len(seen)
            for zyx in own[len(first) :]:  # what the network never finds
                assert labels[tuple(zyx)] == label
                assert zyx[2] % 3 != 0
    assert np.bincount(rounds).min() > 0
    assert set(rounds) == {0, 1, 2, 3}


def test_the_error_sampler_adds_nothing_to_a_right_mask() -> None:
    labels, classes = scene(), [1, 4]
    sampler = make_sampler("error", max_rounds=3)
    for seed in range(10):
        asked: list[Prompts] = []

        def predict(prompts: Prompts, asked: list[Prompts] = asked) -> np.ndarray:
            asked.append(prompts)
            return np.stack([labels == c for c in classes])

        prompts = sampler(labels, classes, RNG(seed), predict)
        if asked:
            np.testing.assert_array_equal(prompts.coords, asked[0].coords)


def test_special_classes_carry_the_labels_that_monai_gives_them() -> None:
    vista3d = pytest.importorskip("monai.networks.nets.vista3d")
    torch = pytest.importorskip("torch")
    labels, classes = scene(), [1, 2, 7]
    for name in ("vista3d", "edge-center"):
        plain, special = (make_sampler(name, special_classes=s)(labels, classes, RNG(3), None) for s in ((), (2, 7)))
        converted = vista3d.VISTA3D.convert_point_label(
            None, torch.from_numpy(plain.labels.copy()), classes, special_index=(2, 7)
        )
        np.testing.assert_array_equal(special.labels, converted.numpy())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "random"}, "vista3d, edge-center, error"),
        ({"name": "error", "count_law": "mine"}, "paper, authors"),
        ({"name": "error", "max_points": 0}, "expected 1"),
    ],
)
def test_samplers_that_do_not_exist(arguments: dict, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        make_sampler(**arguments)


def test_the_error_sampler_needs_a_network() -> None:
    with pytest.raises(TrainingError, match="network"):
        make_sampler("error")(scene(), [1], RNG(0), None)


def test_the_error_sampler_begins_as_users_do() -> None:
    """The official click, any voxel, the middle of the box (which lies in the hole of a ring), or several points."""
    _, y, x = np.ogrid[:9, :41, :41]
    ring = np.broadcast_to(abs((y - 20) ** 2 + (x - 20) ** 2 - 225) < 60, (9, 41, 41)).astype(np.int32)
    sampler = make_sampler("error", max_points=4, max_rounds=0)
    starts = [sampler(ring, [1], RNG(seed), lambda _: np.zeros((1, 9, 41, 41), bool)) for seed in range(400)]
    lone = [p.coords[0, 0] for p in starts if (p.labels[0] >= 0).sum() == 1]
    middle = sum(bool((c == (4, 20, 20)).all()) for c in lone)
    assert stats.binomtest(middle, 400, FIRST_CLICKS[2]).pvalue > 1e-3
    on_it = [tuple(c) for c in lone if ring[tuple(c)]]
    assert len(on_it) + middle == len(lone)
    assert len(set(on_it)) > 60, "anywhere on it"
    assert any((p.labels[0] == 0).any() for p in starts), "several points have some beside it"
