"""The photograph of E11 to E13: scikit-learn's flower, as arrays with the channels first."""

from functools import cache

import numpy as np
from fastconv import conv2d


@cache
def colour():
    """(3, 427, 640), float64 with the camera's integers 0 ... 255; a view of the picture as it comes, channels last."""
    from sklearn.datasets import load_sample_image

    picture = load_sample_image("flower.jpg").astype(np.float64)
    picture.flags.writeable = False
    return picture.transpose(2, 0, 1)


@cache
def gray():
    """(1, 427, 640): the usual weighted sum of red, green and blue, which is a 1x1 convolution, rounded to integers."""
    luminance = np.reshape([0.299, 0.587, 0.114], (1, 3, 1, 1))
    picture = conv2d(colour(), luminance).round()
    picture.flags.writeable = False
    return picture
