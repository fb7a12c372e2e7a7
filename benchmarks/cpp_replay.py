"""Random click histories through the Python and the C++ session: do masks and histories agree?

    python benchmarks/cpp_replay.py [--histories 200] [--build FOLDER] [--out NAME.json]

Points, boxes, undo, redo, reset, cancel and repeated prompts on three objects, through both sessions without extras
and without a budget, as `tests/test_cpp_replay.py` does with fewer of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from machine import describe
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the replay that the tests use

from cpp_build import build, openvino_option  # noqa: E402
from cpp_histories import compare_histories  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--build", type=Path, help="where to build; kept")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.build or Path(scratch) / "build"
        programs = build(ROOT / "cpp", folder, "-DBUILD_SHARED_LIBS=OFF", openvino_option()) / "tests"
        began = time.perf_counter()
        found = compare_histories(programs / "replay", arguments.histories, Path(scratch))
    report = {"machine": describe("openvino"), **asdict(found), "seconds": round(time.perf_counter() - began, 1)}
    Console().print_json(data=report)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
