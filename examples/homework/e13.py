"""E13. Template matching in a photograph by six measures, all through convolution.

By hand, for one window; fastconv by two convolutions (see examples/template_matching.py for the formulas); and OpenCV's
matchTemplate where that is installed, which works in float32 by FFT. PyTorch has no such function.
"""

import sys
from pathlib import Path

import numpy as np
from show import compare, derivation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from image_filters import photograph  # noqa: E402
from template_matching import six_measures  # noqa: E402

try:
    import cv2
except ImportError:
    cv2 = None
OPENCV = {"cross-correlation": "TM_CCORR", "normalised cross-correlation": "TM_CCORR_NORMED",
          "correlation coefficient": "TM_CCOEFF", "normalised correlation coefficient": "TM_CCOEFF_NORMED",
          "squared difference": "TM_SQDIFF", "normalised squared difference": "TM_SQDIFF_NORMED"}


def by_hand(window, template):
    """The six numbers for one window."""
    t, i = (a - a.mean(axis=(1, 2), keepdims=True) for a in (template, window))
    energy = np.sqrt((template**2).sum() * (window**2).sum())
    correlation, coefficient, difference = (template * window).sum(), (t * i).sum(), ((template - window) ** 2).sum()
    return [correlation, correlation / energy, coefficient, coefficient / np.sqrt((t**2).sum() * (i**2).sum()),
            difference, difference / energy]


def main():
    derivation(__doc__)
    image = photograph("flower.jpg").astype(np.float64).transpose(2, 0, 1)[:, 100:220, 200:340]
    template = image[:, 50:74, 60:90]
    measures = six_measures(image, template)
    hand = by_hand(image[:, 40:64, 50:80], template)
    theirs = {}
    if cv2 is not None:
        as_opencv = [np.ascontiguousarray(a.transpose(1, 2, 0), np.float32) for a in (image, template)]
        theirs = {name: cv2.matchTemplate(*as_opencv, getattr(cv2, mode)) for name, mode in OPENCV.items()}
    scale = measures["cross-correlation"].max()
    for (name, measure), value in zip(measures.items(), hand, strict=True):
        compare(f"{name} at row 40, column 50", 1e-9, hand=value, fastconv=measure[40, 50])
        best = np.unravel_index((measure.argmin if "difference" in name else measure.argmax)(), measure.shape)
        print(f"  best place: row {best[0]}, column {best[1]} (the patch is at 50, 60)")
        if theirs:
            rounding = np.abs(theirs[name] - measure).max() / (1 if name.startswith("normalised") else scale)
            print(f"  OpenCV, all places: differs by {rounding:.1e}\n")


if __name__ == "__main__":
    main()
