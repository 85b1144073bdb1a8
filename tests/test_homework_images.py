"""Worked homework, E11 to E13: classical image processing as convolution, held to OpenCV on a real photograph."""

import cv2
import numpy as np
import pytest
from fastconv import conv2d
from homework_photo import colour, gray
from numpy.lib.stride_tricks import sliding_window_view
from reference import assert_close

# ---- E11 ----------------------------------------------------------------------------------------

BLUR = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


def test_e11_blur_of_one_patch():
    """178 + 2*174 + 177 + 2*179 + 4*178 + 2*179 + 168 + 2*171 + 178 = 2819, and 2819/16 = 176.19, truncated 176."""
    patch = np.array([[178.0, 174, 177], [179, 178, 179], [168, 171, 178]])
    blurred = conv2d(patch[None], BLUR[None, None])
    assert blurred.shape == (1, 1, 1)
    assert blurred[0, 0, 0] == 2819 / 16
    assert int(blurred[0, 0, 0]) == 176


# ---- E12 ----------------------------------------------------------------------------------------

KERNELS = {
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
    "outline": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "bottom sobel": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "right sobel": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "top sobel": [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
    "difference": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "weighted average": [[1, 1, 1], [1, 8, 1], [1, 1, 1]],
}
BANK = np.array(list(KERNELS.values()), np.float64)[:, None]    # (9, 1, 3, 3)


def opencv_filter(picture, kernel):
    """filter2D on one plane, with zeros outside."""
    return cv2.filter2D(np.ascontiguousarray(picture), cv2.CV_64F, np.asarray(kernel, np.float64),
                        borderType=cv2.BORDER_CONSTANT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_e12_nine_filters_in_one_call(dtype):
    """One convolution with nine output channels. Pixels and kernels are integers, so sums are exact, float32 too."""
    filtered = conv2d(gray().astype(dtype), BANK.astype(dtype), padding="same")
    assert filtered.shape == (9, 427, 640) and filtered.dtype == dtype
    for name, kernel, ours in zip(KERNELS, KERNELS.values(), filtered, strict=True):
        theirs = opencv_filter(gray()[0], kernel)
        assert np.array_equal(ours[1:-1, 1:-1], theirs[1:-1, 1:-1]), f"{name} away from the border"
        assert np.array_equal(ours, theirs), f"{name} at the border"
    assert np.array_equal(filtered[list(KERNELS).index("difference")], filtered[list(KERNELS).index("outline")])
    assert np.array_equal(filtered[4], -filtered[6])    # bottom and top Sobel


def test_e12_other_borders_are_padded_first():
    """Where the picture should go on as its mirror image, pad it so and convolve without padding."""
    mirrored = np.pad(gray(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    ours = conv2d(mirrored, BANK)
    for kernel, plane in zip(KERNELS.values(), ours, strict=True):
        theirs = cv2.filter2D(gray()[0], cv2.CV_64F, np.asarray(kernel, np.float64), borderType=cv2.BORDER_REFLECT_101)
        assert np.array_equal(plane, theirs)


def test_e12_a_kernel_for_each_colour():
    """Groups = channels filters every channel with kernels of its own; OpenCV would split the picture into planes."""
    weight = np.concatenate([BANK[:2], BANK[2:4], BANK[4:6]])
    ours = conv2d(colour(), weight, padding=1, groups=3)
    for i, (plane, kernel) in enumerate(zip(ours, weight[:, 0], strict=True)):
        assert np.array_equal(plane, opencv_filter(colour()[i // 2], kernel))


def test_e12_weighted_average_keeps_the_brightness():
    """Its weights sum to 16: divided by that it leaves a flat picture as it is, and the photograph's mean nearly so."""
    weight = BANK[-1:] / 16
    assert weight.sum() == 1
    assert np.array_equal(conv2d(np.full((1, 5, 5), 200.0), weight), np.full((1, 3, 3), 200.0))
    assert conv2d(gray(), weight).mean() == pytest.approx(gray().mean(), rel=1e-2)


def test_e12_second_derivative_written_for_two_dimensions():
    """[-1 2 -1] as a 1x3 kernel differentiates along rows, as a 3x1 kernel along columns; together they are minus the
    Laplacian, since [-1 2 -1] + [-1 2 -1]^T = -[0 1 0; 1 -4 1; 0 1 0]."""
    row = np.array([-1.0, 2, -1]).reshape(1, 1, 1, 3)
    column = row.transpose(0, 1, 3, 2)
    along_rows, along_columns = conv2d(gray(), row, padding="same"), conv2d(gray(), column, padding="same")
    assert np.array_equal(along_rows[0], opencv_filter(gray()[0], row[0, 0]))
    assert np.array_equal(along_columns[0], opencv_filter(gray()[0], column[0, 0]))
    laplacian = conv2d(gray(), BANK[1:2], padding="same")
    assert np.array_equal(along_rows + along_columns, -laplacian)
    assert np.array_equal(along_rows[0, 100], np.convolve(gray()[0, 100], [-1, 2, -1], mode="same"))


# ---- E13 ----------------------------------------------------------------------------------------


def template_measures(image, template):
    """Three measures and what normalises each, for an image (C, H, W) and a template (C, h, w), from two convolutions.

    With T the template, I the window under it, T' and I' what is left of each channel after subtracting its mean:

        cross-correlation         sum T I                       normalised: / sqrt(sum T^2  sum I^2)
        correlation coefficient   sum T' I' = sum T' I          normalised: / sqrt(sum T'^2 sum I'^2)
        squared difference        sum (T - I)^2                 normalised: / sqrt(sum T^2  sum I^2)

    where sum (T - I)^2 = sum T^2 - 2 sum T I + sum I^2 and sum I'^2 = sum I^2 - (sum I)^2 / n, channel by channel. So
    all that is ever slid over the image is T, T' and a window of ones.
    """
    channels, *size = template.shape
    n = np.prod(size)
    centred = template - template.mean(axis=(1, 2), keepdims=True)
    correlation, coefficient = conv2d(image, np.stack([template, centred]))
    ones = np.ones((2 * channels, 1, *size), image.dtype)
    sums = conv2d(np.concatenate([image, image**2]), ones, groups=2 * channels)
    energy = sums[channels:].sum(axis=0)
    variance = energy - (sums[:channels] ** 2 / n).sum(axis=0)
    squared = (template**2).sum() - 2 * correlation + energy
    norms, centred_norms = np.sqrt((template**2).sum() * energy), np.sqrt((centred**2).sum() * variance)
    return {
        "TM_CCORR": (correlation, norms),
        "TM_CCOEFF": (coefficient, centred_norms),
        "TM_SQDIFF": (squared, norms),
    }


def six_measures(image, template):
    measures = template_measures(image, template)
    plain = {name: measure for name, (measure, _) in measures.items()}
    return plain | {f"{name}_NORMED": measure / divisor for name, (measure, divisor) in measures.items()}


PLACE, SIZE = (150, 260), (24, 30)


def photograph_and_patch(picture):
    (top, left), (height, width) = PLACE, SIZE
    return picture, picture[:, top : top + height, left : left + width]


@pytest.mark.parametrize("picture", [gray, colour])
def test_e13_template_matching_against_opencv(picture):
    """OpenCV correlates by FFT, in blocks of some 2^16 pixels, and keeps float32 maps: expect an error of 16 * 2^-24 of
    the largest sum T I. All its measures are made from that map; the normalised ones divide the error too. (The next
    test holds us to 1e-12.) The normalised squared difference reaches 2 by its formula; OpenCV cuts it off at 1."""
    image, template = photograph_and_patch(picture())
    measures = template_measures(image, template)
    as_opencv = [np.ascontiguousarray(a.transpose(1, 2, 0), np.float32) for a in (image, template)]
    rounding = 16 * 2.0**-24 * measures["TM_CCORR"][0].max()
    for name, (measure, divisor) in measures.items():
        theirs = cv2.matchTemplate(*as_opencv, getattr(cv2, name))
        assert np.all(np.abs(measure - theirs) <= rounding), name
        theirs = cv2.matchTemplate(*as_opencv, getattr(cv2, f"{name}_NORMED"))
        ours = np.minimum(measure / divisor, 1)
        assert np.all(np.abs(ours - theirs) <= rounding / divisor + 2.0**-24), f"{name}, normalised"


@pytest.mark.parametrize("picture", [gray, colour])
def test_e13_template_matching_against_the_definition(picture):
    """The same in float64 without convolution, window by window, on the rows around the patch."""
    image, template = photograph_and_patch(picture())
    image = image[:, 140:190]
    windows = sliding_window_view(image, template.shape)[0]
    centred = windows - windows.mean(axis=(-2, -1), keepdims=True)
    centred_template = template - template.mean(axis=(1, 2), keepdims=True)
    axes = (-3, -2, -1)
    energy = (template**2).sum() * (windows**2).sum(axes)
    expected = {
        "TM_CCORR": (windows * template).sum(axes),
        "TM_CCOEFF": (centred * centred_template).sum(axes),
        "TM_SQDIFF": ((windows - template) ** 2).sum(axes),
    }
    expected["TM_CCORR_NORMED"] = expected["TM_CCORR"] / np.sqrt(energy)
    expected["TM_SQDIFF_NORMED"] = expected["TM_SQDIFF"] / np.sqrt(energy)
    expected["TM_CCOEFF_NORMED"] = expected["TM_CCOEFF"] / np.sqrt(
        (centred_template**2).sum() * (centred**2).sum(axes)
    )
    for name, measure in six_measures(image, template).items():
        scale = expected["TM_CCORR"].max() if not name.endswith("NORMED") else 1.0
        assert_close(measure, expected[name], scale=scale)


def test_e13_the_patch_is_found_where_it_was_cut_out():
    measures = six_measures(*photograph_and_patch(gray()))
    for name in ("TM_CCORR_NORMED", "TM_CCOEFF_NORMED"):
        assert np.unravel_index(np.argmax(measures[name]), measures[name].shape) == PLACE
        assert measures[name][PLACE] == pytest.approx(1)
    for name in ("TM_SQDIFF", "TM_SQDIFF_NORMED"):
        assert np.unravel_index(np.argmin(measures[name]), measures[name].shape) == PLACE
        assert measures[name][PLACE] == pytest.approx(0, abs=1e-6)
    # The plain correlation is drawn to bright places instead, which is why it is normalised.
    assert np.unravel_index(np.argmax(measures["TM_CCORR"]), measures["TM_CCORR"].shape) != PLACE
