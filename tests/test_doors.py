"""One preparation for every door: session, `gstk infer`, evaluation and server give one mask for a file and a click."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import write_stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("starlette")

from served import serving
from test_page_api import TOKEN, Page
from test_profile_sessions import PROFILES, network, session

import gstk
from gstk.batch.infer import infer
from gstk.core.prompts import ObjectPrompts, Point
from gstk.evaluation.protocol import SessionSegmenter
from gstk.server.service import Settings
from gstk.session.session import Session

__all__ = ["network"]  # a fixture
FORMATS = ("nii.gz", "nii", "nrrd", "mha", "dicom", "npz")
CLICKS_A_FILE = 1
ANY_TIME_S = 1e6


@pytest.fixture(scope="module", params=list(PROFILES))
def own(request: pytest.FixtureRequest, network: Any) -> Iterator[Session]:
    with session(network, PROFILES[request.param]) as own:
        yield own


@pytest.fixture(scope="module")
def page(own: Session) -> Iterator[Page]:
    with serving(Settings(page_token=TOKEN, call_s=ANY_TIME_S), own) as served:
        yield Page(served)


def written(folder: Path, kind: str, rng: np.random.Generator) -> Path:
    """A small volume of any shape, spacing and, where the format has them, axes."""
    shape = tuple(int(n) for n in rng.integers(10, 30, 3))
    grid = np.indices(shape) / rng.uniform(2, 6, 3)[:, None, None, None]
    waves = np.sin(grid).sum(axis=0) + rng.normal(0, 0.2, shape)
    hu = (waves * 350).astype(np.int16)
    if kind == "npz":
        file = folder / "case.npz"
        np.savez(file, imgs=np.clip(waves * 40 + 120, 0, 255).astype(np.uint8), spacing=rng.choice([0.8, 1.5, 3.0], 3))
        return file
    if kind == "dicom":
        return write_stack(folder / "series", hu, RescaleSlope=1, RescaleIntercept=0)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing([float(s) for s in rng.choice([0.8, 1.5, 3.0], 3)])
    image.SetDirection((np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], (3, 1))).ravel())
    image.SetOrigin([5.0, -7.0, 11.0])
    file = folder / f"scan.{kind}"
    sitk.WriteImage(image, str(file))
    return file


def by_session(own: Session, file: Path, click: tuple[int, int, int], window: str | None) -> NDArray[np.bool_]:
    own.set_image(gstk.read_volume(file), assume_window=window)
    own.add_point(click)
    return own.mask > 0


def by_infer(own: Session, file: Path, click: tuple[int, int, int], window: str | None, out: Path) -> NDArray[np.bool_]:
    (result,) = infer(own, file, out, prompts={1: ObjectPrompts((Point(click),))}, assume_window=window, overwrite=True)
    assert result.error is None, result.error
    assert result.output is not None
    if result.output.suffix == ".npz":
        return np.load(result.output)["segs"] > 0
    return sitk.GetArrayFromImage(sitk.ReadImage(str(result.output))) > 0


def by_evaluation(own: Session, file: Path, click: tuple[int, int, int], window: str | None) -> NDArray[np.bool_]:
    with np.load(file) as case:
        image, spacing = case["imgs"], case["spacing"]
    segmenter = SessionSegmenter(own, window)
    segmenter.set_image(image, spacing)
    return segmenter.segment({1: ObjectPrompts((Point(click),))}) > 0


def by_server(page: Page, file: Path, click: tuple[int, int, int]) -> NDArray[np.bool_]:
    files = sorted(file.iterdir()) if file.is_dir() else [file]
    for index, one in enumerate(files):
        assert page.send(one.name, one.read_bytes(), new=index == 0) == 200
    shape = page.json("POST", "/api/open")["image"]["shape"]
    meta, labels = page.prompt(kind="point", voxel=list(click), foreground=True, object=1)
    mask = np.zeros(shape, bool)
    if labels is not None:
        low, high = zip(*meta["box"], strict=True)
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = labels > 0
    return mask


def require_one_mask(own: Session, page: Page, file: Path, out: Path, rng: np.random.Generator) -> int:
    """Every door's mask of some clicks; returns the voxels of the largest."""
    is_case = file.suffix == ".npz"
    window = "soft" if is_case and own.profile.intensities.source == "hounsfield" else None
    most = 0
    for _ in range(CLICKS_A_FILE):
        shape = gstk.read_volume(file).image.shape
        click = tuple(int(rng.integers(n)) for n in shape)
        first = by_session(own, file, click, window)  # type: ignore[arg-type]
        most = max(most, int(first.sum()))
        others = {"infer": by_infer(own, file, click, window, out)}  # type: ignore[arg-type]
        if is_case:
            others["evaluation"] = by_evaluation(own, file, click, window)  # type: ignore[arg-type]
        if window is None:  # the server refuses a case of 0 to 255 where HU are expected
            others["server"] = by_server(page, file, click)  # type: ignore[arg-type]
        for door, mask in others.items():
            np.testing.assert_array_equal(mask, first, f"{door}, {file.name}, click {click}")
    return most


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_generated_files(own: Session, page: Page, kind: str, tmp_path_factory: Any, seed: int) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("doors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert require_one_mask(own, page, written(folder, kind, rng), folder / "out", rng) > 0


RAW = ("ct_totalseg_sm.nii.gz", "dicom_totalseg_ct", "mr_ibsi_sts026_T1.nii.gz", "mr_pyrad_breast1.nrrd")


@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_real_files(own: Session, page: Page, shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "raw" / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an HU profile on MR
        assert require_one_mask(own, page, file, tmp_path, np.random.default_rng(4)) > 0
