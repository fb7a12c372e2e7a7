"""What the masks of a session depend on, besides the image and the prompts."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstk.core.bundle import MANIFEST_NAME
from gstk.core.files import sha256_of
from gstk.core.window import WindowPolicy
from gstk.engines.base import BundleEngine, Engine

if TYPE_CHECKING:
    from gstk.session.extras import Extra

__all__ = ["session_settings"]


def session_settings(engine: Engine, policy: WindowPolicy, extra: Extra | None) -> dict[str, Any]:
    """Returns the settings of a session, as JSON values, to tell whether two of them would make the same masks.

    Args:
        engine: its engine. Of a bundle the hash of its manifest counts, which holds those of the graphs.
        policy: how its windows are made.
        extra: what corrects the network's answers.

    Returns:
        The settings by name. Processors may still differ in the last digits of a logit.
    """
    bundle, options = None, {}
    if isinstance(engine, BundleEngine):
        bundle = sha256_of(engine.bundle.path / MANIFEST_NAME)
        options = _changed(engine.options)
    return {
        "bundle": bundle,
        "backend": engine.name,
        "precision": engine.precision,
        "device": engine.device.kind,
        "engine options": options,
        "windows": "adapted" if policy.adapts else "training",
        "window": [policy.max_voxels, policy.multiple, policy.min_side, policy.margin, policy.min_step, policy.min_mm],
        "extra": type(extra).__name__ if extra is not None else None,
    }


def _changed(options: Any) -> dict[str, Any]:
    """The options of a backend that are not at their defaults, folders apart."""
    if not is_dataclass(options):
        return {}
    values = {field.name: (getattr(options, field.name), field.default) for field in fields(options)}
    return {k: v for k, (v, default) in values.items() if v != default and not isinstance(v, Path)}
