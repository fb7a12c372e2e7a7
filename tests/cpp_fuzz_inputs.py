"""Valid files of each kind that the C++ readers take, as a fuzzer's first inputs: FOLDER gets one a kind."""

from __future__ import annotations

import gzip
import hashlib
import json
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
    for index, sample in enumerate(samples):
        (folder / str(index)).write_bytes(bytes([index]) + sample)


def _of_empty_files(manifest: bytes) -> bytes:
    """The manifest of a bundle whose files are empty."""
    values = json.loads(manifest)
    for file in values["files"].values():
        file |= {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    return json.dumps(values).encode()


if __name__ == "__main__":
    write_inputs(Path(sys.argv[1]))
