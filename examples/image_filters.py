"""Nine classical 3x3 filters over a photograph, in one call, drawn side by side.

Run: python examples/image_filters.py --photograph flower.jpg, or your own file with --photograph me.png
"""

import argparse
from pathlib import Path

import numpy as np
from common import fail, save
from fastconv.demo import filters


def photograph(name: str) -> np.ndarray:
    """(H, W, 3), float32, 0 to 255: one of scikit-learn's two, or a file that matplotlib can read."""
    if name in ("china.jpg", "flower.jpg"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(name).astype(np.float32)
    if not Path(name).is_file():
        fail(f"{name} is not there; china.jpg and flower.jpg come with scikit-learn")
    from matplotlib.image import imread

    try:
        picture = imread(name)
    except (OSError, SyntaxError, ValueError) as error:
        fail(f"{name} cannot be read as a picture: {error}")
    scale = 1 if picture.dtype == np.uint8 else 255
    picture = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    return picture[:, :, :3].astype(np.float32) * scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--photograph", default="china.jpg", metavar="FILE", help="china.jpg, flower.jpg or your own")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="folder for the picture")
    options = parser.parse_args()
    picture = photograph(options.photograph)
    for name, filtered in zip(filters.KERNELS, filters.apply(picture), strict=True):
        kernel = "; ".join(" ".join(f"{value:2d}" for value in row) for row in filters.KERNELS[name])
        print(f"{name:<17} [{kernel}]  values from {filtered.min():7.1f} to {filtered.max():7.1f}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No picture: matplotlib is not installed.")
        return
    figure = Figure(figsize=(15, 5), layout="constrained")
    pictures = [picture, *filters.apply(picture)]
    for axes, name, shown in zip(figure.subplots(2, 5).flat, ["photograph", *filters.KERNELS], pictures, strict=True):
        axes.imshow(shown.clip(0, 255).astype(np.uint8))
        axes.set_title(name)
        axes.axis("off")
    print(save(figure, options.out / "filters.png"))


if __name__ == "__main__":
    main()
