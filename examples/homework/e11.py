"""E11. Blur of one patch: 1/16 [1 2 1; 2 4 2; 1 2 1] over 178 174 177 / 179 178 179 / 168 171 178.

    178 + 2*174 + 177 + 2*179 + 4*178 + 2*179 + 168 + 2*171 + 178 = 2819, and 2819/16 = 176.19, truncated 176.
"""

import numpy as np
from fastconv import conv2d
from show import compare, derivation, torch

PATCH = np.array([[[178.0, 174, 177], [179, 178, 179], [168, 171, 178]]])
BLUR = np.array([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]) / 16


def main():
    derivation(__doc__)
    theirs = None if torch is None else torch.nn.functional.conv2d(torch.tensor(PATCH), torch.tensor(BLUR)).item()
    blurred = conv2d(PATCH, BLUR).item()
    compare("blurred", hand=2819 / 16, fastconv=blurred, torch=theirs)
    compare("truncated", hand=176, fastconv=int(blurred))


if __name__ == "__main__":
    main()
