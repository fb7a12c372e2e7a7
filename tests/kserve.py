"""A stand-in for Triton: the KServe protocol v2 over HTTP, with Triton's extension for binary tensors.

It serves a model repository as Triton would: what a model takes and gives is what its `config.pbtxt` says, read by the
official messages, and ONNX Runtime computes it. A request that does not fit is answered by 400 with a reason.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64}
HEADER_BYTES = "Inference-Header-Content-Length"


class Models:
    """The models of a repository, by name.

    Args:
        configs: each model's `ModelConfig`.
        folders: of each model.
        type_name: name of a `DataType`, such as `TYPE_FP32`.
    """

    def __init__(self, configs: dict[str, Any], folders: dict[str, Path], type_name: Any) -> None:
        self.configs, self.folders, self.type_name = configs, folders, type_name

    def infer(self, name: str, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises ValueError where an input is missing, unknown, or of another type or shape."""
        import onnxruntime

        config = self.configs.get(name)
        if config is None:
            raise ValueError(f"Request for unknown model: '{name}' is not found")
        if {tensor.name for tensor in config.input} != set(given):
            raise ValueError(f"got inputs {sorted(given)} for {name}")
        for tensor in config.input:
            self._check(tensor, given[tensor.name])
        if config.platform == "ensemble":
            tensors = dict(given)
            for step in config.ensemble_scheduling.step:
                found = self.infer(step.model_name, {key: tensors[own] for key, own in step.input_map.items()})
                tensors |= {step.output_map[key]: value for key, value in found.items()}
        else:
            session = onnxruntime.InferenceSession(self.folders[name] / "1" / "model.onnx")
            names = [value.name for value in session.get_outputs()]
            tensors = dict(zip(names, session.run(names, given), strict=True))
        for tensor in config.output:
            self._check(tensor, tensors[tensor.name])
        return {tensor.name: tensors[tensor.name] for tensor in config.output}

    def _check(self, tensor: Any, array: np.ndarray) -> None:
        kind = TYPES[self.type_name(tensor.data_type).removeprefix("TYPE_")]
        fits = len(tensor.dims) == array.ndim and all(
            a in (-1, b) for a, b in zip(tensor.dims, array.shape, strict=True)
        )
        if array.dtype != kind or not fits:
            raise ValueError(f"got {tensor.name} {array.dtype} {array.shape}, expected {kind} {list(tensor.dims)}")


def _handler(models: Models) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                name = self.path.removeprefix("/v2/models/").removesuffix("/infer")
                status, head, tail = 200, *answer(models, name, body, int(self.headers[HEADER_BYTES]))
            except ValueError as error:
                status, head, tail = 400, json.dumps({"error": str(error)}).encode(), b""
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if tail else "application/json")
            self.send_header("Content-Length", str(len(head) + len(tail)))
            if tail:
                self.send_header(HEADER_BYTES, str(len(head)))
            self.end_headers()
            self.wfile.write(head + tail)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def answer(models: Models, name: str, body: bytes, header_bytes: int) -> tuple[bytes, bytes]:
    """JSON and binary tensors of the answer to a request of both."""
    about, at, given = json.loads(body[:header_bytes]), header_bytes, {}
    for tensor in about["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        values = np.frombuffer(body[at : at + size], TYPES[tensor["datatype"]])
        given[tensor["name"]], at = values.reshape(tensor["shape"]), at + size
    if at != len(body):
        raise ValueError(f"got {len(body) - at} bytes beyond the inputs")
    outputs, parts, blob = models.infer(name, given), [], b""
    for key, array in outputs.items():
        kind = next(word for word, dtype in TYPES.items() if dtype == array.dtype)
        data = np.ascontiguousarray(array).tobytes()
        size = {"binary_data_size": len(data)}
        parts.append({"name": key, "datatype": kind, "shape": list(array.shape), "parameters": size})
        blob += data
    return json.dumps({"model_name": name, "model_version": "1", "outputs": parts}).encode(), blob


@contextmanager
def served(models: Models) -> Iterator[str]:
    """`host:port` of a server of the models."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(models))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
