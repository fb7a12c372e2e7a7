"""Files of the C++ host: places and headers as Python has them, whole files or none, and any locale."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import warnings
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from cpp_build import ENVIRONMENT, needs_a_compiler
from cpp_replay import click_on, phantom, replay_cpp, volume_of
from nibabel.eulerangles import euler2mat

from gstk.cases.nifti import write_nifti
from gstk.cases.volumes import read_any, write_case_mask
from gstk.core import drafts
from gstk.core.bundle import builtin
from gstk.core.drafts import draft_folder
from gstk.core.processes import host_token

pytestmark = needs_a_compiler

VOXELS = np.random.default_rng(0).integers(-900, 1000, (6, 5, 4)).astype(np.int16)  # (x, y, z), as nibabel has them


class Told(NamedTuple):
    """What the program `files` said, or why it failed."""

    code: int
    lines: dict[str, str]
    warnings: list[str]
    error: str

    def numbers(self, name: str) -> list[float]:
        return [float(word) for word in self.lines[name].split()]


def call(checked: Path, volume: Path, out: Path, highest: int = 2, *more: str, setup: str = "", **named: str) -> Told:
    command = [str(word) for word in (checked / "files", volume, out, highest, *more)]
    if setup:  # of the shell that the program replaces
        command = ["bash", "-c", f'{setup}; exec "$@"', "bash", *command]
    environment = {**os.environ, **ENVIRONMENT, **named}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    pairs = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
    return Told(done.returncode, dict(pairs), [text for key, text in pairs if key == "warning"], done.stderr)


def mask_of(shape: tuple[int, ...], highest: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % (highest + 1)).reshape(shape).astype(np.uint16)


def affine(angles: tuple[float, float, float] = (0.3, -0.2, 0.7), mirror: bool = False, by: float = 0) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = euler2mat(*angles) @ np.diag([0.7, 0.8, -2.5 if mirror else 2.5])
    result[:3, 3] = 10 + by, -20, 35
    return result


def images(folder: Path) -> list[Path]:
    """NIfTI-1 and 2 of both byte orders, with one form, both, none and such as contradict each other."""
    files = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for order in "<>":
            for index, (sform, qform) in enumerate(
                [
                    (affine(), affine()),
                    (affine(mirror=True), None),
                    (None, affine((2.5, 0.1, -3))),
                    (None, None),
                    (affine(), affine(by=9)),
                    (np.zeros((4, 4)), affine(mirror=True)),
                    (affine((0, 0, np.pi)), affine((0, 0, np.pi))),
                ]
            ):
                header = kind.header_class(endianness=order)
                image = kind(VOXELS, None, header)
                image.header.set_data_dtype(np.int16)
                image.set_sform(sform, 0 if sform is None else 2)
                image.set_qform(qform, 0 if qform is None else 1)
                image.header.set_zooms((0.7, 0.8, 2.5))
                image.header.set_xyzt_units("micron" if index == 0 else "mm", "sec")
                image.header["descrip"] = b"from a scanner"
                image.header.set_intent("estimate", (), name="shown")
                image.header.set_slope_inter(*((2, -7) if index == 1 else (None, None)))
                image.header["cal_max"] = 300
                files.append(folder / f"{kind.__name__}{'le' if order == '<' else 'be'}{index}.nii")
                nibabel.save(image, files[-1])
    return files


def test_masks_carry_their_images_headers_as_pythons_do(checked: Path, tmp_path: Path) -> None:
    for file in images(tmp_path):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case = read_any(file)
        told = call(checked, file, tmp_path / "cpp.nii", 300)
        assert told.code == 0, told.error
        write_case_mask(tmp_path / "python.nii", mask_of(case.image.shape, 300), case)
        assert (tmp_path / "cpp.nii").read_bytes() == (tmp_path / "python.nii").read_bytes(), file.name
        geometry = case.geometry
        np.testing.assert_allclose(told.numbers("spacing"), geometry.spacing_mm, rtol=1e-12)
        np.testing.assert_allclose(told.numbers("origin"), geometry.origin_mm, rtol=1e-12)
        np.testing.assert_allclose(told.numbers("direction"), geometry.direction, rtol=1e-12, atol=1e-12)
        assert told.lines["oriented"] == str(int(case.has_orientation))
        assert [text.replace(str(file), file.name) for text in told.warnings] == [str(one.message) for one in caught]


def test_small_masks_are_bytes_and_compressed_ones_hold_the_same(checked: Path, tmp_path: Path) -> None:
    (file, *_) = images(tmp_path)
    case = read_any(file)
    assert call(checked, file, tmp_path / "cpp.NII.gz").code == 0
    write_nifti(
        tmp_path / "python.nii", mask_of(case.image.shape, 2).astype(np.uint8), case.geometry, case.nifti_header
    )
    assert gzip.decompress((tmp_path / "cpp.NII.gz").read_bytes()) == (tmp_path / "python.nii").read_bytes()


def test_a_mask_of_a_case_lies_where_pythons_lies(checked: Path, tmp_path: Path) -> None:
    """There is no header: spacing alone."""
    np.savez(tmp_path / "case.npz", imgs=VOXELS.T, spacing=[2.5, 0.8, 0.7])
    assert call(checked, tmp_path / "case.npz", tmp_path / "cpp.nii").code == 0
    write_nifti(
        tmp_path / "python.nii", mask_of(VOXELS.T.shape, 2).astype(np.uint8), read_any(tmp_path / "case.npz").geometry
    )
    assert (tmp_path / "cpp.nii").read_bytes() == (tmp_path / "python.nii").read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npz"])
def test_a_full_disk_leaves_what_stood_there(checked: Path, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "case.npz", imgs=rng.integers(0, 255, (40, 60, 60)).astype(np.uint8), spacing=np.ones(3))
    out = tmp_path / "out"
    out.mkdir()
    (out / f"mask{suffix}").write_bytes(b"of yesterday")
    told = call(checked, tmp_path / "case.npz", out / f"mask{suffix}", 60000, setup="trap '' XFSZ; ulimit -f 4")
    assert told.code == 1
    assert told.error.startswith(f"7: cannot write {out / f'mask{suffix}'}")
    assert [file.name for file in out.iterdir()] == [f"mask{suffix}"]
    assert (out / f"mask{suffix}").read_bytes() == b"of yesterday"


@pytest.mark.parametrize("suffix", [".npz", ".nii.gz"])
@pytest.mark.parametrize("sweeper", ["C++", "Python"])
def test_what_a_killed_write_left_goes_with_the_next_one(
    checked: Path, tmp_path: Path, suffix: str, sweeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "_swept", set())
    voxels = np.random.default_rng(1).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    np.savez(tmp_path / "case.npz", imgs=voxels, spacing=np.ones(3))
    out = tmp_path / "out"
    out.mkdir()
    killed = call(checked, tmp_path / "case.npz", out / f"mask{suffix}", 60000, setup="ulimit -c 0 -f 4")
    assert killed.code == -signal.SIGXFSZ
    (left,) = out.iterdir()
    assert re.fullmatch(r"\.gstk-[0-9a-f]{8}-\d+-\d+-[0-9a-f]{12}", left.name)
    assert [file.name for file in left.iterdir()] == [f"mask{suffix}"]
    with draft_folder(tmp_path) as own:  # of a process that runs
        own.rename(out / own.name)
        if sweeper == "C++":
            assert call(checked, tmp_path / "case.npz", out / "other.npz").code == 0
            assert {file.name for file in out.iterdir()} == {own.name, "other.npz"}
        else:
            with draft_folder(out) as new:
                assert set(out.iterdir()) == {out / own.name, new}


def test_cpp_gives_back_what_a_killed_python_process_had_moved_aside(checked: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", imgs=np.ones((4, 5, 6), np.uint8), spacing=np.ones(3))
    dead = tmp_path / f".gstk-{host_token()}-{os.getpid()}-1-{'0' * 12}"
    (dead / drafts.REPLACED / "bundle").mkdir(parents=True)
    (tmp_path / f".gstk-01234567-1-1-{'0' * 12}").mkdir()  # of another machine, and young
    linked = tmp_path / f".gstk-{host_token()}-{os.getpid()}-2-{'0' * 12}"
    linked.symlink_to(tmp_path)
    assert call(checked, tmp_path / "case.npz", tmp_path / "mask.npz").code == 0
    assert not dead.exists()
    names = {"case.npz", "mask.npz", "bundle", f".gstk-01234567-1-1-{'0' * 12}", linked.name}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_voxels_of_nan_are_said(checked: Path, tmp_path: Path) -> None:
    values = VOXELS.astype(np.float32)
    values[1, 2, 3], values[0, 0, 0] = np.nan, -np.inf
    nibabel.save(nibabel.Nifti1Image(values, affine()), tmp_path / "a.nii")
    told = call(checked, tmp_path / "a.nii", tmp_path / "mask.nii")
    assert told.warnings == [f"2 voxels of {tmp_path / 'a.nii'} are NaN or infinity; they are taken as 0"]


def test_slopes_keep_contrast_and_are_finite(checked: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VOXELS, affine()), tmp_path / "ct.nii")
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    content[40:56] = np.array([4, 6, 5, 4, 0, 0, 0, 0], "<i2").tobytes()  # and a side of nothing
    told = {}
    for slope, intercept in ((1, 0), (1e38, 0), (1, 1e9), (np.inf, 0), (1, np.nan)):
        content[112:120] = np.array([slope, intercept], "<f4").tobytes()
        (tmp_path / "ct.nii").write_bytes(content)
        told[slope, str(intercept)] = call(checked, tmp_path / "ct.nii", tmp_path / "mask.nii", 1).warnings
        assert nibabel.load(tmp_path / "mask.nii").get_fdata().sum() == VOXELS.size / 2
    assert told[1e38, "0"] == told[1, "1000000000.0"] == told[1, "0"]
    for scale in ((np.inf, "0"), (1, "nan")):
        (more,) = set(told[scale]) - set(told[1, "0"])
        assert "expected finite numbers; the stored values are taken as they are" in more


def test_sheared_axes_are_refused_with_a_remedy(checked: Path, tmp_path: Path) -> None:
    sheared = affine()
    sheared[:3, 2] += 0.1 * sheared[:3, 1]
    image = nibabel.Nifti1Image(VOXELS, None)
    image.set_sform(sheared, 1)
    nibabel.save(image, tmp_path / "a.nii")
    told = call(checked, tmp_path / "a.nii", tmp_path / "mask.nii")
    assert told.code == 1
    assert "degrees off right angles; use `gstk infer`" in told.error


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which there is a locale de_DE.UTF-8, with decimal commas."""
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("needs localedef and the sources of locales (apt-get install locales)")
    folder = tmp_path_factory.mktemp("locales")
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8"], check=True)
    # glibc keeps the list of folders that LOCPATH names, and its leak is reported where leaks are looked for.
    (folder / "suppressions").write_text("leak:__argz_add_sep\n", encoding="utf-8")
    return {"LOCPATH": str(folder), "LSAN_OPTIONS": f"suppressions={folder / 'suppressions'}:print_suppressions=0"}


@pytest.mark.parametrize("name", ["comma", "de_DE.UTF-8"])
@pytest.mark.parametrize("kind", ["nii.gz", "npz"])
def test_files_are_the_same_under_any_locale(
    checked: Path, tmp_path: Path, request: pytest.FixtureRequest, name: str, kind: str
) -> None:
    named = request.getfixturevalue("german") if name != "comma" else {}
    if kind == "npz":  # a shape that a locale may take for one number with groups
        np.savez(tmp_path / "image.npz", imgs=VOXELS.T[:, :, :1].repeat(1200, axis=2), spacing=[2.5, 0.8, 0.75])
    else:
        nibabel.save(nibabel.Nifti1Image(VOXELS, affine()), tmp_path / "image.nii.gz")
    image = tmp_path / f"image.{kind}"
    plain = call(checked, image, tmp_path / f"plain.{kind}")
    other = call(checked, image, tmp_path / f"other.{kind}", 2, name, **named)
    assert (other.code, other.lines, other.warnings) == (0, plain.lines, plain.warnings), other.error
    read = [read_any(tmp_path / f"{k}.nii.gz").image if kind != "npz" else None for k in ("plain", "other")]
    if kind == "npz":
        read = [np.load(tmp_path / f"{k}.npz")["segs"] for k in ("plain", "other")]
    np.testing.assert_array_equal(*read)


def test_masks_are_the_same_under_any_locale(checked: Path, tmp_path: Path, german: dict[str, str]) -> None:
    case = phantom(tmp_path / "case.npz", 3, 40)
    lines = [f"point 1 {' '.join(map(str, click_on(case, next(iter(case.prompts)))))} 1"]
    volume, program = volume_of(case, tmp_path / "case.npz"), checked / "replay"
    settings = {"backend": "openvino", "threads": 1, "cache": tmp_path / "cache"}
    (tmp_path / "cache").mkdir(mode=0o700)
    plain = replay_cpp(program, builtin("tiny"), volume, lines, tmp_path, **settings)
    for _ in range(2):  # graphs that were compiled and kept by either
        german_masks = replay_cpp(
            program, builtin("tiny"), volume, lines, tmp_path, locale="de_DE.UTF-8", **settings, **german
        )
        np.testing.assert_array_equal(german_masks.masks, plain.masks)
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").mkdir(mode=0o700)
