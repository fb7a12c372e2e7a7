"""Checkpoints: what is read, what is refused, and that nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from monai.networks.nets.vista3d import VISTA3D  # noqa: E402

from gstk.errors import CheckpointError, OutputError  # noqa: E402
from gstk.training.checkpoint import load_checkpoint, load_extra, load_network, save_checkpoint  # noqa: E402
from gstk.training.network import build_network  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402

SPEC = VISTA3DSpec(width=8, blocks_down=(1, 2, 1), n_classes=20, last_supported=7)


@pytest.fixture(scope="module")
def network() -> VISTA3D:
    torch.manual_seed(3)
    return build_network(SPEC)


@pytest.fixture
def state(network: VISTA3D) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_ours_round_trips(tmp_path: Path, network: VISTA3D, name: str) -> None:
    path = tmp_path / "deep" / name
    save_checkpoint(path, network, SPEC, {"training": {"seed": 3, "loss": [0.5, None]}})
    spec, state = load_checkpoint(path)
    assert spec == SPEC
    assert same(state, network.state_dict())
    assert load_extra(path) == {"training": {"seed": 3, "loss": [0.5, None]}}
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_extra_keeps_an_optimizers_state(tmp_path: Path, network: VISTA3D) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    save_checkpoint(tmp_path / "a.pt", network, SPEC, {"optimizer": optimizer.state_dict(), "epoch": 4})
    extra = load_extra(tmp_path / "a.pt")
    assert extra["epoch"] == 4
    optimizer.load_state_dict(extra["optimizer"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module.network.{k}": v for k, v in s.items()}},
    ],
    ids=["bare", "model", "state_dict", "module", "nested"],
)
def test_weights_of_others_are_read(tmp_path: Path, state: dict[str, Any], wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "a.pth")
    spec, found = load_checkpoint(tmp_path / "a.pth")
    assert (spec.width, spec.blocks_down, spec.n_classes, spec.last_supported) == (8, (1, 2, 1), 20, 132)
    assert same(found, state)
    assert load_extra(tmp_path / "a.pth") == {}


def test_plain_safetensors_are_read(tmp_path: Path, state: dict[str, Any]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, tmp_path / "a.safetensors")
    spec, found = load_checkpoint(tmp_path / "a.safetensors")
    assert spec.blocks_down == (1, 2, 1)
    assert same(found, state)


def test_branch_for_automatic_segmentation_may_be_missing(tmp_path: Path, state: dict[str, Any]) -> None:
    optional = ("class_head.", "image_encoder.up_layers_auto.")
    torch.save({k: v for k, v in state.items() if not k.startswith(optional)}, tmp_path / "a.pt")
    network = load_network(tmp_path / "a.pt")
    assert torch.equal(network.point_head.mask_tokens.weight, state["point_head.mask_tokens.weight"])


def test_half_weights_become_float32(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "a.pt")
    assert {p.dtype for p in load_network(tmp_path / "a.pt").parameters()} == {torch.float32}


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_malicious_pickle_runs_nothing(tmp_path: Path, writer: str, state: dict[str, Any]) -> None:
    content = {"model": state, "evil": _Payload(tmp_path / "ran")}
    path = tmp_path / "a.pt"
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(_Payload(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="cannot be read as weights") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip", b"\x80\x02."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_garbage_is_refused_in_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="expected a checkpoint file"):
            load_checkpoint(path)


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "point_head.mask_tokens.weight"), r"1 missing \(point_head.mask_tokens.weight\)"),
        (
            lambda s: {**s, "what.is.this": torch.zeros(1)},
            r"1 unexpected \(what.is.this\); give a checkpoint of MONAI's",
        ),
        (lambda s: _without(s, "class_head.mlp.0.weight"), r"1 missing \(class_head.mlp.0.weight\)"),
        (lambda s: {**s, "point_head.mask_tokens.weight": torch.zeros(2, 8)}, r"1 mis-shaped .*\(2, 8\) for \(1, 8\)"),
        (lambda s: _without(s, "image_encoder.encoder.conv_init.weight"), "no VISTA3D with a point head"),
        (lambda s: {k: v for k, v in s.items() if ".encoder.layers.1." not in k}, r"encoder levels \[0, 2\]"),
        (lambda s: {**s, "point_head.mask_tokens.weight": torch.full((1, 8), torch.nan)}, "NaN or infinity"),
        (lambda s: {**s, "image_encoder.encoder.conv_init.weight": torch.zeros(9, 1, 3, 3, 3)}, "got filters 9"),
        (lambda s: {**s, "epoch": 3}, r"1 entries that are no tensors \(first: 'epoch'\)"),
        (lambda s: {}, "no tensors"),
        (lambda s: [1, 2], "got a list"),
    ],
)
def test_wrong_weights_are_named(tmp_path: Path, state: dict[str, Any], change: Any, message: str) -> None:
    torch.save(change(state), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({**SPEC.to_dict(), "width": 16}, "have width 8, expected 16"),
        ({**SPEC.to_dict(), "blocks_down": [1, 1, 1]}, r"have blocks_down \(1, 2, 1\), expected \(1, 1, 1\)"),
        ({**SPEC.to_dict(), "attention_downsample": 1}, "have attention_downsample 2, expected 1"),
        ({**SPEC.to_dict(), "heads": 3}, "3 heads for 4 channels, expected a divisor"),
        ({**SPEC.to_dict(), "attention_downsample": 0}, "expected positive numbers"),
        ({"depth": 3}, "unknown architecture fields"),
        ("vista3d", "expected a dict"),
    ],
)
def test_stated_architecture_must_fit(tmp_path: Path, state: dict[str, Any], architecture: Any, message: str) -> None:
    torch.save({"gstk": 1, "architecture": architecture, "model": state}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.pt")


def test_a_point_head_of_other_shape_is_kept(tmp_path: Path) -> None:
    spec = VISTA3DSpec(width=16, blocks_down=(1, 1), n_classes=20, heads=1, attention_downsample=1, filters=8)
    network = build_network(spec)
    save_checkpoint(tmp_path / "a.pt", network, spec)
    again = load_network(tmp_path / "a.pt")
    attention = again.point_head.transformer.final_attn_token_to_image
    assert (attention.num_heads, attention.internal_dim) == (1, 16)
    assert load_checkpoint(tmp_path / "a.pt")[0] == spec
    torch.save(network.state_dict(), tmp_path / "bare.pt")
    bare = load_checkpoint(tmp_path / "bare.pt")[0]
    assert (bare.width, bare.filters, bare.attention_downsample) == (16, 8, 1)


def test_load_network_insists_on_a_given_spec(tmp_path: Path, network: VISTA3D) -> None:
    save_checkpoint(tmp_path / "a.pt", network, SPEC)
    with pytest.raises(CheckpointError, match="have width 8, expected 48"):
        load_network(tmp_path / "a.pt", VISTA3DSpec())


@pytest.mark.parametrize("extra", [{"a": np.float64(1.0)}, {"a": [{1, 2}]}, {"a": {"b": Path("c")}}, {"model": 1}])
def test_extra_that_cannot_be_read_back_is_refused(tmp_path: Path, network: VISTA3D, extra: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path / "a.pt", network, SPEC, extra)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_older_file(tmp_path: Path, network: VISTA3D, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    path.write_text("older")

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="no space"):
        save_checkpoint(path, network, SPEC)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_safetensors_metadata_is_json(tmp_path: Path, network: VISTA3D) -> None:
    safetensors = pytest.importorskip("safetensors")
    save_checkpoint(tmp_path / "a.safetensors", network, SPEC)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["architecture"]) == SPEC.to_dict()


def test_numpy_numbers_beside_the_weights_are_plain_data(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    beside = {
        "epoch": np.int64(3),
        "best_metric": np.float64(0.8),
        "flags": [np.bool_(True), np.float32(0.5), np.uint8(7)],
        "state_dict": state,
    }
    torch.save(beside, tmp_path / "a.pt")
    assert same(load_checkpoint(tmp_path / "a.pt")[1], state)
    torch.save({"x": np.float64(1), "state_dict": state, "y": os.system}, tmp_path / "c.pt")
    with pytest.raises(
        CheckpointError, match=r"it holds posix\.system beside tensors and plain values, .*; save the state"
    ):
        load_checkpoint(tmp_path / "c.pt")


def test_what_is_no_checkpoint_is_said_in_words_of_our_own(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    torch.save({"array": np.arange(3), "state_dict": state}, tmp_path / "array.pt")
    torch.save(state, tmp_path / "whole.pt")
    for name, content, said in (
        ("lfs.pt", pointer, "is a Git LFS pointer, not the file itself; run git lfs pull"),
        ("lfs.safetensors", pointer, "is a Git LFS pointer"),
        ("text.pt", b"hello there", "it is damaged, or no file of torch.save"),
        ("half.pt", (tmp_path / "whole.pt").read_bytes()[:5000], "it is damaged, or no file of torch.save"),
        ("array.pt", None, r"it holds numpy\._core\.multiarray\._reconstruct beside tensors"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=said) as caught:
            load_checkpoint(tmp_path / name)
        message = str(caught.value)
        assert message.isprintable()
        assert "weights_only" not in message
        assert "trust" not in message
