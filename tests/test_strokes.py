"""Scribbles, lassos and boxes on one slice become clicks that lie where they were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.core.geometry import Geometry
from gstk.errors import PromptError
from gstk.session.strokes import lasso_points, plane_box_points, scribble_points

GEOMETRY = Geometry((20, 60, 60), (5.0, 1.0, 1.0))


def test_a_scribble_is_told_by_points_on_it_that_lie_apart() -> None:
    scribble = np.zeros(GEOMETRY.shape, bool)
    scribble[7, 30, 5:50] = True
    for foreground in (True, False):
        points = scribble_points(scribble, GEOMETRY, foreground)
        assert 2 <= len(points) <= 4
        assert all(scribble[point.zyx] and point.foreground == foreground for point in points)
        columns = sorted(point.zyx[2] for point in points)
        assert columns[0] == 5
        assert columns[-1] == 49
        assert min(np.diff(columns)) >= 8
    assert points[0].zyx == (7, 30, 27)  # its middle comes first


def test_a_short_scribble_is_one_click_and_an_empty_one_none() -> None:
    scribble = np.zeros(GEOMETRY.shape, bool)
    scribble[7, 30, 5:9] = True
    assert len(scribble_points(scribble, GEOMETRY)) == 1
    with pytest.raises(PromptError, match="without a voxel"):
        scribble_points(np.zeros(GEOMETRY.shape, bool), GEOMETRY)
    with pytest.raises(PromptError, match="shape"):
        scribble_points(scribble[1:], GEOMETRY)


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_lasso_is_told_by_its_innermost_voxel_and_points_beside_it(axis: int, filled: bool) -> None:
    geometry = Geometry((40, 40, 40), (1.0, 1.0, 1.0))
    grid = np.indices((40, 40))
    inside = ((grid - 20) ** 2).sum(0) <= 100
    drawn = inside if filled else inside & (((grid - 20) ** 2).sum(0) > 64)
    lasso = np.zeros(geometry.shape, bool)
    np.moveaxis(lasso, axis, 0)[12] = drawn
    first, *others = lasso_points(lasso, geometry)
    assert first.foreground
    assert first.zyx[axis] == 12
    assert sum((i - 20) ** 2 for k, i in enumerate(first.zyx) if k != axis) <= 4
    assert len(others) == 4
    for point in others:
        row, column = (i for k, i in enumerate(point.zyx) if k != axis)
        assert not point.foreground
        assert point.zyx[axis] == 12
        assert not inside[row, column]
    for point in lasso_points(lasso, geometry, foreground=False):
        row, column = (i for k, i in enumerate(point.zyx) if k != axis)
        assert not point.foreground
        assert inside[row, column]


@given(st.data())
def test_points_of_a_flat_box_lie_in_its_middle_and_outside_of_it(data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, 2))
    low, high = [], []
    for k, n in enumerate(GEOMETRY.shape):
        a = data.draw(st.integers(0, n - 1))
        b = a if k == axis else data.draw(st.integers(a, n - 1))
        low.append(a)
        high.append(b)
    middle, *others = plane_box_points(tuple(low), tuple(high), GEOMETRY)
    assert middle.foreground
    assert all(a <= i <= b for a, i, b in zip(low, middle.zyx, high, strict=True))
    for point in others:
        assert GEOMETRY.contains(point.zyx)
        assert not point.foreground
        assert any(not a <= i <= b for a, i, b in zip(low, point.zyx, high, strict=True))
    (only,) = plane_box_points(tuple(low), tuple(high), GEOMETRY, foreground=False)
    assert not only.foreground


def test_a_flat_box_that_is_not_in_the_image_is_refused() -> None:
    for low, high in [((0, 0, 0), (0, 60, 3)), ((0, 5, 5), (0, 4, 6))]:
        with pytest.raises(PromptError, match="inside the image"):
            plane_box_points(low, high, GEOMETRY)
