"""NVIDIA's pipeline in torch: what it is beside MONAI's own functions, called by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy import ndimage  # noqa: E402

from gstk.core.geometry import Geometry  # noqa: E402
from gstk.core.profile import find_profile  # noqa: E402
from gstk.core.prompts import ObjectPrompts, Point  # noqa: E402
from gstk.core.volume import Volume  # noqa: E402
from gstk.training.bundle_reference import BundlePipeline, BundleSegmenter  # noqa: E402
from gstk.training.network import build_network  # noqa: E402
from gstk.training.reference import ReferenceSegmenter  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402

CLICK = ObjectPrompts((Point((14, 20, 17)), Point((20, 9, 25), foreground=False)))


@pytest.fixture(scope="module")
def network() -> object:
    torch.manual_seed(3)
    return build_network(VISTA3DSpec(width=8, blocks_down=(1, 1, 1))).eval()


def test_cases_in_native_voxels_are_what_the_challenges_script_makes(network: object) -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 36)).astype(np.uint8)
    profile = replace(find_profile("challenge"), patch=(32, 32, 32))
    with ReferenceSegmenter(network, (32, 32, 32)) as reference:  # type: ignore[arg-type]
        reference.set_image(image, (1, 1, 1))
        expected = reference.segment({3: CLICK})
    with BundleSegmenter(network, profile) as segmenter:  # type: ignore[arg-type]
        segmenter.set_image(image, (1, 1, 1))
        mask = segmenter.segment({3: CLICK})
    # The bundle's post-processing keeps what is connected to a click.
    parts, _ = ndimage.label(expected == 3, np.ones((3, 3, 3)))
    clicked = parts[14, 20, 17]
    np.testing.assert_array_equal(mask == 3, (parts == clicked) & (clicked > 0))


def test_classes_of_one_patch_are_the_networks_own_answer(network: object) -> None:
    """A RAS volume of the training's voxels and of one patch: nothing is left but the network and the argmax."""
    rng = np.random.default_rng(2)
    ct = rng.integers(-900, 1000, (32, 32, 32)).astype(np.int16)  # z, y, x
    ras = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    volume = Volume(ct, Geometry(ct.shape, (1.5, 1.5, 1.5), direction=ras), "CT", "HU")  # type: ignore[arg-type]
    profile = replace(find_profile("nv-segment-ct"), patch=(32, 32, 32))
    labels = BundlePipeline(network, profile, volume).classes([3, 1, 40])  # type: ignore[arg-type]
    low, high = profile.intensities.range or (0, 1)
    image = torch.from_numpy(np.clip((ct.T.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32))
    with torch.no_grad():
        logits = network(image[None, None], class_vector=torch.tensor([[3], [1], [40]]))[:, 0].numpy()  # type: ignore[operator]
    expected = np.where((logits > 0).any(0), np.array([3, 1, 40])[logits.argmax(0)], 0)
    assert (expected == labels.T).mean() > 0.9999


def test_clicks_outside_of_the_cropped_image_are_left_out(network: object) -> None:
    """In the air far from the patient, where MONAI's own post-processing fails with an index error."""
    rng = np.random.default_rng(6)
    ct = np.full((40, 60, 60), -1000, np.int16)
    ct[5:35, 5:25, 5:25] = rng.integers(50, 900, (30, 20, 20))
    volume = Volume(ct, Geometry(ct.shape, (1.5, 1.5, 1.5)), "CT", "HU")  # type: ignore[arg-type]
    profile = replace(find_profile("nv-segment-ct"), patch=(32, 32, 32))
    pipeline = BundlePipeline(network, profile, volume)  # type: ignore[arg-type]
    inside, outside = Point((20, 15, 15)), Point((20, 55, 55))
    assert not pipeline.points(ObjectPrompts((outside,))).any()
    both = pipeline.points(ObjectPrompts((inside, outside)))
    np.testing.assert_array_equal(both, pipeline.points(ObjectPrompts((inside,))))
