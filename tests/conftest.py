"""Fixtures that every test may use."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_runs import Outcome, Run
from cpp_build import checked, released, say_progress  # noqa: F401
from filelock import FileLock
from hypothesis import HealthCheck, settings

# Processes that run tests side by side, and those that they start, share the cores; read where torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from gstk.cli import main

if TYPE_CHECKING:
    from monai.networks.nets.vista3d import VISTA3D

    from gstk.core.bundle import Bundle
    from gstk.training.spec import VISTA3DSpec

# The same examples in every run, on machines of any speed: what fails, fails again.
# `HYPOTHESIS_PROFILE=explore` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


OnceForAll = Callable[[str, Callable[[Path], None]], Path]
"""Name of a folder, and what fills it → the folder."""
SLOW_FIXTURES = {"small_export", "every_precision", "browser"}
"""Fixtures that export a network or start a browser; tests that use them are slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """SimpleITK's DICOM writer, which tests make series with, leaves its process in the C locale."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real cases (`cases/*.npz`) and raw volumes (`raw/*`); tests that need it skip without it."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("GSTK_SHARED_DATA", beside))
    if not (folder / "cases").is_dir():
        pytest.skip(
            f"no real data: expected cases/*.npz and raw/* in {folder} (or in the folder GSTK_SHARED_DATA names)"
        )
    return folder


@dataclass(frozen=True)
class SmallExport:
    """A small network with random weights and what `gstk export` made of it."""

    spec: VISTA3DSpec
    network: VISTA3D
    checkpoint: Path
    bundle: Bundle

    def traced(self, kind: str) -> Any:
        """The export's own trace of the encoder or prompt decoder, float32 and unfolded: a fresh model at each call.

        Tracing is most of an export's time; tests that need a graph take this one.
        """
        import onnx_ir as ir

        return ir.load(self.checkpoint.parent / f"{kind}.traced.onnx")


@pytest.fixture(scope="session")
def once_for_all(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> OnceForAll:
    """Makes a folder once for all processes that run tests: the first one fills it, the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder = base / name
        with FileLock(f"{folder}.lock"):
            if not (folder / "done").exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                (folder / "done").touch()
        return folder

    return make


@pytest.fixture(scope="session")
def small_export(once_for_all: OnceForAll) -> SmallExport:
    """Exported once for all tests, in all processes that run them; do not write to its files."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    import onnx_ir as ir
    import torch

    from gstk.core.bundle import Bundle
    from gstk.export import export as export_module
    from gstk.export.export import Options, export_bundle
    from gstk.export.onnx_writer import trace_graph
    from gstk.training.checkpoint import save_checkpoint
    from gstk.training.network import build_network
    from gstk.training.spec import VISTA3DSpec

    torch.manual_seed(7)
    spec = VISTA3DSpec(width=8, blocks_down=(2, 1, 1))  # two blocks: a sum that another reads
    network = build_network(spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # norms start at 1 and 0, which would hide a norm or bias that is left out
                parameter.normal_(0.5, 0.3)
            parameter.copy_(parameter.half())
        for buffer in network.buffers():
            buffer.copy_(buffer.half())

    def export(folder: Path) -> None:
        def trace_and_keep(graph: Any) -> Any:
            model = trace_graph(graph)
            ir.save(model, folder / f"{graph.kind}.traced.onnx")
            return model

        save_checkpoint(folder / "small.pt", network, spec, {"training": {"recipe": "none", "seed": 7}})
        options, steps = Options(half_weights=True), list[str]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_module, "trace_graph", trace_and_keep)
            export_bundle(
                folder / "small.pt",
                folder / "bundle",
                licence="CC0-1.0",
                default_roi=(32, 32, 32),
                options=options,
                on_progress=steps.append,
            )
        (folder / "steps.txt").write_text("\n".join(steps), encoding="utf-8")

    folder = once_for_all("small", export)
    return SmallExport(spec, network, folder / "small.pt", Bundle.open(folder / "bundle"))


@pytest.fixture(scope="session")
def by_class(small_export: SmallExport, once_for_all: OnceForAll) -> Bundle:
    """The small network with the graph for classes, float32 and float16; do not write to its files."""
    from gstk.core.bundle import Bundle
    from gstk.core.profile import find_profile
    from gstk.export import export as export_module
    from gstk.export.export import Options, export_bundle
    from gstk.export.onnx_writer import trace_graph
    from gstk.export.parity import ParityCase

    def traced(graph: Any) -> Any:
        return trace_graph(graph) if graph.kind == "class_encoder" else small_export.traced(graph.kind)

    def export(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_module, "default_cases", lambda _: (ParityCase((8, 8, 8), 1, 1),) * 2)
            patch.setattr(export_module, "trace_graph", traced)
            export_bundle(
                small_export.checkpoint,
                folder / "bundle",
                profile=find_profile("nv-segment-ct"),
                default_roi=(32, 32, 32),
                options=Options(fp16=True, fp16_io="fp32"),
            )

    return Bundle.open(once_for_all("by_class", export) / "bundle")


@pytest.fixture(scope="session")
def every_precision(small_export: SmallExport, once_for_all: OnceForAll) -> Bundle:
    """The small bundle with FP16 graphs and an INT8 encoder beside its own; do not write to its files."""
    pytest.importorskip("nncf")
    import numpy as np
    import onnx_ir as ir

    from gstk.core.bundle import Bundle, write_bundle
    from gstk.export.half import to_fp16_graph
    from gstk.export.int8 import quantise

    given = small_export.bundle
    images = list(np.random.default_rng(9).random((2, 1, 1, 32, 32, 32)).astype(np.float32))

    def add_precisions(folder: Path) -> None:
        sources = {name: given.path / name for name in given.manifest.files}
        graphs = {kind: dict(files) for kind, files in given.manifest.graphs.items()}

        def add(kind: str, precision: str, model: Any) -> None:
            name = f"{kind}.{precision}.onnx"
            ir.save(model, folder / name)
            sources[name] = folder / name
            graphs[kind][precision] = name

        for kind in ("encoder", "prompt_decoder"):
            model = small_export.traced(kind)
            if kind == "encoder":
                add(kind, "int8", quantise(model, images))
            to_fp16_graph(model)
            add(kind, "fp16", model)
        graphs["prompt_decoder"]["int8"] = graphs["prompt_decoder"]["fp32"]
        write_bundle(folder / "bundle", replace(given.manifest, graphs=graphs), sources)

    return Bundle.open(once_for_all("precisions", add_precisions) / "bundle")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """One cache folder for all tests that set none: the host is probed once, and the user's cache stays as it is."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GSTK_CACHE", str((base if worker_id == "master" else base.parent) / "cache"))
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    # A command's budget counts from the start of its process, which here is that of the first test.
    for name in ("gstk.session.deadline.process_age_s", "gstk.session.factory.process_age_s"):
        monkeypatch.setattr(name, lambda: 1.0)

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gstk", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
