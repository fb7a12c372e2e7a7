"""Runs a pipeline other than gstk's own once, in a new process: `python -m gstk.cli.once PIPELINE_JSON IN OUT`."""

import json
import sys
from pathlib import Path

__all__ = ["segment_folder"]


def segment_folder(pipeline_json: str, inputs: str, outputs: str) -> None:
    """Segments each .npz case of a folder by the prompts in it, as a challenge container does."""
    from gstk.cases.npz import load_case, save_segs
    from gstk.cli.pipelines import Pipeline, open_pipeline

    with open_pipeline(Pipeline(**json.loads(pipeline_json))) as segmenter:
        for path in sorted(Path(inputs).glob("*.npz")):
            case = load_case(path)
            segmenter.set_image(case.image, case.geometry.spacing_mm)
            save_segs(Path(outputs) / path.name, segmenter.segment(case.prompts))


if __name__ == "__main__":
    segment_folder(*sys.argv[1:])
