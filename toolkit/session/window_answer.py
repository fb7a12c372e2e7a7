"""The network's answer in a window, and what is asked about it more than once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import ObjectPrompts
from gstk.core.window import Window
from gstk.session.click_update import clicked_components

__all__ = ["WindowAnswer"]


@dataclass(frozen=True, eq=False)
class WindowAnswer:
    """Logits on a window's grid that answer an object's prompts.

    Attributes:
        window: of the volume.
        logits: float32 (z,y,x), above 0 inside the object; not to be changed.
        prompts: of the object.
    """

    window: Window
    logits: NDArray[np.float32]
    prompts: ObjectPrompts

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where the logits are above 0."""
        return self.logits > 0

    @cached_property
    def clicked(self) -> NDArray[np.bool_]:
        """The components of the mask that a foreground click lies in; all of it where none does."""
        return clicked_components(self.mask, self.window.to_window(self.prompts.clicked(foreground_only=True)))
