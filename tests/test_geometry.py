import dataclasses
import math

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from gstk.core.geometry import Geometry
from gstk.errors import GeometryError

spacings = st.tuples(*[st.floats(0.01, 50)] * 3)
origins = st.tuples(*[st.floats(-1000, 1000)] * 3)
angles = st.tuples(*[st.floats(-math.pi, math.pi)] * 3)
indices = st.tuples(*[st.floats(-100, 600)] * 3)


def rotation(angles_xyz: tuple[float, float, float]) -> tuple[float, ...]:
    transform = SimpleITK.Euler3DTransform()
    transform.SetRotation(*angles_xyz)
    return transform.GetMatrix()


def itk_image(geometry: Geometry) -> SimpleITK.Image:
    image = SimpleITK.Image(*geometry.shape[::-1], SimpleITK.sitkUInt8)
    geometry.apply_to(image)
    return image


@settings(deadline=None)
@given(spacings, origins, angles, indices)
def test_positions_are_those_of_itk(spacing, origin, euler, index) -> None:
    geometry = Geometry((2, 3, 4), spacing, origin, rotation(euler))
    expected = itk_image(geometry).TransformContinuousIndexToPhysicalPoint(index[::-1])
    np.testing.assert_allclose(geometry.voxel_to_mm(index), expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose((geometry.affine @ [*index, 1])[:3], expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(geometry.mm_to_voxel(expected), index, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(spacings, origins, angles)
def test_itk_round_trip_is_exact(spacing, origin, euler) -> None:
    geometry = Geometry((2, 3, 4), spacing, origin, rotation(euler))
    assert Geometry.from_sitk(itk_image(geometry)) == geometry


def test_points_keep_their_leading_axes() -> None:
    geometry = Geometry((4, 5, 6), (2, 1, 0.5), (10, 20, 30))
    points = np.arange(24.0).reshape(2, 4, 3)
    assert geometry.voxel_to_mm(points).shape == (2, 4, 3)
    np.testing.assert_allclose(geometry.voxel_to_mm([1, 2, 3]), [10 + 1.5, 20 + 2, 30 + 2])
    np.testing.assert_allclose(geometry.mm_to_voxel(geometry.voxel_to_mm(points)), points)


def test_fields_become_plain_and_comparable() -> None:
    from_numpy = Geometry(np.array([4, 5, 6]), np.array([2, 1, 0.5], np.float32))
    assert from_numpy == Geometry((4, 5, 6), (2.0, 1.0, 0.5))
    assert hash(from_numpy) == hash(Geometry((4, 5, 6), (2, 1, 0.5)))
    assert [type(n) for n in (*from_numpy.shape, *from_numpy.spacing_mm)] == [int] * 3 + [float] * 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_numpy.shape = (1, 1, 1)


def test_volume_of_a_voxel() -> None:
    assert Geometry((4, 5, 6), (2, 1, 0.5)).volume_mm3 == pytest.approx(1.0)
    assert Geometry((4, 5, 6), (5, 0.8, 0.8), direction=rotation((1, 2, 3))).volume_mm3 == pytest.approx(3.2)


@pytest.mark.parametrize(
    ("point", "voxel"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((3, 4, 5), (3, 4, 5)),
        ((-0.5, 0.5, 1.5), (0, 1, 2)),  # halves go up, not to the even number
        ((3.49, 4.49, 5.49), (3, 4, 5)),
        ((3.5, 0, 0), None),
        ((-0.51, 0, 0), None),
        ((0, 5, 0), None),
        ((0, 0, -1), None),
        ((math.nan, 0, 0), None),
        ((0, math.inf, 0), None),
    ],
)
def test_nearest_voxel(point, voxel) -> None:
    geometry = Geometry((4, 5, 6), (1, 1, 1))
    assert geometry.nearest_voxel(point) == voxel
    assert geometry.contains(point) is (voxel is not None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (4, 5)}, "got the shape .4, 5., expected 3 finite numbers"),
        ({"shape": (4, 5, 0)}, "shape"),
        ({"shape": (4, 5, 6.5)}, "whole numbers"),
        ({"shape": 7}, "got the shape 7, expected 3 numbers"),
        ({"spacing_mm": (1, 1, 0)}, r"got the spacing \(1, 1, 0\), expected three numbers of mm"),
        ({"spacing_mm": (1, -1, 1)}, "above 0"),
        ({"spacing_mm": (1, math.nan, 1)}, "finite"),
        ({"spacing_mm": (1, math.inf, 1)}, "finite"),
        ({"spacing_mm": (1, 1)}, "3 finite"),
        ({"spacing_mm": ("a", 1, 1)}, "3 numbers"),
        ({"spacing_mm": (10**400, 1, 1)}, "3 numbers"),
        ({"origin_mm": (0, 0)}, "origin"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0, 0)}, "inverted"),
        ({"direction": (1, 0, 0)}, "9 finite"),
    ],
)
def test_what_is_no_geometry(fields, message) -> None:
    with pytest.raises(GeometryError, match=message) as caught:
        Geometry(**({"shape": (4, 5, 6), "spacing_mm": (1, 1, 1)} | fields))
    assert "\n" not in str(caught.value)


def test_other_wrong_arguments() -> None:
    geometry = Geometry((4, 5, 6), (1, 1, 1))
    with pytest.raises(GeometryError, match="got an image of shape"):
        geometry.apply_to(SimpleITK.Image(4, 5, 6, SimpleITK.sitkUInt8))
    with pytest.raises(GeometryError, match="got a 2-D image"):
        Geometry.from_sitk(SimpleITK.Image(4, 5, SimpleITK.sitkUInt8))
    with pytest.raises(GeometryError, match="expected"):
        geometry.voxel_to_mm([1, 2])
    with pytest.raises(GeometryError, match="got a point with 2 coordinates"):
        geometry.contains((1, 2))
