"""One preparation for every door: session, `gstk infer`, evaluation and server give one mask for a file and a click.

C++ is compared with Python's session in `test_cpp_profiles.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import write_stack
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("starlette")

from served import TOKEN, serving
from test_page_api import Page
from test_profile_sessions import PROFILES, network, session

import gstk
from gstk.batch.infer import infer
from gstk.core.intensities import is_case_like
from gstk.core.profile import find_profile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.evaluation.protocol import SessionSegmenter
from gstk.server.service import Settings
from gstk.session.session import Session

__all__ = ["network"]  # a fixture

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """A click in a file, and the CT window that a case of 0 to 255 was made by where the profile wants HU."""

    file: Path
    zyx: tuple[int, int, int]
    window: Any

    @property
    def prompts(self) -> dict[int, ObjectPrompts]:
        return {1: ObjectPrompts((Point(self.zyx),))}

    @property
    def is_case(self) -> bool:
        return self.file.suffix == ".npz"


@pytest.fixture(scope="module", params=[*PROFILES, "tiny"])
def own(request: pytest.FixtureRequest, network: Any) -> Iterator[Session]:
    with session(network, PROFILES.get(request.param) or find_profile(request.param)) as own:
        yield own


@pytest.fixture(scope="module")
def page(own: Session) -> Iterator[Page]:
    with serving(Settings(page_token=TOKEN, call_s=1e6), own) as served:
        yield Page(served)


def by_session(own: Session, click: Click) -> Mask:
    own.set_image(gstk.read_volume(click.file), assume_window=click.window)
    own.add_point(click.zyx)
    return own.mask > 0


def by_infer(own: Session, click: Click, out: Path) -> Mask:
    (result,) = infer(own, click.file, out, prompts=click.prompts, assume_window=click.window, overwrite=True)
    assert result.error is None, result.error
    assert result.output is not None
    if click.is_case:
        return np.load(result.output)["segs"] > 0
    return sitk.GetArrayFromImage(sitk.ReadImage(str(result.output))) > 0


def by_evaluation(own: Session, click: Click) -> Mask:
    with np.load(click.file) as case:
        image, spacing_mm = case["imgs"], case["spacing"]
    segmenter = SessionSegmenter(own, click.window)
    segmenter.set_image(image, spacing_mm)
    return segmenter.segment(click.prompts) > 0


def by_server(page: Page, click: Click) -> Mask:
    files = sorted(click.file.iterdir()) if click.file.is_dir() else [click.file]
    for index, one in enumerate(files):
        assert page.send(one.name, one.read_bytes(), new=index == 0) == 200
    mask = np.zeros(page.json("POST", "/api/open")["shape"], bool)
    meta, labels = page.prompt(kind="point", voxel=list(click.zyx), foreground=True, object=1)
    if labels is not None:
        mask[tuple(slice(a, b) for a, b in meta["box"])] = labels > 0
    return mask


def one_mask(own: Session, page: Page, file: Path, out: Path, rng: np.random.Generator) -> Mask:
    """The mask of a click, which is that of every door."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an HU profile on MR, and axes that are not said
        image = gstk.read_volume(file).image
        window = "soft" if is_case_like(image) and own.profile.intensities.source == "hounsfield" else None
        z, y, x = (int(rng.integers(n // 4, n - n // 4)) for n in image.shape)
        click = Click(file, (z, y, x), window)
        expected = by_session(own, click)
        others = {"infer": by_infer(own, click, out)}
        if click.is_case:
            others["evaluation"] = by_evaluation(own, click)
        if window is None:  # the page has no field for it, and refuses such an image
            others["server"] = by_server(page, click)
    for door, mask in others.items():
        np.testing.assert_array_equal(mask, expected, f"{door}, {click}")
    return expected


def written(folder: Path, kind: str, rng: np.random.Generator) -> Path:
    """A small volume of any shape and spacing, and of any axes where the format has them."""
    shape = tuple(int(n) for n in rng.integers(10, 30, 3))
    waves = np.sin(np.indices(shape) / rng.uniform(2, 6, 3)[:, None, None, None]).sum(axis=0)
    waves += rng.normal(0, 0.2, shape)
    hu, spacing_mm = (waves * 350).astype(np.int16), rng.choice([0.8, 1.5, 3.0], 3)
    if kind == "npz":
        file = folder / "case.npz"
        np.savez(file, imgs=np.clip(waves * 40 + 120, 0, 255).astype(np.uint8), spacing=spacing_mm)
        return file
    if kind == "dicom":
        return write_stack(folder / "series", hu, RescaleSlope=1, RescaleIntercept=0)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection((np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], (3, 1))).ravel().tolist())
    image.SetOrigin([5.0, -7.0, 11.0])
    file = folder / f"scan.{kind}"
    sitk.WriteImage(image, str(file))
    return file


@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "mha", "dicom", "npz"])
@settings(max_examples=2, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes and says nothing more
@given(seed=st.integers(0, 2**32 - 1))
def test_generated_files(own: Session, page: Page, kind: str, tmp_path_factory: Any, seed: int) -> None:
    folder, rng = tmp_path_factory.mktemp("doors"), np.random.default_rng(seed)
    one_mask(own, page, written(folder, kind, rng), folder / "out", rng)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ct_totalseg_sm.nii.gz", "dicom_totalseg_ct", "mr_ibsi_sts026_T1.nii.gz", "mr_pyrad_breast1.nrrd"]
)
def test_real_files(own: Session, page: Page, shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "raw" / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    assert one_mask(own, page, file, tmp_path, np.random.default_rng(4)).any()
