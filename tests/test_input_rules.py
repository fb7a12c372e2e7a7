"""The input that an exported network takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from gstk.core.profile import find_profile  # noqa: E402
from gstk.errors import ExportError  # noqa: E402
from gstk.export.input_rules import fitting_profile, roi_rules  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402

CLASSES = {
    "class_head.class_embeddings.weight": torch.zeros(1),
    "image_encoder.up_layers_auto.0.weight": torch.zeros(1),
}


def test_roi_rules_of_the_full_network() -> None:
    rules = roi_rules(VISTA3DSpec())
    assert (rules.multiple, rules.minimum, rules.default) == (16, 32, (128, 128, 128))


def test_full_size_weights_of_gstks_own_training_are_of_challenge() -> None:
    assert fitting_profile(None, VISTA3DSpec(), {}, None, trained_here=True).name == "challenge"


def test_a_profile_with_classes_that_the_weights_do_not_have_is_refused() -> None:
    by_class, spec = find_profile("nv-segment-ct"), VISTA3DSpec()
    with pytest.raises(ExportError, match=r"got class 132 in the profile nv-segment-ct, expected below 100"):
        fitting_profile(by_class, replace(spec, n_classes=100), CLASSES, None)
    with pytest.raises(ExportError, match="weights without a class head"):
        fitting_profile(by_class, spec, {}, None)
