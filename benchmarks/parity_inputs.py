"""Volumes as they come, for comparing pipelines: raw files, other headers and shapes of one CT, and cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

import gstk
from gstk.core.geometry import Geometry
from gstk.core.volume import Volume

__all__ = ["Input", "candidates", "class_inputs", "inputs_of", "is_ct"]

CANDIDATES = 12


@dataclass(frozen=True)
class Input:
    """A volume, and the CT window that its 0 to 255 were made by, where that has to be undone."""

    name: str
    volume: Volume
    assume_window: str | None = None


def is_ct(volume: Volume) -> bool:
    return volume.modality == "CT" or volume.image.min() < -500


def with_header(volume: Volume, direction: NDArray[np.float64], name: str) -> Input:
    """The same voxels with other axes."""
    geometry = Geometry(
        volume.geometry.shape,
        volume.geometry.spacing_mm,
        (12.0, -30.0, 7.0),
        tuple(direction.ravel()),  # type: ignore[arg-type]
    )
    return Input(name, replace(volume, geometry=geometry))


def rotation(degrees: Sequence[float]) -> NDArray[np.float64]:
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[[i, j], [i, j]], turn[i, j], turn[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
        turned = turn @ turned
    return turned


def part_of(volume: Volume, name: str, inside: tuple[slice, slice, slice]) -> Input:
    """Some voxels of a volume; every n-th slice makes voxels n times as thick."""
    steps = [axis.step or 1 for axis in inside]
    image = np.ascontiguousarray(volume.image[inside])
    spacing = tuple(s * n for s, n in zip(volume.geometry.spacing_mm, steps, strict=True))
    geometry = Geometry(image.shape, spacing, volume.geometry.origin_mm, volume.geometry.direction)  # type: ignore[arg-type]
    return Input(name, replace(volume, image=image, geometry=geometry))


def as_written(inputs: Iterator[Input], folder: Path) -> Iterator[Input]:
    """Volumes as they are read from files, by turns NIfTI, NRRD and MetaImage."""
    for index, given in enumerate(inputs):
        image = sitk.GetImageFromArray(given.volume.image)
        given.volume.geometry.apply_to(image)
        file = folder / f"{index}{('.nii.gz', '.nrrd', '.mha')[index % 3]}"
        sitk.WriteImage(image, str(file))
        yield replace(given, name=f"{given.name} ({file.suffix.strip('.')})", volume=gstk.read_volume(file))


def headers_and_shapes(volume: Volume) -> Iterator[Input]:
    """One CT with the headers and shapes that volumes come with."""
    whole = slice(None)
    _, y, x = volume.image.shape
    yield with_header(volume, np.diag([-1.0, -1.0, 1.0]), "RAS")
    yield with_header(volume, np.eye(3), "LPS")
    yield with_header(volume, np.diag([1.0, -1.0, -1.0]), "two axes flipped")
    yield with_header(volume, np.eye(3)[[2, 0, 1]], "axes permuted")
    yield with_header(volume, rotation([12, -20, 8]), "oblique")
    yield with_header(volume, rotation([80, 5, -40]) @ np.diag([1.0, 1.0, -1.0]), "oblique and flipped")
    yield part_of(volume, "every second slice", (slice(None, None, 2), whole, whole))
    yield part_of(volume, "small", (slice(8, 20), slice(y // 3, y // 3 + 24), slice(x // 3, x // 3 + 30)))


def inputs_of(raw: Path, cases: Path, network: str, profile: str, folder: Path) -> Iterator[Input]:
    paths = sorted(path for path in raw.iterdir() if path.is_dir() or ".nii" in path.name or path.suffix == ".nrrd")
    volumes = {path.name: gstk.read_volume(path) for path in paths}
    takes_ct = profile == "nv-segment-ct"
    if network == "full" and not takes_ct:  # one CT, and one MR
        of_kind = {is_ct(volume): name for name, volume in reversed(volumes.items())}
        yield from (Input(name, volumes[name]) for name in of_kind.values())
        return
    for name, volume in volumes.items():
        if is_ct(volume) or not takes_ct:
            yield Input(name, volume)
    first_ct = next(volume for volume in volumes.values() if is_ct(volume))
    variants = list(headers_and_shapes(first_ct))
    if network == "full":
        yield from as_written(iter([variants[5]]), folder)
        return
    yield from as_written(iter(variants), folder)
    for oblique in variants[4:6]:  # once more as NIfTI, which rounds axes to float32
        yield from as_written(iter([oblique]), folder)
    for name in sorted(path.name for path in cases.glob("CT_*.npz" if takes_ct else "*.npz")):
        yield Input(name, gstk.read_volume(cases / name), "soft" if takes_ct else None)


def candidates(shape: Sequence[int], rng: np.random.Generator) -> dict[str, list[tuple[int, int, int]]]:
    """Voxels to click on: in the middle, near one face, and near a corner."""
    size = np.array(shape)
    near = np.minimum(4, size // 4)
    found: dict[str, list[tuple[int, int, int]]] = {"middle": [], "edge": [], "corner": []}
    for _ in range(CANDIDATES):
        middle = (size * rng.uniform(0.3, 0.7, 3)).astype(int)
        offset = 1 + rng.integers(0, near + 1)
        at_end = np.where(rng.integers(0, 2, 3) == 1, size - 1 - offset, offset)
        edge = np.where(np.arange(3) == rng.integers(3), at_end, middle)
        for place, voxel in (("middle", middle), ("edge", edge), ("corner", at_end)):
            z, y, x = (int(i) for i in np.clip(voxel, 0, size - 1))
            found[place].append((z, y, x))
    return found


def class_inputs(raw: Path, network: str) -> Iterator[Input]:
    """Two CT volumes; for the full-size network parts of them, of two windows and of one."""
    for path in sorted(raw.iterdir()):
        volume = gstk.read_volume(path)
        if not is_ct(volume):
            continue
        if network == "full":
            sides_mm = (150.0, 225.0, 180.0) if max(volume.image.shape) > 400 else (90.0, 180.0, 180.0)
            size = [round(mm / step) for mm, step in zip(sides_mm, volume.geometry.spacing_mm, strict=True)]
            first = [max(0, (n - own) // 2) for n, own in zip(volume.image.shape, size, strict=True)]
            z, y, x = (slice(a, a + own) for a, own in zip(first, size, strict=True))
            yield part_of(volume, path.name, (z, y, x))
        else:
            yield Input(path.name, volume)
