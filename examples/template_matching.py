"""Find a patch in a photograph by six measures, all of them made of two convolutions.

Run: python examples/template_matching.py --top 150 --left 260 --height 24 --width 30
"""

import argparse
from pathlib import Path

import numpy as np
from common import at_least, fail, save
from fastconv import conv2d
from image_filters import photograph


def six_measures(image: np.ndarray, template: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of all six measures, (H - h + 1, W - w + 1), for an image (C, H, W) and a template (C, h, w).

    With T the template, I the window under it, T' and I' what is left of each channel after subtracting its mean:

        cross-correlation         sum T I                       normalised: / sqrt(sum T^2  sum I^2)
        correlation coefficient   sum T' I' = sum T' I          normalised: / sqrt(sum T'^2 sum I'^2)
        squared difference        sum (T - I)^2                 normalised: / sqrt(sum T^2  sum I^2)

    where sum (T - I)^2 = sum T^2 - 2 sum T I + sum I^2 and sum I'^2 = sum I^2 - (sum I)^2 / n, channel by channel. So all that
    is ever slid over the image is T, T' and a window of ones.
    """
    channels, *size = template.shape
    centred = template - template.mean(axis=(1, 2), keepdims=True)
    correlation, coefficient = conv2d(image, np.stack([template, centred]))
    ones = np.ones((2 * channels, 1, *size), image.dtype)
    sums = conv2d(np.concatenate([image, image**2]), ones, groups=2 * channels)
    energy = sums[channels:].sum(axis=0)
    variance = energy - (sums[:channels] ** 2 / np.prod(size)).sum(axis=0)
    difference = (template**2).sum() - 2 * correlation + energy
    norms = np.sqrt((template**2).sum() * energy)
    centred_norms = np.sqrt((centred**2).sum() * variance.clip(1e-9))
    return {
        "cross-correlation": correlation, "normalised cross-correlation": correlation / norms,
        "correlation coefficient": coefficient, "normalised correlation coefficient": coefficient / centred_norms,
        "squared difference": difference, "normalised squared difference": difference / norms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--photograph", default="flower.jpg", metavar="FILE", help="china.jpg, flower.jpg or your own")
    for name, default in (("top", 150), ("left", 260)):
        parser.add_argument(f"--{name}", type=at_least(0), default=default, metavar="N", help="of the patch")
    for name, default in (("height", 24), ("width", 30)):
        parser.add_argument(f"--{name}", type=at_least(1), default=default, metavar="N", help="of the patch")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="folder for the picture")
    options = parser.parse_args()
    image = photograph(options.photograph).astype(np.float64).transpose(2, 0, 1)
    top, left, height, width = options.top, options.left, options.height, options.width
    if top + height > image.shape[1] or left + width > image.shape[2]:
        fail(f"the patch must lie within the photograph, which is {image.shape[1]} x {image.shape[2]}")
    measures = six_measures(image, image[:, top : top + height, left : left + width])
    for name, measure in measures.items():
        place = np.unravel_index((measure.argmin if "difference" in name else measure.argmax)(), measure.shape)
        found = "found" if place == (top, left) else f"missed, the best place is row {place[0]}, column {place[1]}"
        print(f"{name:<36} {found}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No picture: matplotlib is not installed.")
        return
    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, (name, measure) in zip(figure.subplots(2, 3).flat, measures.items(), strict=True):
        axes.imshow(measure, cmap="gray")
        axes.plot(left, top, "o", markersize=12, markerfacecolor="none", color="red")
        axes.set_title(name)
        axes.axis("off")
    print(save(figure, options.out / "template-matching.png"))


if __name__ == "__main__":
    main()
