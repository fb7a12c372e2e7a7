"""What every engine has to do, asked of one that is open: used by `gpu_check.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gstk.errors import EngineError
from gstk.export.tolerances import Tolerance, compare
from gstk.export.vectors import ClassVector, Vector, load_vectors

__all__ = ["conformance"]


def conformance(engine: Any, side: int, tolerance: Tolerance) -> dict[str, str]:
    """What every engine has to do, on this device: check → `ok`, or what was wrong."""
    rng = np.random.default_rng(0)
    region = (side, side, side)
    image = rng.random((1, 1, *region), dtype=np.float32)
    coords = rng.integers(0, side, (5, 3, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (5, 3))
    labels[:, 0] = 1
    embedding = engine.encode(image)
    largest = float(np.abs(engine.decode(embedding, coords[:1], labels[:1])).max())
    allowed = tolerance.error(largest)

    def near(one: np.ndarray, two: np.ndarray, what: str) -> None:
        error = float(np.abs(one - two).max())
        if not error <= allowed:
            raise AssertionError(f"{what}: {error:.2e} apart, allowed {allowed:.1e}")

    def class_logits(vector: ClassVector) -> np.ndarray:
        features = engine.class_features(vector.image)
        return engine.class_vectors()[vector.ids] @ features.reshape(len(features), -1)

    def compare_vector(vector: Vector | ClassVector, run: Callable[[], np.ndarray]) -> None:
        try:
            logits = run()
        except EngineError as error:
            if "as the plans were built" in str(error):
                return
            raise
        limit = tolerance.error(float(np.abs(vector.logits).max()))
        found = compare(logits.reshape(len(logits), -1)[:, vector.voxels], vector.logits, limit)
        if found["max_abs_error"] > limit or found["mask_agreement"] < tolerance.agreement:
            raise AssertionError(f"a region of {vector.image.shape[2:]}: {found}, allowed {limit:.1e}")

    def vectors() -> None:
        bundle = engine.bundle
        if not bundle.manifest.vectors:
            raise AssertionError("the bundle has none; export it again")
        vectors, of_classes = load_vectors(bundle.path / bundle.manifest.vectors)
        for vector in vectors:
            compare_vector(vector, lambda v=vector: engine.decode(engine.encode(v.image), v.coords, v.labels))
        if "class_encoder" in bundle.manifest.graphs and not of_classes:
            raise AssertionError("the bundle has none for classes; export it again")
        for vector in of_classes:
            compare_vector(vector, lambda v=vector: class_logits(v))

    def objects() -> None:
        together = engine.decode(embedding, coords, labels)
        for index in range(len(coords)):
            one = engine.decode(embedding, coords[index : index + 1], labels[index : index + 1])
            near(together[index : index + 1], one, f"object {index} alone and in a group")

    def again() -> None:
        first = engine.decode(embedding, coords, labels)
        kept = first.copy()
        for _ in range(4):  # from the third on, TensorRT launches a graph
            second = engine.decode(embedding, coords, labels)
            near(first, second, "the same question twice")
        other = engine.decode(engine.encode(image[..., ::-1].copy()), coords, labels)
        if not np.array_equal(first, kept):
            raise AssertionError("a result changed after it was returned")
        if np.abs(other - first).max() <= allowed:
            raise AssertionError("two images, one answer")
        near(engine.decode(embedding, coords, labels), first, "after another image")

    def padding() -> None:
        padded = labels.copy()
        padded[:, 2] = -1
        moved = coords.copy()
        moved[:, 2] = -50
        near(engine.decode(embedding, coords, padded), engine.decode(embedding, moved, padded), "padding's coordinates")

    def threads() -> None:
        wanted, wrong = engine.decode(embedding, coords[:1], labels[:1]), []

        def click() -> None:
            for _ in range(10):
                try:
                    near(engine.decode(embedding, coords[:1], labels[:1]), wanted, "beside an encode")
                except BaseException as error:
                    wrong.append(error)

        clicking = [threading.Thread(target=click) for _ in range(2)]
        for thread in clicking:
            thread.start()
        for _ in range(5):
            engine.encode(image)
        for thread in clicking:
            thread.join()
        if wrong:
            raise wrong[0]

    def errors() -> None:
        for wrong in (np.zeros((1, 1, 3, 3, 3)), np.full((1, 1, *region), np.nan)):
            try:
                engine.encode(wrong)
            except EngineError:
                continue
            raise AssertionError("a wrong image was taken")
        engine.decode(embedding, coords[:1], labels[:1])

    def host_arrays() -> None:
        import torch

        tensor = torch.as_tensor(image, device=engine.device.id, dtype=getattr(torch, str(engine.image_dtype)))
        held = engine.encode_device(tensor)
        wanted = engine.decode(embedding, coords, labels)
        given = engine.decode_device(held, coords, labels)
        for found in (torch.as_tensor(given, device=engine.device.id), torch.from_dlpack(given)):
            near(found.float().cpu().numpy(), wanted, "torch tensors in and out")
        out = torch.empty_like(found)
        engine.decode_device(held, coords, labels, out=out)
        near(out.float().cpu().numpy(), wanted, "into a tensor of torch's")

    checks: list[Callable[[], None]] = [vectors, objects, again, padding, threads, errors]
    if engine.name == "tensorrt" and _has_torch_gpu():
        checks.append(host_arrays)
    results = {}
    for check in checks:
        try:
            check()
            results[check.__name__] = "ok"
        except Exception as error:  # the report says which check failed, and goes on
            results[check.__name__] = f"{type(error).__name__}: {error}"
    return results


def _has_torch_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
