"""The bundle: a folder that `gstk export` writes and every engine reads. No torch, no onnx here.

    bundle/
    ├── manifest.json         what is inside, and each file's SHA-256
    ├── encoder.onnx
    └── prompt_decoder.onnx

Every file is compared with the manifest before it is used, and no path in a manifest leaves the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from gstk.core.drafts import REPLACED, draft_folder
from gstk.core.files import is_lfs_pointer, sha256_of, sync
from gstk.core.manifest import (
    GRAPH_KINDS,
    MANIFEST_NAME,
    SCHEMA,
    GraphFile,
    Manifest,
    RoiRules,
    checked_name,
)
from gstk.errors import BundleError

__all__ = [
    "GRAPH_KINDS",
    "MANIFEST_NAME",
    "SCHEMA",
    "Bundle",
    "GraphFile",
    "Manifest",
    "RoiRules",
    "builtin",
    "builtin_names",
    "find_bundle",
    "refuse_existing",
    "write_bundle",
]

_MANIFEST_LIMIT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read and whose files were checked.

    Attributes:
        path: the folder, resolved.
        manifest: see `Manifest`.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> Bundle:
        """Reads a bundle and checks it.

        Args:
            path: the folder.
            verify: compare every file's size and SHA-256 with the manifest. Without it a file need only be there.

        Raises:
            BundleError: not a bundle, of an unknown schema, incomplete, altered, or naming a path outside of itself.
        """
        root = Path(path)
        if not root.is_dir():
            what = "a file" if root.exists() else "nothing there"
            raise BundleError(f"got {root} ({what}), expected a bundle folder; write one with `gstk export`")
        root = root.resolve()
        manifest = _read_manifest(root)
        for name, expected in manifest.files.items():
            file = _confined(root, name)
            if verify:
                _verify(file, name, expected)
        return cls(root, manifest)

    def graph(self, kind: str, precision: str = "fp32") -> Path:
        """Path of a graph.

        Args:
            kind: `encoder` or `prompt_decoder`.
            precision: `fp32`, or another that the bundle holds.

        Raises:
            BundleError: the bundle holds no such graph.
        """
        precisions = self.manifest.graphs.get(kind)
        if precisions is None:
            raise BundleError(f"got graph kind {kind!r}, expected one of {', '.join(self.manifest.graphs)}")
        if precision not in precisions:
            raise BundleError(
                f"got precision {precision!r}, but bundle {self.manifest.name!r} holds its {kind} in "
                f"{', '.join(precisions)}; choose one of these, or export the other"
            )
        return _confined(self.path, precisions[precision])

    @property
    def sha256(self) -> str:
        """One hash of all files in the manifest; caches for a bundle are named by it."""
        files = {name: file.sha256 for name, file in self.manifest.files.items()}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files in the manifest."""
        return sum(file.size_bytes for file in self.manifest.files.values())


def builtin(name: str) -> Path:
    """Folder of a bundle that ships inside the package, such as `tiny`.

    Raises:
        BundleError: no bundle of that name ships with this gstk.
    """
    names = builtin_names()
    if name not in names:
        raise BundleError(
            f"got {name!r}, expected a bundle folder or a built-in name ({', '.join(names) or 'none ships here'}); "
            "write a bundle with `gstk export`"
        )
    return _shelf() / name


def builtin_names() -> list[str]:
    """Names of the bundles that ship inside the package."""
    shelf = _shelf()
    return sorted(path.name for path in shelf.iterdir() if (path / MANIFEST_NAME).is_file()) if shelf.is_dir() else []


def _shelf() -> Path:
    return Path(str(resources.files("gstk"))) / "bundles"


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Folder of a bundle given by path or by built-in name; a bundle folder of that path goes before the name.

    Raises:
        BundleError: neither an existing path nor a built-in name.
    """
    path = Path(name_or_path)
    if (path / MANIFEST_NAME).is_file():
        return path
    try:
        return builtin(os.fspath(name_or_path))
    except BundleError:
        if path.exists():
            return path
        raise


def write_bundle(
    target: str | os.PathLike[str],
    manifest: Manifest,
    sources: Mapping[str, Path],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle whole or not at all.

    Args:
        target: the folder to write.
        manifest: everything but `files`, which is computed here.
        sources: name in the bundle → file to put there (hard-linked where the file system allows, else copied).
        overwrite: replace an existing bundle. A folder that is no bundle is never replaced.

    Raises:
        BundleError: the target exists, or the manifest does not describe the files.
        OSError: the disk is full or not writable; the target is then as it was.
    """
    target = Path(os.path.abspath(target))
    refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft_folder(target.parent) as folder:
        draft = folder / target.name
        draft.mkdir()
        for name, source in sources.items():
            file = draft / checked_name(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, file)
            except OSError:
                shutil.copyfile(source, file)
        files = {name: GraphFile(sha256_of(draft / name), (draft / name).stat().st_size) for name in sources}
        content = _to_json(replace(manifest, files=files))
        (draft / MANIFEST_NAME).write_text(content + "\n", encoding="utf-8")
        Bundle.open(draft, verify=False)
        for file in sorted(draft.rglob("*")):
            sync(file)
        _put(draft, target)
    return Bundle.open(target, verify=False)


def refuse_existing(target: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises if `write_bundle` may not write to a path, so that a long export fails before it starts.

    Raises:
        BundleError: the target exists and `overwrite` is False, or it is no bundle.
    """
    path = Path(target)
    if not os.path.lexists(path):
        return
    is_bundle = not path.is_symlink() and (path / MANIFEST_NAME).is_file()
    if not is_bundle:
        raise BundleError(f"{path} exists and is no bundle, so it is never replaced; choose another output")
    if not overwrite:
        raise BundleError(f"{path} exists; choose another output, or pass --overwrite to replace it")


def _to_json(manifest: Manifest) -> str:
    try:
        return json.dumps(manifest.to_json(), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest of {manifest.name!r} cannot be written as JSON ({error})") from None


def _put(draft: Path, target: Path) -> None:
    """Renames the draft to the target. An old bundle is moved aside first, and back if that fails."""
    if not target.exists():
        draft.rename(target)
        return
    old = draft.parent / REPLACED / target.name  # from where it is put back should this process be killed now
    old.parent.mkdir()
    target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        old.rename(target)
        raise


def _read_manifest(root: Path) -> Manifest:
    file = _confined(root, MANIFEST_NAME)
    if file.stat().st_size > _MANIFEST_LIMIT_BYTES:
        raise BundleError(f"got a manifest of {file.stat().st_size} bytes in {root}, expected a few kilobytes")
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise BundleError(f"{file} is not JSON ({error}); export the bundle again") from None
    return Manifest.from_json(values)


def _confined(root: Path, name: str) -> Path:
    """The file of that name, which must be inside the resolved root also after links are followed."""
    try:
        file = (root / name).resolve(strict=True)
    except (OSError, RuntimeError):
        raise BundleError(f"bundle {root} lacks {name}; copy it whole, or export it again") from None
    if not file.is_relative_to(root):
        raise BundleError(f"{name} in bundle {root} leads outside of it to {file}; replace the link by the file")
    if not file.is_file():
        raise BundleError(f"{name} in bundle {root} is no file; export the bundle again")
    return file


def _verify(file: Path, name: str, expected: GraphFile) -> None:
    if is_lfs_pointer(file):
        raise BundleError(f"{name} is a Git LFS pointer, not the file itself; run git lfs pull in {file.parent}")
    size_bytes = file.stat().st_size
    if size_bytes != expected.size_bytes:
        raise BundleError(
            f"{name} has {size_bytes} bytes, the manifest says {expected.size_bytes}: altered or cut short; "
            "copy the bundle again"
        )
    digest = sha256_of(file)
    if digest != expected.sha256:
        raise BundleError(
            f"{name} has SHA-256 {digest[:12]}..., the manifest says {expected.sha256[:12]}...: altered; "
            "copy the bundle again"
        )
