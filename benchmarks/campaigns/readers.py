"""The readers of what strangers send, each as a function of bytes, with its first inputs and what holds of any other.

An input may end in a `GstkError` and in nothing else; it may take a second of processor time, and ten times its size
and 64 MB of memory; and nothing of it may be executed: no process, no import, no library, no connection, and no file
written outside of its own folder.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gstk.calibration.store import read_model
from gstk.cases.volumes import read_any, read_volume, write_mask
from gstk.core.bundle import Bundle, builtin, write_bundle
from gstk.core.class_vectors import load_class_vectors
from gstk.core.geometry import Geometry
from gstk.core.manifest import Manifest
from gstk.core.safe_npz import npz_keys, npz_shape
from gstk.errors import GstkError

MOST_S = 1.0
MOST_MEMORY_TIMES, MOST_MEMORY_MORE = 10, 64 * 10**6
MEMBERS = ("imgs", "spacing", "boxes", "clicks", "clicks_order", "prev_pred", "gts")
_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.startfile", "subprocess.Popen", "socket.connect",
    "socket.bind", "ctypes.dlopen", "pickle.find_class", "marshal.loads", "marshal.load", "code.__new__",
    "function.__new__", "pty.spawn", "webbrowser.open",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "shutil.rmtree")


class RuleBroken(Exception):
    """An input did what no input may do."""


def memory_folder() -> str | None:
    """A folder in memory, where the system has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Readers:
    """All readers, on files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tempfile.tempdir = str(folder)  # what readers write for a moment lies there too
        self.bundle = folder / "bundle"
        write_bundle(self.bundle, *_small_bundle(folder))
        self.small = {name: _npy(array) for name, array in _case().items()}
        self.manifest = json.loads((self.bundle / "manifest.json").read_bytes())

    def npz(self, data: bytes) -> None:
        """An archive; or, after an odd first byte, one of its members in an archive that is sound."""
        if not data:
            return
        file = self.folder / "case.npz"
        if data[0] % 2:
            members = {**self.small, MEMBERS[data[0] // 2 % len(MEMBERS)]: data[1:]}
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in members.items():
                    archive.writestr(f"{name}.npy", content)
        else:
            file.write_bytes(data[1:])
        _ask(lambda: npz_keys(file), lambda: npz_shape(file, "imgs"), lambda: read_any(file))

    def nifti(self, data: bytes) -> None:
        """An image, compressed or not."""
        file = self.folder / "image.nii"
        file.write_bytes(data)
        _ask(lambda: read_volume(file))

    def manifest_json(self, data: bytes) -> None:
        """The manifest of a bundle whose files are as they should be."""
        (self.bundle / "manifest.json").write_bytes(data)
        _ask(lambda: Bundle.open(self.bundle, verify=False).graph("encoder"))

    def bundle_files(self, data: bytes) -> None:
        """What a bundle holds beside its graphs, by the first byte; or a file that was altered."""
        if not data:
            return
        content = data[1:]
        match data[0] % 4:
            case 0:  # altered after it was written
                file = self.bundle / "vectors.npz"
                kept = file.read_bytes()
                file.write_bytes(content)
                (self.bundle / "manifest.json").write_text(json.dumps(self.manifest))
                _ask(lambda: Bundle.open(self.bundle))
                file.write_bytes(kept)
            case 1:
                from gstk.export.vectors import load_vectors

                file = self.folder / "vectors.npz"
                file.write_bytes(content)
                _ask(lambda: load_vectors(file))
            case 2:
                file = self.folder / "class_vectors.npz"
                file.write_bytes(content)
                _ask(lambda: load_class_vectors(file))
            case _:
                file = self.folder / "latency.json"
                file.write_bytes(content)
                _ask(lambda: read_model(file))

    def dicom(self, data: bytes) -> None:
        """A file of a series of three whose others are sound."""
        series = self.folder / "series"
        (series / "1.dcm").write_bytes(data)
        _ask(lambda: read_volume(series))


@dataclass(frozen=True)
class Target:
    """A reader by name, and its first inputs."""

    name: str
    read: Callable[[bytes], None]
    seeds: list[bytes]


def targets(folder: Path) -> dict[str, Target]:
    """All targets, with what they need written to a folder that is there for them alone."""
    readers = Readers(folder)
    archive = _archive(readers.small, zipfile.ZIP_STORED)
    npz = [b"\0" + archive, b"\0" + _archive(readers.small, zipfile.ZIP_DEFLATED)]
    npz += [bytes([1 + 2 * k]) + readers.small[name] for k, name in enumerate(MEMBERS)]
    nifti, manifest = _nifti(folder), (readers.bundle / "manifest.json").read_bytes()
    vectors = io.BytesIO()
    np.savez(vectors, vectors=np.ones((3, 4), np.float32))
    whole = _vectors(folder / "seed.npz")
    bundle = [b"\0" + whole, b"\1" + whole, b"\2" + vectors.getvalue(), b"\3" + _latency_model()]
    found = [
        Target("npz", readers.npz, npz),
        Target("nifti", readers.nifti, nifti),
        Target("manifest", readers.manifest_json, [manifest]),
        Target("bundle", readers.bundle_files, bundle),
        Target("dicom", readers.dicom, _dicom(folder / "series")),
    ]
    return {target.name: target for target in found}


class PeakMemory:
    """The peak of this process's resident memory, from files of /proc that stay open."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def reset_peak(self) -> int:
        """Begins to measure the peak anew; returns what is resident now, in bytes."""
        os.write(self._reset, b"5")
        return self.peak()

    def peak(self) -> int:
        """The most that was resident since, in bytes."""
        text = os.pread(self._status, 4096, 0)
        start = text.index(b"VmHWM:") + 6
        return int(text[start : text.index(b"kB", start)]) * 1024


class Watch:
    """Runs one input after the other, and raises `RuleBroken` where one breaks a rule.

    The slowest input's time and the largest peak of memory are also in `watch.json` of the folder.
    """

    def __init__(self, target: Target, folder: Path, most_s: float = MOST_S) -> None:
        self.target, self.most_s = target, most_s
        self.slowest_s, self.peak_bytes = 0.0, 0
        self._folder, self._broken, self._is_on = os.path.realpath(folder), "", False
        self._told, self._memory = folder / "watch.json", PeakMemory()
        with warnings.catch_warnings():  # what is imported late is imported now
            warnings.simplefilter("ignore")
            import SimpleITK  # noqa: F401

            for codec in (
                "utf-8-sig",
                "utf-16",
                "utf-16-le",
                "utf-16-be",
                "utf-32",
                "utf-32-le",
                "utf-32-be",
                "latin-1",
            ):
                "".encode(codec)
            for seed in target.seeds:
                target.read(seed)
        sys.addaudithook(self._heard)

    def __call__(self, data: bytes) -> None:
        before, began = self._memory.reset_peak(), time.perf_counter()
        self._read(data)
        spent_s, grown = time.perf_counter() - began, self._memory.peak() - before
        if spent_s > self.slowest_s:
            # Another process may have run meanwhile. A thread's own clock is asked only here: the kernel puts a thread
            # that asks for it off the processor more often, which on a machine that is busy halves the rate.
            began = time.thread_time()
            self._read(data)
            spent_s = time.thread_time() - began
        if spent_s > self.slowest_s or grown > self.peak_bytes:
            self.slowest_s, self.peak_bytes = max(self.slowest_s, spent_s), max(self.peak_bytes, grown)
            self._told.write_text(json.dumps({"slowest_s": self.slowest_s, "peak_bytes": self.peak_bytes}))
        if self._broken:
            raise RuleBroken(f"{self._broken} while {len(data)} bytes were read")
        if spent_s > self.most_s:
            raise RuleBroken(f"{spent_s:.1f} s for {len(data)} bytes")
        if grown > MOST_MEMORY_TIMES * len(data) + MOST_MEMORY_MORE:
            raise RuleBroken(f"{grown / 1e6:.0f} MB for {len(data)} bytes")

    def _read(self, data: bytes) -> None:
        self._broken, self._is_on = "", True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.target.read(data)
        finally:
            self._is_on = False

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event in _FORBIDDEN or (event == "import" and arguments[0] not in sys.modules):
            self._broken = f"{event} {str(arguments[:1])[:80]}"
        elif event in _CHANGES or (event == "open" and _writes(arguments)):
            place = arguments[0]
            if isinstance(place, str | bytes | os.PathLike) and not self._inside(place):
                self._broken = f"{event} {place!r}"

    def _inside(self, place: str | bytes | os.PathLike[str]) -> bool:
        return os.path.realpath(os.fsdecode(place)).startswith(self._folder + os.sep)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to eight changes of an input: a byte, a bit, a length, a stretch doubled, a number of a header."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if not content:
            break
        at = rng.randrange(len(content))
        match rng.randrange(6):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at : at + rng.randint(1, 16)]
            case 3:
                content[at:at] = content[at : at + rng.randint(1, 64)]
            case 4:
                content[at : at + 4] = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16)).to_bytes(4, "little")
            case _:
                if rng.random() < 0.2:
                    del content[at:]
    return bytes(content)


def scratch_folder() -> Path:
    """A new folder, in memory where that is possible; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="gstk-readers-", dir=memory_folder()))


def _ask(*questions: Callable[[], object]) -> None:
    for question in questions:
        try:
            question()
        except GstkError as error:
            text = str(error)
            if "\n" in text or not text.isprintable():
                raise RuleBroken(f"a message of several lines, or with control codes: {text!r}") from None


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    writing = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return writing or (isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)))


def _small_bundle(folder: Path) -> tuple[Manifest, dict[str, Path]]:
    """A manifest and files that it vouches for, as of `tiny`, but small: graphs are for the engines to read."""
    manifest = Bundle.open(builtin("tiny"), verify=False).manifest
    sources = {}
    for name in manifest.files:
        sources[name] = folder / name
        sources[name].write_bytes(b"a graph")
    sources[manifest.vectors].write_bytes(_vectors(folder / "seed.npz"))
    return manifest, sources


def _case() -> dict[str, np.ndarray]:
    image = np.random.default_rng(5).integers(0, 256, (4, 5, 6)).astype(np.uint8)
    box = {"z_min": 0, "z_max": 3, "z_mid": 1, "z_mid_x_min": 1, "z_mid_y_min": 1, "z_mid_x_max": 4, "z_mid_y_max": 3}
    lists = {"boxes": [box], "clicks": [{"fg": [[1, 2, 3]], "bg": [[3, 4, 5]]}], "clicks_order": [["fg", "bg"]]}
    arrays: dict[str, np.ndarray] = {"imgs": image, "spacing": np.array([2.0, 1.0, 1.0])}
    for name, entries in lists.items():
        arrays[name] = np.empty(len(entries), object)
        arrays[name][:] = entries
    return {**arrays, "prev_pred": np.zeros(image.shape, np.uint8), "gts": (image > 128).astype(np.uint8)}


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _archive(members: dict[str, bytes], compression: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def _nifti(folder: Path) -> list[bytes]:
    mask = _case()["gts"]
    seeds = []
    for name in ("seed.nii", "seed.nii.gz"):
        write_mask(folder / name, mask, Geometry(mask.shape, (2.0, 1.0, 1.0)))
        seeds.append((folder / name).read_bytes())
    real = bytearray(seeds[0])  # float32 with a slope, where the voxels fit
    real[70:74] = (16).to_bytes(2, "little") + (32).to_bytes(2, "little")
    real[112:120] = np.array([2.0, -1.0], "<f4").tobytes()
    return [*seeds, bytes(real[:352]) + np.ones(mask.size, "<f4").tobytes()]


def _vectors(file: Path) -> bytes:
    from gstk.export.vectors import save_vectors

    image, coords = np.zeros((1, 1, 4, 4, 4), np.float32), np.ones((1, 2, 3), np.float32)
    save_vectors(file, [(image, coords, np.ones((1, 2), np.int64))], [np.zeros((1, 1, 4, 4, 4), np.float32)])
    return file.read_bytes()


def _latency_model() -> bytes:
    from gstk.calibration import Host, LatencyModel
    from gstk.calibration.model import Fit

    host = Host("cpu", 2, 2**34, "cpu", "openvino", "1", "fp32", "")
    fits = {name: Fit((0.01, 4.0), 1.2, 0.05) for name in ("encode", "first_encode")}
    fits |= {name: Fit((0.01, 0.0, 0.0, 0.5, 0.0), 1.2, 0.05) for name in ("decode", "first_decode")}
    model = LatencyModel("a", "0" * 64, host, fits, 0.5, 1.0, 10**8, 2000.0, 128**3, "2026-01-01T00:00:00+00:00")
    return json.dumps(model.to_json()).encode()


def _dicom(folder: Path) -> list[bytes]:
    """Three slices in a folder, of which the one in the middle is mutated: plain, or said to be RLE or JPEG."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir()
    for k in range(3):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.{k + 1}"
        data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, f"1.2.{k + 1}", "1.2.3"
        data.Modality, data.PixelSpacing, data.ImageOrientationPatient = "CT", [1, 1], [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient, data.InstanceNumber = [0, 0, 2 * k], k
        data.RescaleSlope, data.RescaleIntercept, data.SamplesPerPixel = 1, -1024, 1
        data.PhotometricInterpretation, data.Rows, data.Columns = "MONOCHROME2", 5, 6
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PixelData = np.full((5, 6), 1000 + k, np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{k}.dcm", data, enforce_file_format=True)
    plain = (folder / "1.dcm").read_bytes()
    packed = plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1)  # says that its pixels are packed
    other = plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.70", 1)[: len(plain)]
    return [plain, packed, other]
