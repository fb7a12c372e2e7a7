"""What a session refuses of prompts, on an engine whose mask is known."""

from __future__ import annotations

import numpy as np
import pytest
from flood import POLICY, FloodEngine, two_balls

from gstk.errors import PromptError
from gstk.session.session import Session


@pytest.fixture
def session() -> Session:
    return Session(FloodEngine(), POLICY)  # type: ignore[arg-type]


@pytest.mark.parametrize("zyx", [(40, 0, 0), (-1, 3, 3), (0, 60, 0), (float("nan"), 1, 1), (1, 2)])
def test_a_click_outside_the_image_is_refused_and_changes_nothing(session: Session, zyx: tuple[float, ...]) -> None:
    image, _, _ = two_balls()
    session.set_image(image)
    session.add_point((20, 20, 20))
    before = session.mask.copy()
    with pytest.raises(PromptError, match="inside the image"):
        session.add_point(zyx)
    np.testing.assert_array_equal(session.mask, before)


@pytest.mark.parametrize("zyx", ["abc", None, (1, 2), (1, 2, "x")])
def test_what_is_no_point_is_an_error_of_ours(session: Session, zyx: object) -> None:
    session.set_image(two_balls()[0])
    with pytest.raises(PromptError, match="inside the image"):
        session.add_point(zyx)
