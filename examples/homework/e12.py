"""E12. Nine 3x3 filters and a second derivative on a real photograph.

By hand: the filtered pixel is the sum of kernel times neighbourhood. The derivative [-1 2 -1] in 2-D is a 1x3 kernel along rows
or a 3x1 kernel along columns, and their sum is minus the Laplacian. Where OpenCV is installed, its filter2D is compared too.
"""

import numpy as np
from fastconv import conv2d
from fastconv.demo.filters import KERNELS
from show import compare, derivation, torch
from sklearn.datasets import load_sample_image

try:
    import cv2
except ImportError:
    cv2 = None


def main():
    derivation(__doc__)
    picture = load_sample_image("flower.jpg").astype(np.float64).transpose(2, 0, 1)
    gray = conv2d(picture, np.reshape([0.299, 0.587, 0.114], (1, 3, 1, 1))).round()
    bank = np.array(list(KERNELS.values()), np.float64)[:, None]
    filtered = conv2d(gray, bank, padding="same")
    rows, columns = slice(100, 102), slice(200, 203)
    for name, kernel, ours in zip(KERNELS, bank[:, 0], filtered, strict=True):
        hand = np.array([[(kernel * gray[0, i - 1 : i + 2, j - 1 : j + 2]).sum() for j in range(200, 203)] for i in (100, 101)])
        theirs = None
        if torch is not None:
            theirs = torch.nn.functional.conv2d(torch.tensor(gray), torch.tensor(kernel[None, None]), padding=1)
            theirs = theirs[0, rows, columns]
        compare(f"{name}, rows 100-101, columns 200-202", hand=hand, fastconv=ours[rows, columns], torch=theirs)
        if cv2 is not None:
            whole = cv2.filter2D(np.ascontiguousarray(gray[0]), cv2.CV_64F, kernel, borderType=cv2.BORDER_CONSTANT)
            print(f"  OpenCV's filter2D, all {whole.size} pixels, borders too: they differ by {abs(whole - ours).max()}\n")
    row = np.array([-1.0, 2, -1]).reshape(1, 1, 1, 3)
    both = conv2d(gray, row, padding="same") + conv2d(gray, row.transpose(0, 1, 3, 2), padding="same")
    compare("[-1 2 -1] along rows plus columns, against minus the Laplacian",
            hand=-filtered[1][rows, columns], fastconv=both[0][rows, columns])
    average = conv2d(gray, bank[-1:] / 16)
    print(f"Mean brightness {gray.mean():.2f}, of the weighted average divided by 16: {average.mean():.2f}")


if __name__ == "__main__":
    main()
