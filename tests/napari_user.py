"""Uses napari with the nnInteractive plugin as a user does; run by test_napari.py in an environment of its own.

    python napari_user.py URL FOLDER

FOLDER holds scan.nii.gz. It takes the image as it is shown (image.npy, (z,y,x)), a mask (.npy) and a picture (.png) of
each step; what napari complains of is printed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

POINTS = "nnInteractive - Point Layer"
LABELS = "nnInteractive - Label Layer"


def main(url: str, folder: Path) -> None:
    viewer = napari.Viewer()
    notification_manager.notification_ready.connect(lambda event: print(event.severity, str(event), flush=True))
    [image] = viewer.open(folder / "scan.nii.gz", plugin="napari-nifti")
    middle = tuple(n // 2 for n in image.data.shape)
    print("scale", image.scale, flush=True)
    np.save(folder / "image.npy", image.data)
    _, widget = viewer.window.add_plugin_dock_widget("napari-nninteractive", "nnInteractive")
    application = QApplication.instance()

    def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(what)
            application.processEvents()
            time.sleep(0.01)

    def settle(seconds: float = 0.5) -> None:
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end, "time")

    def keep(step: str) -> None:
        settle()
        np.save(folder / f"{step}.npy", np.asarray(viewer.layers[LABELS].data))
        viewer.screenshot(str(folder / f"{step}.png"), canvas_only=False)

    widget.server_url_edit.setText(url)
    widget.init_button.click()
    until(
        lambda: (
            LABELS in viewer.layers
            and widget._upload_dialog is None
            and widget.session is not None
            and widget.session.target_buffer is not None
        ),
        "the session to begin",
    )
    settle(2)
    viewer.dims.set_current_step(0, middle[0])
    widget.interaction_button._on_button_pressed(0)
    until(lambda: POINTS in viewer.layers, "the layer of points")
    settle()
    canvas = viewer.window._qt_viewer.canvas.native
    place = QPoint(canvas.width() // 2, canvas.height() // 2)
    QTest.mouseMove(canvas, place)
    settle()
    QTest.mouseClick(canvas, Qt.LeftButton, Qt.NoModifier, place)
    until(lambda: bool(viewer.layers[LABELS].data.any()), "a mask")
    keep("click")
    widget.prompt_button._on_button_pressed(1)
    viewer.layers[POINTS].add((middle[0], middle[1], middle[2] + 7.0))
    keep("negative")
    widget.undo_button.click()
    keep("undo")
    widget.reset_button.click()
    keep("next")
    widget.prompt_button._on_button_pressed(0)
    widget.interaction_button._on_button_pressed(0)
    settle()
    z, y, x = np.argwhere(np.asarray(image.data) == 800).mean(0)
    viewer.layers[POINTS].add((z, y + 0.4, x - 0.4))
    keep("second")
    print("layers", [layer.name for layer in viewer.layers], flush=True)
    viewer.close()
    settle()
    os._exit(0)  # Qt's threads may not end by themselves


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
