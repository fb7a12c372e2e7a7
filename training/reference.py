"""The pipeline that the paper's authors used, for comparison: MONAI's windows around the unsplit network.

As VISTA3D's code for the challenge does: the whole volume scaled by its 1st and 99th percentile, one object after the
other, a window around every click, all of them encoded and decoded anew in each call; later objects over earlier ones.
A box is not a prompt there. So that step 0 can take place, its centre stands in for a click until there is one on the
object, as in gstk's own session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.apps.vista3d.inferer import point_based_window_inferer
from monai.networks.nets.vista3d import VISTA3D
from monai.transforms import ScaleIntensityRangePercentiles
from numpy.typing import NDArray

from gstk.core.prompts import ObjectPrompts
from gstk.evaluation.protocol import Segmenter

__all__ = ["ReferenceSegmenter"]


class ReferenceSegmenter(Segmenter):
    """MONAI's `point_based_window_inferer` around a VISTA3D network."""

    def __init__(self, network: VISTA3D, roi_shape: Sequence[int]) -> None:
        """Takes a network.

        Args:
            network: on the device to run on.
            roi_shape: (z,y,x) voxels of a window; 128 a side for the full-size network.
        """
        super().__init__()
        self._network, self._roi = network.eval(), list(roi_shape)
        self._device = next(network.parameters()).device
        self._image: torch.Tensor | None = None

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Takes an image (z,y,x); this pipeline works on voxels, whatever their spacing."""
        with self._counted():
            scale = ScaleIntensityRangePercentiles(lower=1, upper=99, b_min=0, b_max=1, clip=True)
            scaled = scale(torch.from_numpy(np.asarray(volume, np.float32))[None])
            self._image = torch.as_tensor(scaled)[None].to(self._device)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """All objects anew."""
        assert self._image is not None, "set_image comes first"
        with self._counted(), torch.no_grad():
            mask = np.zeros(self._image.shape[2:], np.uint16)
            for k, said in sorted(prompts.items()):
                points = [(point.zyx, int(point.foreground)) for point in said.points]
                if said.box is not None and not any(on_it for _, on_it in points):
                    points.insert(0, (said.box.centre(), 1))
                if points:
                    mask[self._logits(points) > 0] = k  # not-a-number, where no window was, is not above 0
            return mask

    def _logits(self, points: list[tuple[tuple[int, int, int], int]]) -> NDArray[np.float32]:
        logits = point_based_window_inferer(
            inputs=self._image,
            roi_size=self._roi,
            predictor=self._network,
            point_coords=torch.tensor([[zyx for zyx, _ in points]], device=self._device),
            point_labels=torch.tensor([[label for _, label in points]], device=self._device),
            center_only=True,
            transpose=True,
        )
        return np.asarray(logits[0, 0].float().cpu().numpy())
