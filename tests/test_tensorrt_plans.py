"""Building and finding TensorRT plans: what is keyed, what is refused, and that nothing half-written is left."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run
from engine_inputs import prompts, region
from fake_tensorrt import GPU, MAGIC, Fake, installed

from gstk.core.bundle import Bundle, builtin, write_bundle
from gstk.engines import open_engine
from gstk.engines.devices import Device
from gstk.engines.tensorrt_build import BuildStep, build_plans
from gstk.engines.tensorrt_layers import count_types, require_types
from gstk.engines.tensorrt_plans import find_plans, plan_folder, search_folders
from gstk.engines.tensorrt_record import BuildTarget, PlanRecord, Settings
from gstk.errors import BackendMissing, EngineError, PlanError, WrongArchitecture

pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")
SMALL: dict[str, Any] = {"regions": [(8, 8, 8)], "wide": None, "objects": 2, "points": 4}


@pytest.fixture
def fake() -> Iterator[Fake]:
    with installed() as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plans"


@pytest.fixture(scope="session")
def half_bundle(small_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with FP16 graphs."""
    import onnx_ir as ir

    from gstk.export.half import to_fp16_graph

    scratch = tmp_path_factory.mktemp("half")
    bundle = small_export.bundle
    graphs = {kind: dict(files) for kind, files in bundle.manifest.graphs.items()}
    sources = {name: bundle.path / name for name in bundle.manifest.files}
    for kind in graphs:
        model = ir.load(bundle.graph(kind))
        to_fp16_graph(model)
        name = f"{kind}.fp16.onnx"
        ir.save(model, scratch / name)
        graphs[kind]["fp16"], sources[name] = name, scratch / name
    return write_bundle(scratch / "bundle", replace(bundle.manifest, graphs=graphs), sources)


def here(fake: Fake, **changes: Any) -> BuildTarget:
    return replace(BuildTarget.here(fake.gpu, fake.module.__version__), **changes)


def test_plans_are_found_again_and_not_built_twice(fake: Fake, small_export: Any, folder: Path) -> None:
    first = build_plans(small_export.bundle, plans=folder, **SMALL)
    assert [result.built for result in first] == [True, True]
    names = sorted(file.name for file in folder.iterdir())
    assert [re.sub(r"[0-9a-f]{16}", "KEY", name) for name in names] == [
        "encoder.fp32.KEY.json",
        "encoder.fp32.KEY.plan",
        "prompt_decoder.fp32.KEY.json",
        "prompt_decoder.fp32.KEY.plan",
        "timing.KEY.cache",
    ]
    assert all(file.stat().st_mode & 0o077 == 0 for file in (folder, *folder.iterdir()))
    again = build_plans(small_export.bundle, plans=folder, **SMALL)
    assert [result.built for result in again] == [False, False]
    assert [result.plan for result in again] == [result.plan for result in first]
    assert [r.built for r in build_plans(small_export.bundle, plans=folder, rebuild=True, **SMALL)] == [True, True]
    record = first[0].plan.record
    assert PlanRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert record.host == BuildTarget("NVIDIA Fake 24GB", (8, 9), "10.13.0.35", (13, 0), "580.00", record.host.system)
    assert record.memory_bytes == (fake.scratch_bytes * 8**3,)
    # The second build knew what the first had timed.
    assert [build["cache"] for build in fake.builds] == [b"", b"t", b"tt", b"ttt"]


def test_what_is_keyed(fake: Fake, small_export: Any, folder: Path) -> None:
    record = build_plans(small_export.bundle, plans=folder, **SMALL)[0].plan.record
    host = record.host
    changed = [
        replace(record, precision="fp16"),
        replace(record, kind="prompt_decoder"),
        replace(record, graph="0" * 64),
        replace(record, profiles=replace(record.profiles, points=5)),
        replace(record, settings=Settings(level=5)),
        replace(record, host=replace(host, gpu="another")),
        replace(record, host=replace(host, tensorrt="10.13.1")),
        replace(record, host=replace(host, system="win32-amd64")),
    ]
    assert len({record.key, *(other.key for other in changed)}) == 1 + len(changed)
    # A newer driver runs what an older one built; that it is not older is compared when a plan is loaded.
    assert replace(record, host=replace(host, driver="999", cuda=(14, 0)), seconds=9).key == record.key


def test_stale_and_foreign_plans_are_refused(fake: Fake, small_export: Any, folder: Path) -> None:
    bundle = small_export.bundle
    build_plans(bundle, plans=folder, **SMALL)
    find_plans(bundle, "fp32", here(fake), [folder])
    find_plans(bundle, "fp32", here(fake, cuda=(13, 2), driver="590"), [folder])
    for changes, kind, message in (
        (
            {"gpu": "NVIDIA H100", "capability": (9, 0)},
            WrongArchitecture,
            r"NVIDIA Fake 24GB \(8\.9\), .*H100 \(9\.0\)",
        ),
        ({"gpu": "NVIDIA L4"}, WrongArchitecture, r"expected NVIDIA L4 \(8\.9\); run: gstk build"),
        ({"tensorrt": "10.14.1"}, PlanError, "for TensorRT 10.13.0.35, expected 10.14.1; run: gstk build"),
        ({"cuda": (12, 8)}, PlanError, "driver for CUDA 13.0, on one for 12.8; install the newer driver"),
        ({"system": "win32-amd64"}, PlanError, "expected win32-amd64"),
    ):
        with pytest.raises(kind, match=message):
            find_plans(bundle, "fp32", here(fake, **changes), [folder])
    files = {**bundle.manifest.files}
    name = bundle.manifest.graphs["encoder"]["fp32"]
    files[name] = replace(files[name], sha256="0" * 64)
    other = Bundle(bundle.path, replace(bundle.manifest, files=files))
    with pytest.raises(PlanError, match=r"encoder.* is stale: .* run: gstk build .* --precision fp32"):
        find_plans(other, "fp32", here(fake), [folder])
    named = Bundle(bundle.path, replace(bundle.manifest, name="another"))
    with pytest.raises(PlanError, match="got no TensorRT plans of 'another'"):
        find_plans(named, "fp32", here(fake), [folder])


@pytest.mark.parametrize(
    ("settings", "changes", "runs"),
    [
        (Settings(hardware="same-capability"), {"gpu": "NVIDIA L4"}, True),
        (Settings(hardware="same-capability"), {"gpu": "NVIDIA A100", "capability": (8, 0)}, False),
        (Settings(hardware="ampere-plus"), {"gpu": "NVIDIA H100", "capability": (9, 0)}, True),
        (Settings(hardware="ampere-plus"), {"gpu": "NVIDIA T4", "capability": (7, 5)}, False),
        (Settings(version_compatible=True), {"tensorrt": "10.16.1"}, True),
        (Settings(version_compatible=True), {"tensorrt": "11.4.0.106"}, True),
        (Settings(version_compatible=True), {"tensorrt": "10.12.0"}, False),
        (Settings(version_compatible=True), {"tensorrt": "12.0"}, False),
    ],
)
def test_what_compatible_plans_run_on(
    fake: Fake, small_export: Any, folder: Path, settings: Settings, changes: dict[str, Any], runs: bool
) -> None:
    build_plans(small_export.bundle, plans=folder, settings=settings, **SMALL)
    if runs:
        assert find_plans(small_export.bundle, "fp32", here(fake, **changes), [folder])
    else:
        with pytest.raises((PlanError, WrongArchitecture)):
            find_plans(small_export.bundle, "fp32", here(fake, **changes), [folder])


def test_altered_plan_is_refused_and_built_again(fake: Fake, small_export: Any, folder: Path) -> None:
    plan = build_plans(small_export.bundle, plans=folder, **SMALL)[1].plan
    plan.path.write_bytes(plan.path.read_bytes() + b"!")
    fake.module.Runtime = None  # type: ignore[attr-defined]  # what is refused is not shown to TensorRT
    with pytest.raises(PlanError, match="is not the plan that the file beside it describes; build it again"):
        open_engine(small_export.bundle, "tensorrt", options={"plans": folder})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 9}', b'{"schema": 1}', b"[" * 9999, b"x" * 2**21])
def test_damaged_record_is_named(fake: Fake, small_export: Any, folder: Path, content: bytes) -> None:
    plan = build_plans(small_export.bundle, plans=folder, **SMALL)[0].plan
    plan.path.with_suffix(".json").write_bytes(content)
    with pytest.raises(PlanError, match=r"encoder.*json does not describe a plan .*; remove it"):
        find_plans(small_export.bundle, "fp32", here(fake), [folder])
    assert [r.built for r in build_plans(small_export.bundle, plans=folder, **SMALL)] == [True, False]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other rights")
def test_plans_of_others_are_refused(
    fake: Fake, small_export: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build_plans(small_export.bundle, plans=folder, **SMALL)[0].plan
    for target, mode in ((folder, 0o775), (plan.path.with_suffix(".json"), 0o666), (plan.path, 0o602)):
        before = target.stat().st_mode
        target.chmod(mode)
        with pytest.raises(PlanError, match=r"can be written to by others .*a plan is a program"):
            open_engine(small_export.bundle, "tensorrt", options={"plans": folder})
        target.chmod(before)
    folder.chmod(0o777)
    with pytest.raises(PlanError, match="chmod go-w"):
        build_plans(small_export.bundle, plans=folder, **SMALL)
    folder.chmod(0o700)
    owner = folder.stat().st_uid
    monkeypatch.setattr("gstk.core.private_files._ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(PlanError, match=f"belongs to user {owner}, and a plan is a program"):
        open_engine(small_export.bundle, "tensorrt", options={"plans": folder})


def test_where_plans_lie(small_export: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = small_export.bundle
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own, cache = search_folders(bundle, None)
    assert own == bundle.path / "engines"
    assert cache.parent == tmp_path / "gstk" / "plans"
    assert plan_folder(bundle, None) == own
    assert plan_folder(bundle, tmp_path / "x") == tmp_path / "x"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert plan_folder(bundle, None) == cache
    monkeypatch.undo()
    tiny = Bundle.open(builtin("tiny"), verify=False)
    assert plan_folder(tiny, None) == search_folders(tiny, None)[1]  # an installed package is left as it is


@pytest.mark.parametrize("version", ["10.12.0.36", "11.4.0.106"])
def test_settings_reach_tensorrt(small_export: Any, folder: Path, version: str) -> None:
    with installed(version) as fake:
        settings = Settings(5, 512, "ampere-plus", version_compatible=True, stripped=True, tf32=True)
        build_plans(small_export.bundle, plans=folder / "a", settings=settings, **SMALL)
        build_plans(small_export.bundle, plans=folder / "b", **SMALL)
        told, plain = fake.builds[0], fake.builds[-1]
        assert (told["level"], told["WORKSPACE"], told["hardware"]) == (5, 512 * 2**20, "AMPERE_PLUS")
        assert told["flags"] == ["REFIT_IDENTICAL", "STRIP_PLAN", "TF32", "VERSION_COMPATIBLE"]
        assert (plain["level"], plain["hardware"], plain["flags"]) == (3, "NONE", [])
        assert "WORKSPACE" not in plain
        assert plain["aux_streams"] == 0
        assert plain["RUNTIME_ACTIVATION_RESIZE_10_10"] is True
        assert plain["profiles"][0]["point_coords"] == ((1, 1, 3), (1, 4, 3), (2, 4, 3))
        # Weights come back from the bundle, and code in the plan is allowed because it says so.
        with open_engine(small_export.bundle, "tensorrt", options={"plans": folder / "a"}) as engine:
            found = engine.decode(engine.encode(region((8, 8, 8))), *prompts((8, 8, 8), 1, 1))
        with open_engine(small_export.bundle, "onnxruntime") as other:
            wanted = other.decode(other.encode(region((8, 8, 8))), *prompts((8, 8, 8), 1, 1))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_half_graphs_make_half_plans(fake: Fake, half_bundle: Bundle, folder: Path) -> None:
    results = build_plans(half_bundle, plans=folder, **SMALL)
    encoder, decoder = (result.plan.record for result in results)
    assert encoder.precision == "fp16"
    assert encoder.dtypes == {"image": "HALF", "embedding": "HALF"}
    assert decoder.dtypes["point_coords"] == "FLOAT"
    assert encoder.layers["half"] > 5
    with open_engine(half_bundle, "tensorrt", options={"plans": folder}) as engine:
        assert engine.precision == "fp16"
        embedding = engine.encode(region((8, 8, 8)))
        found = engine.decode(embedding, *prompts((8, 8, 8), 2, 2))
    assert embedding.size_bytes == 8 * 4**3 * 2
    assert found.dtype == np.float32
    with open_engine(half_bundle, "onnxruntime", "fp16") as other:
        wanted = other.decode(other.encode(region((8, 8, 8))), *prompts((8, 8, 8), 2, 2))
    np.testing.assert_allclose(found, wanted, atol=2e-2)


@pytest.mark.parametrize("version", ["10.13.0.35", "11.4.0.106"])
def test_plan_that_is_not_in_its_precision_is_an_error(half_bundle: Bundle, folder: Path, version: str) -> None:
    with installed(version) as fake:
        fake.float_only = True
        with pytest.raises(PlanError, match="got a plan of the encoder that computes in float, expected fp16"):
            build_plans(half_bundle, "fp16", plans=folder, **SMALL)
    assert not list(folder.glob("*.plan"))


def test_graph_in_another_precision_is_not_built(fake: Fake, half_bundle: Bundle, folder: Path) -> None:
    graphs = {
        kind: {"fp16": files["fp32"], "fp32": files["fp32"]} for kind, files in half_bundle.manifest.graphs.items()
    }
    wrong = Bundle(half_bundle.path, replace(half_bundle.manifest, graphs=graphs))
    with pytest.raises(PlanError, match=r"got .* of the encoder in FLOAT, expected HALF for fp16; export"):
        build_plans(wrong, "fp16", plans=folder, **SMALL)
    assert not fake.builds


def test_inspector_words_of_both_versions() -> None:
    def inspected(*fields: dict[str, Any]) -> str:
        return json.dumps({"Layers": [{"Name": "a", "Outputs": [{"Name": "float half", **given}]} for given in fields]})

    text = inspected(
        {"Format/Datatype": "Half"},
        {"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"},
        {"Format/Datatype": "Row major linear FP32"},
        {"Format": "Linear", "DataType": "Int8"},
        {"Format": "Linear", "DataType": "Int64"},
    )
    found = count_types(text)
    assert found == {"half": 2, "float": 1, "int8": 1}
    require_types("fp16", found, "encoder")
    require_types("int8", found, "encoder")
    require_types("int8", {"half": 0, "float": 1, "int8": 0}, "prompt_decoder")
    with pytest.raises(PlanError, match="got 2 FP16 results in the FP32 plan"):
        require_types("fp32", found, "encoder")
    for text in ("", "[]", '{"Layers": ["a", "b"]}', inspected({"Format": "Linear"})):
        with pytest.raises(PlanError, match=r"cannot read|names no type"):
            count_types(text)


def test_interrupt_leaves_nothing_half_written(fake: Fake, small_export: Any, folder: Path) -> None:
    import _thread

    # A shell that runs the tests in the background makes the process deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    fake.on_step = lambda: len(fake.builds) == 1 and (_thread.interrupt_main(), threading.Event().wait(0.5))
    try:
        with pytest.raises(KeyboardInterrupt):
            build_plans(small_export.bundle, plans=folder, **SMALL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(fake.builds) == 1  # the decoder's was ended at its next step
    assert sorted(file.suffix for file in folder.iterdir()) == [".cache", ".json", ".plan"]
    fake.on_step = None
    results = build_plans(small_export.bundle, plans=folder, **SMALL)
    assert [result.built for result in results] == [False, True]


def test_full_disk_leaves_nothing(fake: Fake, small_export: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PlanError, match=r"cannot write .* \(No space left on device\); give another folder"):
        build_plans(small_export.bundle, plans=folder, **SMALL)
    assert not list(folder.iterdir())


def test_progress_is_reported(fake: Fake, small_export: Any, folder: Path) -> None:
    steps: list[BuildStep] = []
    build_plans(small_export.bundle, plans=folder, on_progress=steps.append, **SMALL)
    whole = [step for step in steps if step.phase == "Building the engine" and step.kind == "encoder"]
    assert [step.done for step in whole] == [0, 1, 2, 2, 3]
    assert {step.parent for step in steps if step.phase == "Timing kernels"} == {"Building the engine"}
    assert {step.kind for step in steps} == {"encoder", "prompt_decoder"}


def test_report_that_fails_ends_the_build(fake: Fake, small_export: Any, folder: Path) -> None:
    def report(step: BuildStep) -> None:
        if step.done:
            raise OSError("the terminal is gone")

    with pytest.raises(EngineError, match="the terminal is gone"):
        build_plans(small_export.bundle, plans=folder, on_progress=report, **SMALL)
    assert not list(folder.iterdir())


def test_what_tensorrt_says_is_passed_on(fake: Fake, small_export: Any, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"no graph")
    graphs = {"encoder": {"fp32": "e.onnx"}, "prompt_decoder": {"fp32": "e.onnx"}}
    manifest = replace(small_export.bundle.manifest, graphs=graphs, vectors="")
    bundle = write_bundle(tmp_path / "b", manifest, {"e.onnx": tmp_path / "g"})
    with pytest.raises(
        PlanError, match=r"TensorRT 10\.13\.0\.35 does not take e\.onnx: Operator node: not ONNX"
    ) as caught:
        build_plans(bundle, **SMALL)
    assert "\n" not in str(caught.value)
    assert not list((bundle.path / "engines").iterdir())


def test_plan_that_tensorrt_refuses(fake: Fake, small_export: Any, folder: Path) -> None:
    """What the record says fits, and TensorRT finds that it does not."""
    build_plans(small_export.bundle, plans=folder, **SMALL)
    fake.gpu = Device("cuda:0", GPU.name, GPU.capability)
    for sidecar in folder.glob("*.json"):
        values = json.loads(sidecar.read_text())
        plan = sidecar.with_suffix(".plan")
        content = plan.read_bytes().replace(MAGIC, b"no plan at all ", 1)
        import hashlib

        values["sha256"] = hashlib.sha256(content).hexdigest()
        plan.write_bytes(content)
        sidecar.write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"magicTag failed; build it again with gstk build --rebuild"):
        open_engine(small_export.bundle, "tensorrt", options={"plans": folder})


def test_command(fake: Fake, run: Run, half_bundle: Bundle, folder: Path) -> None:
    arguments = ("build", half_bundle.path, "--roi", "8,8x8x16", "--wide", "8:16:24", "--plans", folder, "--level", 2)
    result = run(*arguments)
    assert result.code == 0, result.err
    assert "small in fp16 for NVIDIA Fake 24GB, TensorRT 10.13.0.35" in result.out
    assert all(word in result.out for word in ("encoder", "prompt_decoder", "built", "8x8x16", "8:16:24"))
    assert run(*arguments).out.count("kept") == 2
    assert fake.builds[0]["level"] == 2
    infer = run("engines")
    assert "TensorRT" not in infer.err
    for wrong, message in (
        (("--roi", "abc"), "got 'abc' for --roi, expected sides in voxels"),
        (("--wide", "8:16"), "got '8:16' for --wide"),
        (("--hardware", "any"), "got hardware 'any', expected exact, same-capability, ampere-plus"),
        (("--precision", "int8"), "got precision 'int8'"),
        (("--device", "cuda:3"), "got device 'cuda:3', but the tensorrt engine has cuda:0"),
    ):
        result = run("build", half_bundle.path, *wrong)
        assert result.code == 1
        assert message in result.error_line()


def test_nothing_is_built_without_tensorrt(
    run: Run, small_export: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gstk.engines.tensorrt_package.importlib.util.find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match='TensorRT is not installed; pip install "gstk'):
        build_plans(small_export.bundle, plans=folder)
    result = run("build", small_export.bundle.path, "--plans", folder)
    assert result.code == 1
    assert 'pip install "gstk[tensorrt]"' in result.error_line()
    assert not folder.exists()
