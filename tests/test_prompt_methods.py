"""Each kind of prompt through a session, on an engine whose mask is known."""

from __future__ import annotations

import numpy as np
import pytest
from flood import POLICY, FloodEngine, two_balls

from gstk.core.prompts import Box
from gstk.errors import PromptError
from gstk.evaluation.metrics import dice
from gstk.session.session import Session


@pytest.fixture
def session() -> Session:
    return Session(FloodEngine(), POLICY)  # type: ignore[arg-type]


def test_a_box_alone_segments_what_is_at_its_centre(session: Session) -> None:
    image, first, _ = two_balls()
    session.set_image(image)
    session.add_box(((12, 12, 12), (28, 28, 28)))
    assert dice(session.mask == 1, first) > 0.9
    session.reset()
    session.add_box(Box(12, 28, 20, 12, 12, 28, 28))
    assert dice(session.mask == 1, first) > 0.9


def test_what_is_drawn_on_one_slice_gives_the_whole_object_and_is_undone_in_one_step(session: Session) -> None:
    image, first, _ = two_balls()
    session.set_image(image)
    scribble, lasso = np.zeros(image.shape, np.uint8), np.zeros(image.shape, bool)
    scribble[20, 20, 13:28] = 1
    lasso[20] = first[20]
    for draw in (
        lambda: session.add_scribble(scribble),
        lambda: session.add_lasso(lasso),
        lambda: session.add_plane_box(((20, 12, 12), (20, 28, 28))),
    ):
        changed = draw()
        assert dice(session.mask == 1, first) > 0.85
        assert changed[0].stop - changed[0].start > 10  # far beyond the slice that was drawn on
        session.undo()
        assert not session.mask.any()
    session.add_point((20, 20, 20))
    session.add_scribble(np.roll(scribble, 5, axis=1), foreground=False)
    assert (session.mask[20, 25, 13:28] == 0).any()
    assert session.mask[20, 20, 20] == 1
    with pytest.raises(PromptError, match="without a voxel"):
        session.add_lasso(np.zeros(image.shape))
