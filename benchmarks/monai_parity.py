"""Masks of gstk beside those of NVIDIA's own pipeline, made of MONAI's modules around the unsplit network; writes JSON.

    python benchmarks/monai_parity.py --raw DIR --cases DIR [--network small|full] [--work DIR] [--out FILE]

`--raw` holds CT and MR volumes as NIfTI, NRRD or folders of DICOM, `--cases` `.npz` cases of the challenge. Weights are
random and balanced (`random_weights.py`): the small network has a patch of 64³, the full-size one is `vista3d132` with
128³. The full-size one takes fewer volumes, fewer clicks and parts of volumes for classes, and half an hour on 2 cores;
bundles in `--work` are made once.

Clicks: volumes as they are, and some with other headers (oblique, RAS, LPS, every second slice, a small part), one
click each in the middle, near an edge and near a corner; of several candidates those that the network's mask holds,
since NVIDIA's pipeline gives nothing for others. Classes: logits of one patch, "everything" on the CT volumes, and the
largest class corrected by a click on it and one beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from monai.transforms import LoadImage
from numpy.typing import NDArray
from parity_inputs import Input, candidates, class_inputs, inputs_of, is_ct
from random_weights import CLASSES_SHARE, POINTS_SHARE, write_checkpoint
from rich.console import Console
from scipy.ndimage import binary_dilation, binary_erosion

import gstk
from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile, find_profile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.window import WindowPolicy
from gstk.engines import open_engine
from gstk.engines.base import BundleEngine
from gstk.session.session import Session
from gstk.training.bundle_reference import BundlePipeline
from gstk.training.spec import VISTA3DSpec

PATCH = {"small": 64, "full": 128}
SPECS = {"small": VISTA3DSpec(width=8, blocks_down=(1, 1, 1)), "full": VISTA3DSpec()}
BORDER_VOXELS = 1
NEAR_SHARE = {"small": 1.0, "full": 0.3}
"""Least share of the voxels around a click that a mask has to hold; masks of the full-size random weights are rough."""


def profile_for(name: str, network: str) -> InputProfile:
    return replace(find_profile(name), patch=(PATCH[network],) * 3)


class Remembering(torch.nn.Module):
    """An image encoder that answers again what it was asked before: clicks in one window are encoded once."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._answers: dict[Any, Any] = {}

    def forward(self, image: torch.Tensor, **branches: bool) -> Any:
        key = (hash(image.cpu().numpy().tobytes()), tuple(sorted(branches.items())))
        if key not in self._answers:
            self._answers = {key: self.encoder(image, **branches)}
        return self._answers[key]


def near(click: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(max(0, i - 1), min(n, i + 2)) for i, n in zip(click, shape, strict=True))


def agreement(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> dict[str, Any]:
    """Where two masks differ: at their borders, where a rounding decides, or elsewhere."""
    different = ours != theirs
    rim = binary_dilation(theirs, iterations=BORDER_VOXELS) & ~binary_erosion(theirs, iterations=BORDER_VOXELS)
    return {
        "voxels": int(ours.size),
        "different": int(different.sum()),
        "at_the_border": int((different & rim).sum()),
        "agreement": 1 - float(different.mean()),
        "foreground": float(theirs.mean()),
    }


def session_of(engine: BundleEngine, profile: InputProfile) -> Session:
    policy = WindowPolicy(int(np.prod(profile.patch)), engine.bundle.manifest.roi.multiple, 32, adapts=False)
    return Session(engine, policy, profile=profile, owns_engine=False)


def reading(path: Path) -> dict[str, Any]:
    """How far the voxels and axes that gstk reads are from those that MONAI's own reader gives."""
    volume = gstk.read_volume(path)
    theirs = LoadImage(image_only=True, ensure_channel_first=True)(str(path))
    affine = np.diag([-1.0, -1, 1, 1]) @ _lps_affine(volume.geometry)
    same_shape = tuple(theirs.shape[1:]) == volume.image.shape[::-1]
    return {
        "same_shape": same_shape,
        "largest_value": float(np.abs(theirs.numpy()[0].T - volume.image).max()) if same_shape else None,
        "largest_affine": float(np.abs(theirs.affine.numpy() - affine).max()),
    }


def _lps_affine(geometry: Geometry) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm[::-1]
    affine[:3, 3] = geometry.origin_mm
    return affine


def compare_clicks(
    network: Any,
    network_name: str,
    engine: BundleEngine,
    profile: InputProfile,
    inputs: Iterator[Input],
    console: Console,
) -> list[dict[str, Any]]:
    rows = []
    for given in inputs:
        rng = np.random.default_rng(3)
        pipeline = BundlePipeline(network, profile, given.volume, given.assume_window)
        with session_of(engine, profile) as session:
            session.set_image(given.volume, assume_window=given.assume_window)
            places = candidates(given.volume.image.shape, rng)
            if network_name == "full" and (rows or profile.name != "challenge"):  # of the first, clicks share a window
                places = {"middle": places["middle"]}
            for place, clicks in places.items():
                for click in clicks:
                    session.reset()
                    session.add_point(click)
                    ours = session.mask > 0
                    if ours[near(click, ours.shape)].mean() < NEAR_SHARE[network_name]:
                        continue  # the network's mask does not hold the click, and NVIDIA's pipeline gives nothing
                    theirs = pipeline.points(ObjectPrompts((Point(click),)))
                    if theirs[click]:
                        found = agreement(ours, theirs)
                        rows.append({"volume": given.name, "place": place, "click": click, **found})
                        console.print(profile.name, given.name, place, click, found, soft_wrap=True)
                        break
                else:
                    rows.append({"volume": given.name, "place": place, "click": None})
    return rows


def compare_classes(
    network: Any, engine: BundleEngine, profile: InputProfile, inputs: Iterator[Input], console: Console
) -> list[dict[str, Any]]:
    ids = profile.classes.expand(["everything"])
    vectors = engine.class_vectors()[list(ids)]
    rows: list[dict[str, Any]] = []
    for given in inputs:
        pipeline = BundlePipeline(network, profile, given.volume, given.assume_window)
        source = NetworkImage.prepare(given.volume, profile)
        window = source.training_window([n // 2 for n in given.volume.image.shape])
        assert window is not None
        patch = source.sample(window)
        with torch.no_grad():
            expected = network(torch.from_numpy(patch), class_vector=torch.tensor(ids)[:, None])[:, 0].numpy()
        features = engine.class_features(patch)
        logits = (vectors @ features.reshape(len(features), -1)).reshape(expected.shape)
        error, largest_logit = (float(np.abs(values).max()) for values in (logits - expected, expected))
        del features, logits, expected
        automatic = pipeline.class_logits(ids)
        with session_of(engine, profile) as session:
            session.set_image(given.volume)
            began = time.perf_counter()
            ours = session.segment_classes(["everything"])
            everything_s = time.perf_counter() - began
            theirs = pipeline.labels(automatic, ids)
            shares = [float((theirs == k).mean()) for k in ids]
            largest = ids[int(np.argmax([float((automatic[0, i] > 0).float().mean()) for i in range(len(ids))]))]
            row: dict[str, Any] = {
                "volume": given.name,
                "largest_logit_error": error,
                "largest_logit": largest_logit,
                "agreement": float((ours == theirs).mean()),
                "foreground": float((theirs > 0).mean()),
                "classes_present": int(sum(share > 0 for share in shares)),
                "first_s": everything_s,
                "corrections": [],
            }
            logits_of = automatic[:, [ids.index(largest)]].clone()
            del automatic
            began = time.perf_counter()
            session.add_class(largest)
            row["second_s"] = time.perf_counter() - began
            before = session.mask == largest
            class_mask = pipeline.labels(logits_of, [largest]) == largest
            row["class"] = {"id": largest, **agreement(before, class_mask)}
            for inside in (False, True):
                own = binary_erosion(class_mask if inside else ~class_mask, iterations=2)
                own &= given.volume.image > 0  # beyond the body, MONAI fails at clicks
                where = np.argwhere(own[4:-4, 4:-4, 4:-4]) + 4
                if not len(where):
                    continue
                z, y, x = (int(i) for i in where[len(where) // 2])
                prompts = ObjectPrompts((Point((z, y, x), not inside),))
                corrected = pipeline.points(prompts, largest, logits_of.clone())
                corrected[z, y, x] = not inside  # a clicked voxel is what it was clicked as
                session.add_point((z, y, x), foreground=not inside, object_id=largest)
                found = agreement(session.mask == largest, corrected)
                found["changed"] = int((corrected != class_mask).sum())
                row["corrections"].append({"click": (z, y, x), "foreground_click": not inside, **found})
                session.undo()
        console.print(row, soft_wrap=True)
        rows.append(row)
    return rows


def prepared_bundle(work: Path, network: str, raw: Path, console: Console) -> Path:
    """The checkpoint and the bundle of a network in a folder, made where they are not there."""
    from gstk.export.export import export_bundle

    checkpoint, bundle = work / f"{network}.pt", work / f"{network}_fp32"
    profile = profile_for("nv-segment-ct", network)
    if not checkpoint.is_file():
        path = next(path for path in sorted(raw.iterdir()) if ".nii" in path.name and is_ct(gstk.read_volume(path)))
        source = NetworkImage.prepare(gstk.read_volume(path), profile)
        window = source.training_window([n // 2 for n in source.volume.shape])
        assert window is not None
        shares = write_checkpoint(
            checkpoint, SPECS[network], source.sample(window), profile.classes.expand(["everything"])
        )
        console.print("foreground of the balanced weights", shares)
    if not bundle.is_dir():
        export_bundle(checkpoint, bundle, profile=profile, on_progress=console.print)
    return bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--network", choices=list(SPECS), default="small")
    parser.add_argument("--parts", nargs="+", default=["clicks", "classes"])
    parser.add_argument("--profiles", nargs="+", default=["challenge", "nv-segment-ct"], help="of the clicks")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and bundles, made once")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "monai_parity.json")
    arguments = parser.parse_args()
    from gstk.training.checkpoint import load_network

    console = Console(stderr=True)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        name = arguments.network
        bundle = prepared_bundle(work, name, arguments.raw, console)
        network = load_network(work / f"{name}.pt").eval()
        network.image_encoder = Remembering(network.image_encoder)
        report: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        own = report.setdefault(name, {})
        own |= {"machine": describe("torch", "monai", "openvino"), "patch": PATCH[name]}
        own |= {"points_share": POINTS_SHARE, "classes_share": CLASSES_SHARE}
        with open_engine(bundle, "openvino", "fp32", torch.get_num_threads()) as engine:
            if "clicks" in arguments.parts:
                own["reading"] = {
                    p.name: reading(p) for p in sorted(arguments.raw.iterdir()) if p.is_dir() or ".nii" in p.name
                }
                for profile in arguments.profiles:
                    inputs = inputs_of(arguments.raw, arguments.cases, name, profile, Path(folder))
                    rows = compare_clicks(network, name, engine, profile_for(profile, name), inputs, console)
                    own[f"clicks {profile}"] = summary(rows)
                    write(report, arguments.out)
            if "classes" in arguments.parts:
                profile_ct = profile_for("nv-segment-ct", name)
                inputs = class_inputs(arguments.raw, name)
                own["classes"] = compare_classes(network, engine, profile_ct, inputs, console)
                write(report, arguments.out)


def write(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    compared = [row for row in rows if row["click"] is not None]
    voxels, different = (sum(row[key] for row in compared) for key in ("voxels", "different"))
    return {
        "clicks": len(compared),
        "without_a_mask_at_the_click": len(rows) - len(compared),
        "agreement_over_all": 1 - different / voxels if compared else None,
        "least_agreement": min((row["agreement"] for row in compared), default=None),
        "different_at_the_border": sum(row["at_the_border"] for row in compared) / max(1, different),
        "median_foreground": float(np.median([row["foreground"] for row in compared])) if compared else None,
        "rows": list(rows),
    }


if __name__ == "__main__":
    main()
