"""Checkpoints: gstk's own carry their architecture, others are read too, and none of them can run code.

Ours is `{"gstk": 1, "architecture": {...}, "model": state dict, ...}`, or the same in the string metadata of a
safetensors file. Read as well: a bare state dict (the official VISTA3D weights are one), `{"model": ...}`,
`{"state_dict": ...}`, names behind `module.` or `network.`, safetensors of anyone.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets.vista3d import VISTA3D
from torch import Tensor, nn

from gstk.core.files import atomic_path, is_lfs_pointer, make_folder
from gstk.core.foreign_text import reason_of
from gstk.errors import CheckpointError
from gstk.training.network import build_network
from gstk.training.spec import VISTA3DSpec

__all__ = ["load_checkpoint", "load_extra", "load_network", "save_checkpoint"]

_FORMAT = 1
_MAX_LEVELS = 8
_RESERVED = ("gstk", "architecture", "model")
_WRAPPERS = ("model", "state_dict", "model_state_dict", "network")
_PREFIXES = ("module.", "network.", "model.", "_orig_mod.")
_REMEDY = "give a checkpoint of MONAI's VISTA3D (vista3d132), or one of gstk train"
_OPTIONAL = ("image_encoder.up_layers_auto.", "class_head.")
_BLOCK = re.compile(r"image_encoder\.encoder\.layers\.(\d{1,3})\.blocks\.(\d{1,3})\.conv1\.weight")
_PLAIN = (type(None), bool, int, float, str)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[VISTA3DSpec, dict[str, Tensor]]:
    """Reads weights and the architecture they belong to, without running anything that the file holds.

    Args:
        path: a checkpoint of gstk, or weights as described at the top of this module.

    Returns:
        The spec (from the file or, where it has none, from the weights) and the state dict on the CPU under the
        official names. The branch for automatic segmentation (`class_head`, `up_layers_auto`) may be missing from it.

    Raises:
        CheckpointError: no checkpoint, unsafe, not of VISTA3D, or not of the architecture that it states.
    """
    path = Path(path)
    payload = _read(path)
    state = _state_dict(payload, path)
    inferred = _infer_spec(state, path)
    spec = inferred
    if "architecture" in payload:
        spec = _stated_spec(payload["architecture"], path)
        _require_same(spec, inferred, path)
    _check_keys(spec, state, path)
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{len(broken)} tensors of {path} hold NaN or infinity (first: {broken[0]})")
    return spec, state


def load_network(path: str | os.PathLike[str], spec: VISTA3DSpec | None = None) -> VISTA3D:
    """Builds the network of a checkpoint and loads its weights, as float32 on the CPU, in training mode.

    Args:
        path: see `load_checkpoint`.
        spec: the architecture to insist on; None takes the checkpoint's.

    Raises:
        CheckpointError: see `load_checkpoint`; also when the checkpoint is not of `spec`.
    """
    found, state = load_checkpoint(path)
    if spec is not None:
        _require_same(spec, found, Path(path))
    network = build_network(spec or found)
    network.load_state_dict(state, strict=False)
    return network


def load_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_checkpoint` was given as `extra`; empty for weights of others.

    Raises:
        CheckpointError: no checkpoint, or unsafe.
    """
    payload = _read(Path(path))
    return {k: v for k, v in payload.items() if k not in _RESERVED} if "gstk" in payload else {}


def save_checkpoint(
    path: str | os.PathLike[str],
    network: nn.Module,
    spec: VISTA3DSpec,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint whole or not at all.

    Args:
        path: the file; `.safetensors` writes that format, anything else torch's.
        network: a VISTA3D network, possibly inside DistributedDataParallel; its weights are stored in their dtype.
        spec: its architecture.
        extra: plain values, containers of them, and (torch's format only) tensors, such as an optimizer's state.

    Raises:
        CheckpointError: `extra` holds what could not be read back safely, or takes a reserved name.
        OutputError: the file cannot be written; an older one is then as it was.
    """
    path = Path(path)
    extra = dict(extra or {})
    taken = sorted(set(extra) & set(_RESERVED))
    if taken:
        raise CheckpointError(f"got extra fields {taken}, which the checkpoint itself uses; choose other names")
    state = _strip_prefixes({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    _check_keys(spec, state, path)
    make_folder(path.parent)
    with atomic_path(path) as draft:
        if path.suffix == ".safetensors":
            metadata = {"gstk": str(_FORMAT), "architecture": json.dumps(spec.to_dict())}
            for name, value in extra.items():
                _require_plain(value, name, tensors=False)
                metadata[name] = json.dumps(value)
            _safetensors().torch.save_file(state, draft, metadata=metadata)
        else:
            _require_plain(extra, "extra", tensors=True)
            torch.save({"gstk": _FORMAT, "architecture": spec.to_dict(), "model": state, **extra}, draft)


def _read(path: Path) -> dict[str, Any]:
    """The file as a dict; safetensors becomes `{"model": tensors, **metadata}` when it is ours."""
    if not path.is_file():
        raise CheckpointError(f"got {path}, expected a checkpoint file (.pt, .pth or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle protocol; what cannot be read raises
            with torch.serialization.safe_globals(_numpy_scalars()):
                payload = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a file of anyone: whatever its reader raises, it is no checkpoint
        raise CheckpointError(f"{path} cannot be read as weights: {_what_is_wrong(path, error)}") from None
    if not isinstance(payload, Mapping):
        raise CheckpointError(f"got a {type(payload).__name__} in {path}, expected a state dict or a dict with one")
    return dict(payload)


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number is made of, under the names of NumPy 1 and 2: a type and bytes, no code."""
    import numpy as np

    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    types = (np.dtypes.BoolDType, np.dtypes.StrDType, *(type(np.dtype(code)) for code in "bhilqBHILQefd"))
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *types]


def _what_is_wrong(path: Path, error: Exception) -> str:
    """The error in gstk's own words: torch's message advises to run the file's code."""
    if is_lfs_pointer(path):
        return "it is a Git LFS pointer, not the file itself; run git lfs pull"
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign is not None:
        return (
            f"it holds {foreign[1]} beside tensors and plain values, and pickled code is never run; save the state "
            "dict alone: torch.save(network.state_dict(), FILE)"
        )
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    what = "" if isinstance(error, pickle.UnpicklingError) else f" ({reason_of(error, 160)})"
    return f"it is damaged, or no file of torch.save{what}; expected tensors and plain values"


def _read_safetensors(path: Path) -> dict[str, Any]:
    with _safetensors().safe_open(path, framework="pt", device="cpu") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = file.metadata() or {}
    if "gstk" not in metadata:
        return state
    return {"model": state, **{name: json.loads(value) for name, value in metadata.items()}}


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise CheckpointError('.safetensors needs the safetensors package; pip install "gstk[train]"') from None
    return safetensors


def _state_dict(payload: dict[str, Any], path: Path) -> dict[str, Tensor]:
    state: Mapping[Any, Any] = payload
    for wrapper in _WRAPPERS:
        if isinstance(payload.get(wrapper), Mapping):
            state = payload[wrapper]
            break
    strange = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange or not state:
        what = f"{len(strange)} entries that are no tensors (first: {strange[0]!r})" if strange else "no tensors"
        raise CheckpointError(f"got {what} in {path}, expected a state dict of VISTA3D")
    return _strip_prefixes(state)


def _strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _infer_spec(state: Mapping[str, Tensor], path: Path) -> VISTA3DSpec:
    """What the weights' names and shapes imply; `last_supported` and `heads` leave no trace in them."""
    first = state.get("image_encoder.encoder.conv_init.weight")
    classes = state.get("point_head.class_embeddings.weight")
    if first is None or first.ndim != 5 or classes is None or classes.ndim != 2:
        missing = "image_encoder.encoder.conv_init.weight and point_head.class_embeddings.weight"
        raise CheckpointError(
            f"{path} is no VISTA3D with a point head: expected {missing} among its {len(state)} tensors, "
            f"got {', '.join(list(state)[:3])}, ...; {_REMEDY}"
        )
    query = state.get("point_head.transformer.final_attn_token_to_image.q_proj.weight")
    compared = query.shape[0] if query is not None and query.ndim == 2 else 0
    blocks = Counter(int(match[1]) for match in map(_BLOCK.fullmatch, state) if match)
    if sorted(blocks) != list(range(len(blocks))) or len(blocks) > _MAX_LEVELS:
        raise CheckpointError(
            f"{path} has encoder levels {sorted(blocks)[:10]}, expected 0, 1, 2, ... and at most {_MAX_LEVELS}"
        )
    return VISTA3DSpec(
        width=classes.shape[1],
        filters=first.shape[0],
        in_channels=first.shape[1],
        blocks_down=tuple(blocks[level] for level in range(len(blocks))),
        n_classes=classes.shape[0],
        attention_downsample=classes.shape[1] // compared if compared else 2,
    )


def _stated_spec(architecture: object, path: Path) -> VISTA3DSpec:
    if not isinstance(architecture, Mapping):
        raise CheckpointError(f"got architecture {str(architecture)[:80]!r} in {path}, expected a dict of its fields")
    return VISTA3DSpec.from_dict(architecture)


def _require_same(expected: VISTA3DSpec, found: VISTA3DSpec, path: Path) -> None:
    for name in ("width", "filters", "blocks_down", "in_channels", "n_classes", "attention_downsample"):
        want, got = getattr(expected, name), getattr(found, name)
        if want != got:
            raise CheckpointError(f"the weights of {path} have {name} {got}, expected {want} as the architecture says")


def _check_keys(spec: VISTA3DSpec, state: Mapping[str, Tensor], path: Path) -> None:
    """Compares names and shapes with those of the network, built without memory on torch's meta device."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build_network(spec).state_dict().items()}
    # A branch is there or not: half of it would be filled up with random weights.
    left_out = tuple(prefix for prefix in _OPTIONAL if not any(name.startswith(prefix) for name in state))
    missing = [name for name in expected if name not in state and not name.startswith(left_out)]
    unexpected = [name for name in state if name not in expected]
    misshaped = [
        f"{name} {tuple(state[name].shape)} for {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"the weights of {path} are not those of VISTA3D {spec.to_dict()}: {'; '.join(faults)}; {_REMEDY}"
        )


def _require_plain(value: object, name: str, *, tensors: bool) -> None:
    """Refuses what `weights_only` (or JSON) would not read back. NumPy's float64 is a float too, hence exact types."""
    if type(value) in _PLAIN or (tensors and type(value) in (Tensor, nn.Parameter)):
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():  # type: ignore[attr-defined]
            _require_plain(key, name, tensors=False)
            _require_plain(item, f"{name}.{key}", tensors=tensors)
    elif type(value) in (list, tuple):
        for item in value:  # type: ignore[attr-defined]
            _require_plain(item, name, tensors=tensors)
    else:
        allowed = "None, bool, int, float, str, list, tuple, dict" + (" and tensors" if tensors else "")
        raise CheckpointError(f"got a {type(value).__module__}.{type(value).__name__} in {name}, expected {allowed}")
