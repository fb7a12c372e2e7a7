"""The smallest host, in Python: one click, one mask.

python main.py BUNDLE VOLUME MASK Z Y X        (a case .npz, and an .npz to write)
"""

import sys

import gstk
from gstk.cases.npz import load_case, save_segs


def main(bundle: str, volume: str, mask: str, *click: str) -> None:
    case = load_case(volume)
    with gstk.open(bundle) as session:
        session.set_image(case.image, case.geometry.spacing_mm)
        session.add_point([float(index) for index in click])
        save_segs(mask, session.mask)


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit("usage: main.py BUNDLE VOLUME MASK Z Y X")
    try:
        main(*sys.argv[1:])
    except gstk.GstkError as error:
        sys.exit(f"error: {error}")
