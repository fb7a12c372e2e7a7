"""Clicks in sessions of every profile, against NVIDIA's pipeline: MONAI's transforms and inferer, unsplit network."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

from class_weights import balance_classes  # noqa: E402
from monai.apps.vista3d.inferer import point_based_window_inferer  # noqa: E402
from test_training_grid import a_direction  # noqa: E402

import gstk  # noqa: E402
from gstk.batch.infer import infer  # noqa: E402
from gstk.cases.label_names import LabelName, object_colour  # noqa: E402
from gstk.cases.nifti import read_nifti_labels  # noqa: E402
from gstk.core.geometry import Geometry  # noqa: E402
from gstk.core.profile import InputProfile, find_profile  # noqa: E402
from gstk.core.prompts import ObjectPrompts, Point  # noqa: E402
from gstk.core.volume import Volume  # noqa: E402
from gstk.core.window import WindowPolicy  # noqa: E402
from gstk.engines.base import Engine  # noqa: E402
from gstk.errors import PromptError  # noqa: E402
from gstk.session.class_clicks import OUTSIDE  # noqa: E402
from gstk.session.deadline import Budget  # noqa: E402
from gstk.session.session import Session  # noqa: E402
from gstk.training.bundle_reference import BundlePipeline  # noqa: E402
from gstk.training.network import ClassEncoder, Encoder, PromptDecoder, build_network, class_vectors  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402

SIDE = 32
PROFILES = {
    "nv-segment-ct": replace(find_profile("nv-segment-ct"), patch=(SIDE, SIDE, SIDE)),
    "challenge": replace(find_profile("challenge"), patch=(SIDE, SIDE, SIDE)),
}


class TorchHalves(Engine):
    """The split network in torch, without a bundle."""

    name = "torch halves"
    precision = "fp32"

    def __init__(self, network: Any) -> None:
        super().__init__(4, 8)
        self._encoder, self._decoder, self._classes = Encoder(network), PromptDecoder(network), ClassEncoder(network)
        self._vectors = class_vectors(network).numpy()

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        with torch.no_grad():
            return self._encoder(torch.from_numpy(image)), 1

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            found = self._decoder(handle, torch.from_numpy(coords), torch.from_numpy(labels))
        return np.array(found.numpy())

    def class_vectors(self) -> NDArray[np.float32]:
        return self._vectors

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.array(self._classes(torch.from_numpy(image))[0].numpy())

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(21)
    return balance_classes(build_network(VISTA3DSpec(width=8, blocks_down=(1, 1, 1))).eval())


def session(network: Any, profile: InputProfile, adapts: bool = False) -> Session:
    policy = WindowPolicy(SIDE**3, 4, 8, adapts=adapts)
    return Session(TorchHalves(network), policy, profile=profile)


def a_volume(rng: np.random.Generator, profile: InputProfile, tilt: float) -> Volume:
    """A CT in HU, or a case of 0 to 255, of any shape, spacing and orientation."""
    shape = tuple(int(n) for n in rng.integers(14, 56, 3))
    grid = np.indices(shape).astype(float)
    period = rng.uniform(3, 9, 3)
    image = sum(np.sin(grid[a] / period[a] + rng.uniform(0, 6)) for a in range(3)) + rng.normal(0, 0.2, shape)
    spacing = tuple(float(s) for s in rng.choice([0.8, 1.0, 1.5, 2.5, 3.0], 3))
    direction = tuple(a_direction(rng, tilt).ravel())
    geometry = Geometry(shape, spacing, (4.0, -3.0, 20.0), direction)  # type: ignore[arg-type]
    if profile.intensities.source == "case":
        return Volume(np.clip(image * 40 + 120, 0, 255).astype(np.uint8), geometry, units="0-255")
    return Volume((image * 400).astype(np.int16), geometry, "CT", "HU")


@pytest.mark.parametrize("name", list(PROFILES))
def test_single_click_is_monais(network: Any, name: str) -> None:
    """Small and large volumes, anisotropic ones, all orders and signs of axes, oblique ones."""
    profile, agreements, shares = PROFILES[name], [], []
    for seed in range(14):
        rng = np.random.default_rng(seed)
        volume = a_volume(rng, profile, tilt=0.3 * (seed % 2))
        pipeline = BundlePipeline(network, profile, volume)
        with session(network, profile) as own:
            for _ in range(20):
                click = tuple(int(rng.integers(n)) for n in volume.image.shape)
                expected = pipeline.points(ObjectPrompts((Point(click),)))  # type: ignore[arg-type]
                if expected[click]:  # without, NVIDIA's pipeline gives nothing
                    break
            else:
                continue
            own.set_image(volume)
            own.add_point(click)
            agreements.append(float(((own.mask > 0) == expected).mean()))
            shares.append(float(expected.mean()))
    assert len(agreements) >= 8
    assert np.median(shares) > 0.02
    assert np.mean(agreements) >= 0.999, agreements


def test_first_window_is_the_trainings_and_wider_ones_follow(network: Any) -> None:
    profile = PROFILES["nv-segment-ct"]
    image = np.full((60, 120, 120), 100, np.int16)
    volume = Volume(image, Geometry(image.shape, (1.5, 0.75, 0.75)), "CT", "HU")  # type: ignore[arg-type]
    with session(network, profile) as own:
        own.set_image(volume)
        own.add_point((30, 60, 60))
        window = own.window()
        assert window is not None
        assert window.step == (1.0, 2.0, 2.0)
        assert window.shape == (SIDE, SIDE, SIDE)
        own.add_box(((5, 10, 10), (50, 110, 110)), object_id=2)
        coarser = own.window(2)
        assert coarser is not None
        assert coarser.step[0] > 1.0  # the box does not fit into the training's window
        own.add_box(((28, 58, 58), (33, 66, 66)), object_id=3)
        inside = own.window(3)
        assert inside is not None
        assert inside.step == (1.0, 2.0, 2.0)


@pytest.mark.slow
def test_classes_then_clicks_are_monais(network: Any) -> None:
    """A class, then a click beside it and one on it: NVIDIA's automatic mask, corrected by its rule."""
    profile = PROFILES["nv-segment-ct"]
    agreements, changes = [], []
    for seed in range(2):
        rng = np.random.default_rng(100 + seed)
        volume = a_volume(rng, profile, tilt=0.2)
        pipeline = BundlePipeline(network, profile, volume)
        automatic = pipeline.class_logits([3])
        expected = pipeline.classes([3]) == 3
        with session(network, profile) as own:
            own.set_image(volume)
            assert own.segment_classes(["spleen"]).max() <= 3
            own.add_class("spleen")
            first = own.mask == 3
            agreements.append(float((first == expected).mean()))
            # Away from the borders: at a patch's first voxel MONAI drops a click, and empties the window.
            outside = 4 + np.argwhere(~expected[4:-4, 4:-4, 4:-4])
            click = tuple(int(i) for i in outside[len(outside) // 2])
            corrected = pipeline.points(ObjectPrompts((Point(click),)), 3, automatic)  # type: ignore[arg-type]
            own.add_point(click, object_id=3)
            mask = own.mask == 3
            # A clicked voxel is as it was clicked, whatever the network says.
            corrected[click] = True
            agreements.append(float((mask == corrected).mean()))
            changes.append(int((corrected != expected).sum()))
            own.undo()
            np.testing.assert_array_equal(own.mask == 3, first)
            inside = 4 + np.argwhere(expected[4:-4, 4:-4, 4:-4])
            click = tuple(int(i) for i in inside[len(inside) // 2])
            corrected = pipeline.points(ObjectPrompts((Point(click, False),)), 3, automatic)  # type: ignore[arg-type]
            own.add_point(click, foreground=False, object_id=3)
            corrected[click] = False
            agreements.append(float(((own.mask == 3) == corrected).mean()))
    assert sum(change > 1 for change in changes) >= 1
    assert np.mean(agreements) >= 0.995, agreements


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_second_click_on_a_class_corrects_the_first_ones_mask_as_in_monai(network: Any, seed: int) -> None:
    """MONAI's inferer with the mask so far and `point_start`. With all clicks anew it says other masks, 0.76 alike."""
    profile, rng = PROFILES["nv-segment-ct"], np.random.default_rng(seed)
    volume = a_volume(rng, profile, tilt=0.0)
    pipeline = BundlePipeline(network, profile, volume)
    logits = pipeline.class_logits([3])
    with session(network, profile) as own:
        own.set_image(volume)
        own.add_class("spleen")
        clicks: list[Point] = []
        for foreground in (True, False):
            places = 4 + np.argwhere(((own.mask == 3) != foreground)[4:-4, 4:-4, 4:-4])
            z, y, x = (int(i) for i in places[rng.integers(len(places))])
            clicks.append(Point((z, y, x), foreground))
            own.add_point((z, y, x), foreground=foreground, object_id=3)
            coords = pipeline._to_image(np.array([click.zyx[::-1] for click in clicks], np.float64))
            with torch.no_grad():
                logits = point_based_window_inferer(
                    inputs=pipeline.image,
                    roi_size=list(profile.patch),
                    predictor=network,
                    point_coords=coords[None],
                    point_labels=torch.tensor([[int(click.foreground) for click in clicks]]),
                    prompt_class=torch.tensor([[3]]),
                    prev_mask=logits,
                    point_start=len(clicks) - 1,
                    transpose=True,
                )
        expected = pipeline.labels(logits, [3]) == 3
        assert ((own.mask == 3) == expected).mean() >= 0.998


def test_clicks_in_the_air_around_the_cropped_image(network: Any) -> None:
    """Where MONAI's pipeline fails: no window of the training holds them."""
    rng = np.random.default_rng(8)
    image = np.full((40, 70, 70), -1000, np.int16)
    image[5:35, 5:30, 5:30] = rng.integers(50, 900, (30, 25, 25))
    volume = Volume(image, Geometry(image.shape, (1.5, 1.5, 1.5)), "CT", "HU")  # type: ignore[arg-type]
    far = (20, 60, 60)
    with session(network, PROFILES["nv-segment-ct"]) as own:
        own.set_image(volume)
        own.add_class("spleen")
        before = own.mask == 3
        assert before.any()
        changed = own.add_point(far, object_id=3)
        after = own.mask == 3
        assert after[far]
        assert int((after != before).sum()) == 1
        assert all(axis.start <= i < axis.stop for axis, i in zip(changed, far, strict=True))
        assert OUTSIDE in own.report.compromises
        own.add_point(far, foreground=False, object_id=3)
        np.testing.assert_array_equal(own.mask == 3, before)
        own.undo()
        np.testing.assert_array_equal(own.mask == 3, after)
        own.add_point(far, object_id=7)
        assert own.mask[far] in (3, 7)


def test_novel_objects_are_monais(network: Any) -> None:
    """The zero-shot token, one object at a time: NVIDIA's pipeline takes a class above the last supported one."""
    profile = PROFILES["nv-segment-ct"]
    agreements, changes = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        volume = a_volume(rng, profile, tilt=0.1)
        pipeline = BundlePipeline(network, profile, volume)
        click = tuple(n // 2 for n in volume.image.shape)
        said = ObjectPrompts((Point(click),))  # type: ignore[arg-type]
        with session(network, profile) as own:
            own.set_image(volume)
            own.add_point(click, object_id=2)
            supported = own.mask == 2
            own.reset()
            own.add_point(click, novel=True)
            assert own.prompts().novel
            first = own.mask > 0
            expected = pipeline.points(said, 133)
            if not expected[click]:
                continue
            agreements.append(float((first == expected).mean()))
            changes.append(int((first != supported).sum()))
            own.undo()
            own.redo()
            np.testing.assert_array_equal(own.mask > 0, first)
    assert len(agreements) >= 2
    assert np.mean(agreements) >= 0.999, agreements
    assert max(changes) > 0


def test_special_classes_send_labels_of_their_own(network: Any) -> None:
    """A lung tumour: NVIDIA's rule on its automatic mask, with labels 2 and 3."""
    profile = PROFILES["nv-segment-ct"]
    volume = a_volume(np.random.default_rng(101), profile, tilt=0.2)
    pipeline = BundlePipeline(network, profile, volume)
    automatic = pipeline.class_logits([23])
    with session(network, profile) as own:
        own.set_image(volume)
        own.add_class("lung tumor")
        before = own.mask == 23
        outside = 4 + np.argwhere(~before[4:-4, 4:-4, 4:-4])
        click = tuple(int(i) for i in outside[len(outside) // 2])
        own.add_point(click, object_id=23)
        expected = pipeline.points(ObjectPrompts((Point(click),)), 23, automatic)  # type: ignore[arg-type]
        plain = pipeline.points(ObjectPrompts((Point(click),)), 1, automatic)  # type: ignore[arg-type]
        expected[click] = plain[click] = True
        assert ((own.mask == 23) == expected).mean() >= 0.995
        assert (expected != plain).any()
        with pytest.raises(PromptError, match="came from a class; take another object id"):
            own.add_point(click, object_id=23, novel=True)


def test_wrong_prompts_for_a_profile_are_refused(network: Any) -> None:
    volume = a_volume(np.random.default_rng(1), PROFILES["challenge"], 0)
    with session(network, PROFILES["challenge"]) as own:
        own.set_image(volume)
        with pytest.raises(PromptError, match="whose weights have no classes"):
            own.add_class("liver")
    by_class = replace(PROFILES["nv-segment-ct"], branches=("classes",))
    with session(network, by_class) as own:
        own.set_image(a_volume(np.random.default_rng(1), by_class, 0))
        with pytest.raises(PromptError, match="take classes alone"):
            own.add_point((3, 3, 3))
        with pytest.raises(PromptError, match="which is 5 classes; take segment_classes"):
            own.add_class("lung")
        with pytest.raises(PromptError, match="near names: liver"):
            own.segment_classes(["livr"])


@pytest.mark.slow
def test_infer_segments_classes_and_names_them(network: Any, tmp_path: Path) -> None:
    volume = a_volume(np.random.default_rng(7), PROFILES["nv-segment-ct"], 0)
    image = sitk.GetImageFromArray(volume.image)
    volume.geometry.apply_to(image)
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    with session(network, PROFILES["nv-segment-ct"]) as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (result,) = infer(own, tmp_path / "ct.nii.gz", tmp_path / "out", classes=["spleen", "kidney"], overlay=True)
        own.set_image(gstk.read_volume(tmp_path / "ct.nii.gz"))
        expected = own.segment_classes(["spleen", "kidney"])
        (wrong,) = infer(own, tmp_path / "ct.nii.gz", tmp_path / "other", classes=["splen"])
        told: list[tuple[int, int]] = []
        (late,) = infer(
            own,
            tmp_path / "ct.nii.gz",
            tmp_path / "late",
            classes=["spleen", "kidney"],
            budget=Budget(0.01),
            on_window=lambda done, total: told.append((done, total)),
        )
    assert late.error is None
    assert late.report is not None
    assert "classes at the training's resolution" in late.report.compromises[0]
    assert late.objects
    assert told[-1] == (1, 1)
    assert result.error is None
    assert result.output is not None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(result.output))), expected)
    labels = json.loads((tmp_path / "out" / "ct_mask_labels.json").read_text())["labels"]
    assert {int(k) for k in labels} == {int(k) for k in np.unique(expected)} - {0}
    assert all(labels[str(one.object_id)]["name"] == one.name for one in result.objects)
    assert "near names: spleen" in str(wrong.error)
    absent = {"spleen", "right kidney", "left kidney"} - {one.name for one in result.objects}
    notes = [note for note in result.warnings if note.startswith("nothing was found of")]
    assert len(notes) == bool(absent)
    assert all(name in notes[0] for name in absent)
    assert result.overlay is not None
    assert min(Image.open(result.overlay).size) > 300
    assert read_nifti_labels(result.output) == {
        one.object_id: LabelName(one.name, object_colour(one.object_id)) for one in result.objects
    }
