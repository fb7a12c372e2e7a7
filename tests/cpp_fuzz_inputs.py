"""Valid files of each kind that the C++ readers take, as a fuzzer's first inputs: FOLDER gets one a kind."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from cpp_nifti import nifti_bytes

ROOT = Path(__file__).resolve().parents[1]


def write_inputs(folder: Path) -> None:
    """The first byte of each is its kind, in the order of `cpp/tests/fuzz.cpp`."""
    folder.mkdir(exist_ok=True)
    image = np.random.default_rng(5).integers(0, 256, (4, 5, 6)).astype(np.uint8)
    whole = nifti_bytes(image.astype(np.int16), second=False)
    with tempfile.TemporaryDirectory() as scratch:
        archive, array = Path(scratch) / "small.npz", Path(scratch) / "array.npy"
        np.savez_compressed(archive, imgs=image, spacing=np.ones(3))
        np.save(array, np.asfortranarray(image.astype(">f2")))
        manifest = (ROOT / "toolkit" / "bundles" / "tiny" / "manifest.json").read_bytes()
        samples = [
            manifest,
            array.read_bytes(),
            whole[:348],
            archive.read_bytes(),
            whole,
            gzip.compress(whole, mtime=0),
        ]
        samples.append(_of_empty_files(manifest))
        np.savez(archive, imgs=np.asfortranarray(image.astype(">f8")), spacing=np.ones(3), segs=image > 99)
        more = [
            (3, archive.read_bytes()),
            (4, nifti_bytes(image.astype(np.int16), second=True)),
            (4, _rich_nifti(image)),
        ]
    for index, sample in enumerate(samples):
        (folder / str(index)).write_bytes(bytes([index]) + sample)
    for number, (kind, sample) in enumerate(more):
        (folder / f"{kind}-{number}").write_bytes(bytes([kind]) + sample)


def _rich_nifti(image: np.ndarray) -> bytes:
    """A NIfTI-1 file with a slope, an extension, an oblique sform, another qform, and microns."""
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *image.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 16, 32)
    struct.pack_into("<8f3f", header, 76, -1, 1000, 1000, 2000, 0, 0, 0, 0, 368, 0.5, -3)
    header[123] = 3  # microns
    struct.pack_into("<hh6f", header, 252, 2, 1, 0, 0, 0.1, 5, 6, 7)
    struct.pack_into("<12f", header, 280, 800, -600, 0, 3, 600, 800, 0, -2, 0, 0, 2000, 1)
    header[344:348] = b"n+1\0"
    extension = bytes([1, 0, 0, 0]) + struct.pack("<ii", 16, 6) + b"a note\0\0"
    return bytes(header) + extension + image.astype("<f4").tobytes()


def _of_empty_files(manifest: bytes) -> bytes:
    """The manifest of a bundle whose files are empty."""
    values = json.loads(manifest)
    for file in values["files"].values():
        file |= {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    return json.dumps(values).encode()


if __name__ == "__main__":
    write_inputs(Path(sys.argv[1]))
