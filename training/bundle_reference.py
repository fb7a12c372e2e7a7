"""NVIDIA's own pipeline for a profile, for comparison: the transforms of its bundle and MONAI's inferers.

The unsplit network in torch behind the transforms that the configurations of NV-Segment-CT and NV-Segment-CTMR list,
`point_based_window_inferer` for points and a sliding window for classes, and back by `Invertd`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.apps.vista3d.inferer import point_based_window_inferer
from monai.apps.vista3d.transforms import VistaPostTransformd
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInfererAdapt
from monai.networks.nets.vista3d import VISTA3D
from monai.transforms import (
    CastToTyped,
    Compose,
    CropForegroundd,
    Invertd,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    Transposed,
)
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.intensities import IntensityWindow, prepare_intensities
from gstk.core.profile import InputProfile
from gstk.core.prompts import ObjectPrompts
from gstk.core.volume import Volume
from gstk.errors import PromptError
from gstk.evaluation.class_segmenter import class_of_label, classes_of_labels
from gstk.evaluation.protocol import Segmenter

__all__ = ["BundleClassSegmenter", "BundlePipeline", "BundleSegmenter"]

_AXES = (("L", "R"), ("P", "A"), ("I", "S"))
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class BundlePipeline:
    """One volume in NVIDIA's pipeline, in torch.

    Attributes:
        image: [1,1,H,W,D], what the network is given windows of.
        shape_zyx: of the volume.
    """

    def __init__(
        self,
        network: VISTA3D,
        profile: InputProfile,
        volume: Volume,
        assume_window: IntensityWindow = None,
    ) -> None:
        """Transforms a volume.

        Args:
            network: on the device to run on.
            profile: of its weights.
            volume: as it was read.
            assume_window: see `gstk.core.intensities.prepare_intensities`.
        """
        self._network, self._profile = network.eval(), profile
        self._device = next(network.parameters()).device
        self.shape_zyx = volume.geometry.shape
        values = prepare_intensities(volume, profile, assume_window=assume_window).image
        self._affine = _affine_of(volume)
        image = MetaTensor(torch.from_numpy(np.ascontiguousarray(values.T, np.float32))[None], affine=self._affine)
        self._transforms = Compose(_transforms(profile))
        self._data = self._transforms({"image": image})
        self.image = self._data["image"][None].to(self._device)

    def points(
        self, prompts: ObjectPrompts, class_id: int | None = None, automatic: torch.Tensor | None = None
    ) -> NDArray[np.bool_]:
        """The mask (z,y,x) of one object's clicks. Those outside of the cropped image, where MONAI fails, are left out.

        Args:
            prompts: a box stands for a click at its centre, where there is no click on the object.
            class_id: what the clicks are on; above the last supported class the network takes it for novel.
            automatic: logits [1,1,H,W,D] of `class_logits`, which the clicks correct.
        """
        said = [(point.zyx, int(point.foreground)) for point in prompts.points]
        if prompts.box is not None and not any(on_it for _, on_it in said):
            said.insert(0, (prompts.box.centre(), 1))
        coords = self._to_image(np.array([zyx[::-1] for zyx, _ in said], np.float64).reshape(-1, 3))
        on_it = torch.tensor([label for _, label in said], dtype=torch.int64, device=self._device)
        held = ((coords.round() >= 0) & (coords.round() < torch.tensor(self.image.shape[2:]).to(coords))).all(dim=1)
        coords, on_it = coords[held], on_it[held]
        if not len(coords):
            return (
                np.zeros(self.shape_zyx, bool)
                if automatic is None
                else self._to_volume({"pred": automatic[0].clone()}) > 0
            )
        special = 2 if class_id in self._profile.classes.special else 0
        labels = (on_it + special)[None]
        prompt_class = None if class_id is None else torch.tensor([[class_id]], device=self._device)
        with torch.no_grad():
            logits = point_based_window_inferer(
                inputs=self.image,
                roi_size=list(self._profile.patch),
                predictor=self._network,
                point_coords=coords[None],
                point_labels=labels,
                prompt_class=prompt_class,
                prev_mask=automatic,
                center_only=True,
                transpose=True,
            )
        batch: dict[str, Any] = {"pred": logits[0].clone()}
        if automatic is None:
            batch |= {"points": coords[None], "point_labels": labels}
        return self._to_volume(batch) > 0

    def class_logits(self, class_ids: Sequence[int]) -> torch.Tensor:
        """Logits [1,B,H,W,D] of classes, from windows over the whole image."""
        inferer = SlidingWindowInfererAdapt(
            roi_size=self._profile.patch,
            sw_batch_size=1,
            overlap=self._profile.overlap,
            with_coord=True,
            padding_mode={"zero": "constant", "replicate": "replicate"}[self._profile.padding],
        )
        vector = torch.tensor(class_ids, device=self._device)[:, None]
        with torch.no_grad():
            logits = inferer(self.image, self._network, transpose=True, class_vector=vector, prompt_class=vector)
        assert isinstance(logits, torch.Tensor)
        return logits

    def classes(self, class_ids: Sequence[int]) -> NDArray[np.uint16]:
        """The label map (z,y,x) of classes, by their ids."""
        return self.labels(self.class_logits(class_ids), class_ids)

    def labels(self, logits: torch.Tensor, class_ids: Sequence[int]) -> NDArray[np.uint16]:
        """The label map (z,y,x) of `class_logits`, which it changes."""
        return self._to_volume({"pred": logits[0], "label_prompt": torch.tensor(class_ids)}).astype(np.uint16)

    def _to_image(self, points_xyz: NDArray[np.float64]) -> torch.Tensor:
        """Voxels (K,3) of the volume as voxels of the image.

        Whole numbers within a thousandth: MONAI truncates them to place a window, and whether the window is a voxel
        further would otherwise be left to the rounding of affines, which NIfTI keeps as float32.
        """
        found = self._data["image"]
        matrix = np.linalg.inv(found.affine.numpy()) @ self._affine.numpy()
        moved = points_xyz @ matrix[:3, :3].T + matrix[:3, 3]
        whole = np.rint(moved)
        moved = np.where(np.abs(moved - whole) < 1e-3, whole, moved)
        if self._profile.axis_order == "zyx":  # which `Transposed` does not tell the affine
            moved = moved[:, ::-1].copy()
        return torch.from_numpy(moved).to(self._device)

    def _to_volume(self, batch: dict[str, Any]) -> NDArray[np.floating]:
        """Answers on the image's grid as a label map (z,y,x) of the volume."""
        found = self._data["image"]
        batch = VistaPostTransformd(keys="pred")({**batch, "image": found})
        batch["pred"] = MetaTensor(torch.as_tensor(batch["pred"]).cpu())
        back = Invertd(keys="pred", transform=self._transforms, orig_keys="image", nearest_interp=True, to_tensor=True)
        label_xyz = torch.nan_to_num(torch.as_tensor(back(batch)["pred"])[0], nan=0)
        return np.asarray(label_xyz.numpy().T)


class BundleSegmenter(Segmenter):
    """NVIDIA's pipeline behind the interface of segmenters."""

    def __init__(self, network: VISTA3D, profile: InputProfile, assume_window: IntensityWindow = None) -> None:
        super().__init__()
        self._network, self._profile, self._assume = network, profile, assume_window
        self._pipeline: BundlePipeline | None = None

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Takes an image (z,y,x); an array does not say how the patient lies."""
        with self._counted():
            geometry = Geometry(volume.shape, spacing_mm)  # type: ignore[arg-type]
            given = Volume(np.asarray(volume), geometry, has_orientation=False)
            self._pipeline = BundlePipeline(self._network, self._profile, given, self._assume)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """All objects anew; later ones over earlier ones."""
        assert self._pipeline is not None, "set_image comes first"
        with self._counted():
            mask: NDArray[np.uint16] | None = None
            for k, said in sorted(prompts.items()):
                found = self._pipeline.points(said, self._profile.classes.last_supported + 1 if said.novel else None)
                mask = np.zeros(found.shape, np.uint16) if mask is None else mask
                mask[found] = k
            assert mask is not None
            return mask


class BundleClassSegmenter(BundleSegmenter):
    """NVIDIA's pipeline by class: automatic masks, each class on its own, and clicks that correct them.

    Where classes overlap, later labels lie over earlier ones; gstk's sessions decide by the logits there.
    """

    answers_without_prompts = True

    def __init__(
        self, network: VISTA3D, profile: InputProfile, names: Sequence[str], assume_window: IntensityWindow = None
    ) -> None:
        """Begins without an image.

        Args:
            network, profile, assume_window: see `BundlePipeline`.
            names: see `gstk.evaluation.class_segmenter.classes_of_labels`.

        Raises:
            PromptError, EvaluationError: see there; also where the profile has no classes.
        """
        super().__init__(network, profile, assume_window)
        if "classes" not in profile.branches:
            raise PromptError(f"got class prompts for the profile {profile.name}, whose weights have no classes")
        self._classes = classes_of_labels(profile.classes, names)
        self._automatic: dict[int, torch.Tensor] = {}

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """See `BundleSegmenter`."""
        self._automatic.clear()
        super().set_image(volume, spacing_mm)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """All objects anew; later ones over earlier ones."""
        assert self._pipeline is not None, "set_image comes first"
        with self._counted():
            mask = np.zeros(self._pipeline.shape_zyx, np.uint16)
            for label, said in sorted(prompts.items()):
                class_id = class_of_label(self._classes, label)
                if label not in self._automatic:
                    self._automatic[label] = self._pipeline.class_logits([class_id])
                automatic = self._automatic[label].clone()
                if said.points:
                    mask[self._pipeline.points(ObjectPrompts(said.points), class_id, automatic)] = label
                else:
                    mask[self._pipeline.labels(automatic, [class_id]) == class_id] = label
            return mask


def _affine_of(volume: Volume) -> torch.Tensor:
    """The affine that nibabel would read: voxels (x,y,z) to RAS mm; where nothing is known, the axes are right."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(volume.geometry.spacing_mm[::-1])
    if volume.has_orientation:
        direction = np.reshape(volume.geometry.direction, (3, 3))
        affine[:3, :3] = direction @ affine[:3, :3]
        affine[:3, 3] = volume.geometry.origin_mm
        affine = _LPS_TO_RAS @ affine
    return torch.from_numpy(affine)


def _transforms(profile: InputProfile) -> list[Any]:
    """The transforms in the order of NVIDIA's configurations; those that a profile does not ask for are left out."""
    steps: list[Any] = []
    if not isinstance(profile.spacing_mm, str):
        steps.append(Spacingd(keys="image", pixdim=[profile.spacing_mm] * 3, mode="bilinear"))
    if profile.crop_margin is not None:
        steps.append(CropForegroundd(keys="image", source_key="image", allow_smaller=True, margin=profile.crop_margin))
    given = profile.intensities
    ends = {"b_min": 0, "b_max": 1, "clip": True}
    if given.range is not None:
        steps.append(ScaleIntensityRanged(keys="image", a_min=given.range[0], a_max=given.range[1], **ends))
    else:
        low, high = given.percentiles
        steps.append(ScaleIntensityRangePercentilesd(keys="image", lower=low, upper=high, **ends))
    if profile.orientation == "RAS":
        steps.append(Orientationd(keys="image", axcodes="RAS", labels=_AXES))
    if profile.axis_order == "zyx":
        steps.append(Transposed(keys="image", indices=(0, 3, 2, 1)))
    return [*steps, CastToTyped(keys="image", dtype=torch.float32)]
