"""Pairs of folders that `gstk evaluate` wrote, compared with and without the challenge's time limit, as JSON.

python benchmarks/evaluation.py A B [--out NAME.json] [--note WORDS]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from machine import describe

from gstk.evaluation.compare import compare
from gstk.evaluation.runner import load_evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folders = [load_evaluation(folder) for folder in (arguments.first, arguments.second)]
    report = {
        "machine": describe("torch", "monai", "openvino", "scikit-image"),
        "note": arguments.note,
        "timed": compare(arguments.first, arguments.second).to_json(),
        "untimed": compare(arguments.first, arguments.second, timed=False).to_json(),
        "overhead": {
            folder.method: {
                "all": 1 - sum(s.total_seconds for s in folder.scored) / sum(s.total_s for s in folder.scored),
                **{s.case: s.overhead for s in folder.scored},
            }
            for folder in folders
        },
    }
    text = json.dumps(report, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
