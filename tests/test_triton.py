"""Triton's model repository: read by the server's own protobuf messages, and its models run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import Models, served
from typer.testing import CliRunner

ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
text_format = pytest.importorskip("google.protobuf.text_format")

from gstk.cli import app  # noqa: E402
from gstk.core.bundle import Bundle  # noqa: E402
from gstk.engines import open_engine  # noqa: E402
from gstk.errors import ExportError, PlanError  # noqa: E402
from gstk.export.triton import TritonOptions, write_triton_repository  # noqa: E402


@pytest.fixture(scope="module")
def messages() -> Any:
    """`model_config.proto` as NVIDIA's client carries it; the client itself wants gRPC, which is not needed here."""
    pytest.importorskip("tritonclient")
    file = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", Path(str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "model_config_pb2", module)
        spec.loader.exec_module(module)
    return module


def read(messages: Any, folder: Path) -> Any:
    """A model's configuration; an unknown field or a wrong type is an error of the official parser."""
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), messages.ModelConfig())


@pytest.fixture(scope="module")
def repository(by_class: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = write_triton_repository(by_class, tmp_path_factory.mktemp("triton") / "repository")
    return {folder.name: folder for folder in folders}


def test_models_and_their_tensors(messages: Any, repository: dict[str, Path]) -> None:
    configs = {name: read(messages, folder) for name, folder in repository.items()}
    models = ("encoder", "prompt_decoder", "class_encoder", "class_logits", "class_segmenter")
    assert list(configs) == [f"small_{model}" for model in models]
    for name, config in configs.items():
        assert config.name == name
        assert config.max_batch_size == 0
        assert config.parameters["input_profile"].string_value == "nv-segment-ct"
        assert config.parameters["precision"].string_value == "fp16"
        if name == "small_class_segmenter":
            continue
        session = ort.InferenceSession(repository[name] / "1" / "model.onnx")
        types = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(int64)": "TYPE_INT64"}
        for stated, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [tensor.name for tensor in stated] == [value.name for value in real]
            for tensor, value in zip(stated, real, strict=True):
                assert messages.DataType.Name(tensor.data_type) == types[value.type]
                assert list(tensor.dims) == [axis if isinstance(axis, int) else -1 for axis in value.shape]
        (group,) = config.instance_group
        assert group.kind == messages.ModelInstanceGroup.KIND_AUTO


def test_warm_up_is_a_question_that_the_model_answers(messages: Any, repository: dict[str, Path]) -> None:
    kinds = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64}
    for name, folder in repository.items():
        config = read(messages, folder)
        if config.platform == "ensemble":
            continue
        (warm,) = config.model_warmup
        given = {
            key: np.zeros(list(value.dims), kinds[messages.DataType.Name(value.data_type)])
            for key, value in warm.inputs.items()
        }
        assert all(value.zero_data for value in warm.inputs.values())
        ort.InferenceSession(folder / "1" / "model.onnx").run(None, given)
        if name == "small_encoder":
            assert given["image"].shape == (1, 1, 32, 32, 32)


def test_class_segmenter_is_the_network(messages: Any, repository: dict[str, Path], small_export: Any) -> None:
    """Its steps, wired as the ensemble says, against MONAI's own forward pass."""
    image = np.random.default_rng(3).random((1, 1, 16, 24, 32)).astype(np.float32)
    ids = np.array([1, 3, 57, 128])
    config = read(messages, repository["small_class_segmenter"])
    assert config.platform == "ensemble"
    assert (repository["small_class_segmenter"] / "1").is_dir()  # Triton asks for a version, empty as it is
    tensors: dict[str, Any] = {"image": image, "class_ids": ids}
    assert [tensor.name for tensor in config.input] == list(tensors)
    for step in config.ensemble_scheduling.step:
        session = ort.InferenceSession(repository[step.model_name] / "1" / "model.onnx")
        names = [value.name for value in session.get_outputs()]
        assert set(step.input_map) == {value.name for value in session.get_inputs()}
        found = session.run(names, {key: tensors[own] for key, own in step.input_map.items()})
        tensors |= {step.output_map[name]: value for name, value in zip(names, found, strict=True)}
    with torch.no_grad():
        expected = small_export.network(torch.from_numpy(image), class_vector=torch.from_numpy(ids)[:, None])[:, 0]
    (output,) = config.output
    assert tensors[output.name].shape == (1, 4, 16, 24, 32)
    np.testing.assert_allclose(tensors[output.name][0], expected.numpy(), atol=0.02 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def address(messages: Any, repository: dict[str, Path]) -> Iterator[str]:
    """Where the stand-in for Triton serves the repository."""
    configs = {name: read(messages, folder) for name, folder in repository.items()}
    with served(Models(configs, repository, messages.DataType.Name)) as address:
        yield address


def test_the_client_of_the_page(address: str, repository: dict[str, Path]) -> None:
    """The program of docs/triton.md with NVIDIA's own client, on a window of 32³ voxels that is not empty."""
    pytest.importorskip("tritonclient.http", reason="the client needs its extra `http`", exc_type=RuntimeError)
    page = (Path(__file__).parents[1] / "docs" / "triton.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    image = np.random.default_rng(5).random((1, 1, 32, 32, 32)).astype(np.float32)
    for shown, here in (
        ('"localhost:8000"', repr(address)),
        ("np.zeros((1, 1, 128, 128, 128), np.float32)", "window"),
        ("NAME_", "small_"),
    ):
        assert shown in program
        program = program.replace(shown, here)
    names: dict[str, Any] = {"window": image}
    exec(program, names)
    assert names["logits"].dtype == np.float32
    assert names["logits"].shape == (1, 2, 32, 32, 32)
    session = ort.InferenceSession(repository["small_class_encoder"] / "1" / "model.onnx")
    (features,) = session.run(None, {"image": image})
    second = ort.InferenceSession(repository["small_class_logits"] / "1" / "model.onnx")
    (expected,) = second.run(None, {"features": features, "class_ids": np.array([1, 3])})
    np.testing.assert_allclose(names["logits"], expected, atol=1e-6)


def test_a_click_over_the_wire(address: str, by_class: Bundle) -> None:
    """Encoder and decoder by NVIDIA's client are the bundle's; a request that does not fit is refused with a reason."""
    http = pytest.importorskip("tritonclient.http", exc_type=RuntimeError)
    client = http.InferenceServerClient(address)

    def ask(model: str, **arrays: np.ndarray) -> Any:
        given = []
        for name, array in arrays.items():
            tensor = http.InferInput(name, array.shape, {"f": "FP32", "i": "INT64"}[array.dtype.kind])
            tensor.set_data_from_numpy(array)
            given.append(tensor)
        return client.infer(f"small_{model}", given)

    image = np.random.default_rng(6).random((1, 1, 32, 32, 32)).astype(np.float32)
    coords, labels = np.full((1, 2, 3), 16, np.float32), np.array([[1, -2]])
    embedding = ask("encoder", image=image).as_numpy("embedding")
    logits = ask("prompt_decoder", embedding=embedding, point_coords=coords, point_labels=labels).as_numpy("logits")
    with open_engine(by_class, "onnxruntime", "fp16") as engine:
        expected = engine.decode(engine.encode(image), coords, labels)
    # The server has ONNX Runtime's own norms, not the exact ones that an engine gives it.
    np.testing.assert_allclose(logits, expected, atol=1e-3 * float(np.abs(expected).max()))
    with pytest.raises(Exception, match=r"got image float32 \(1, 32, 32, 32\), expected"):
        ask("encoder", image=image[0])


def test_external_weights_come_along(small_export: Any, tmp_path: Path) -> None:
    import onnx_ir as ir

    from gstk.core.bundle import write_bundle

    bundle, sources = small_export.bundle, {}
    for name in bundle.manifest.files:
        sources[name] = bundle.path / name
    for kind in bundle.manifest.graphs:
        name = bundle.manifest.graphs[kind]["fp32"]
        ir.save(small_export.traced(kind), tmp_path / name, external_data=f"{name}.data")
        sources |= {name: tmp_path / name, f"{name}.data": tmp_path / f"{name}.data"}
    apart = write_bundle(tmp_path / "apart", bundle.manifest, sources)
    encoder, _ = write_triton_repository(apart, tmp_path / "repository")
    inner = encoder / "1" / "model.onnx"  # a folder, as Triton's documentation asks for where weights are apart
    assert sorted(file.name for file in inner.iterdir()) == ["encoder.onnx.data", "model.onnx"]
    ort.InferenceSession(inner / "model.onnx").run(None, {"image": np.zeros((1, 1, 8, 8, 8), np.float32)})


def test_nothing_is_replaced_unasked(by_class: Bundle, tmp_path: Path) -> None:
    other = tmp_path / "someone_elses"
    other.mkdir()
    write_triton_repository(by_class, tmp_path)
    marked = tmp_path / "small_encoder" / "mark"
    marked.touch()
    with pytest.raises(ExportError, match=r"small_encoder exists already; give --overwrite"):
        write_triton_repository(by_class, tmp_path)
    assert marked.exists()
    write_triton_repository(by_class, tmp_path, overwrite=True)
    assert not marked.exists()
    assert other.is_dir()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_tensorrt_without_plans_leaves_nothing(by_class: Bundle, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no TensorRT plan with weights .* run gstk build"):
        write_triton_repository(
            by_class, tmp_path / "repository", TritonOptions("tensorrt", "fp16", plans=tmp_path / "plans")
        )
    assert list((tmp_path / "repository").iterdir()) == []
    with pytest.raises(ExportError, match="got platform 'torch', expected onnxruntime or tensorrt"):
        TritonOptions("torch")


def test_plans_of_tensorrt(messages: Any, small_export: Any, tmp_path: Path) -> None:
    from fake_tensorrt import installed

    from gstk.engines.tensorrt_build import build_plans

    with installed():
        results = build_plans(
            small_export.bundle, "fp32", [(8, 8, 8), (16, 16, 16)], wide=None, plans=tmp_path / "plans"
        )
    # The stand-ins are gone: a repository is written on a machine without TensorRT as well.
    options = TritonOptions("tensorrt", "fp32", tmp_path / "plans")
    folders = write_triton_repository(small_export.bundle, tmp_path / "repository", options)
    for folder, result in zip(folders, results, strict=True):
        assert (folder / "1" / "model.plan").read_bytes() == result.plan.path.read_bytes()
        config = read(messages, folder)
        assert config.backend == "tensorrt"
        (group,) = config.instance_group
        assert group.kind == messages.ModelInstanceGroup.KIND_GPU
        assert list(group.profile) == ["0", "1"]
        strategy = config.parameters["execution_context_allocation_strategy"]
        assert strategy.string_value == "ON_PROFILE_CHANGE"
    results[0].plan.path.write_bytes(b"another program")
    with pytest.raises(PlanError, match="is not the plan that the file beside it describes"):
        write_triton_repository(small_export.bundle, tmp_path / "other", options)


def test_the_command(messages: Any, tmp_path: Path) -> None:
    """`tiny` by its name; options of an export are not for a bundle."""
    run = CliRunner()
    done = run.invoke(app, ["export", "tiny", "--triton", str(tmp_path / "repository")])
    assert done.exit_code == 0, done.output
    assert [Path(line).name for line in done.output.splitlines()] == ["tiny_encoder", "tiny_prompt_decoder"]
    assert read(messages, tmp_path / "repository" / "tiny_encoder").backend == "onnxruntime"
    for wrong, said in (
        (["export", "tiny"], "goes with --triton"),
        (["export", "tiny", "--triton", str(tmp_path / "a"), "--int8"], "applies to weights"),
        (["export", "weights.pt", "-o", str(tmp_path / "b"), "--triton-platform", "tensorrt"], "needs --triton"),
        (["export", "weights.pt"], "needs a folder"),
    ):
        failed = run.invoke(app, wrong)
        assert failed.exit_code == 2
        assert said in " ".join(failed.output.split())
