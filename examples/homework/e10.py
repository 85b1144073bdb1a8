"""E10. Sizes: (n + 2p - k)/s + 1 for convolution, (W - F)/S + 1 for pooling, rounded down where it does not fit.

    7x7 input, 3x3 filter: stride 1 gives 5, stride 2 gives 3, stride 3 gives 2.33, which does not fit: the last row is not read.
    Padding (k - 1)/2, that is 1, 2, 3 for 3x3, 5x5, 7x7, keeps the size.
    32x32x3, ten 5x5 filters, padding 2: 32x32x10, 10 (5*5*3 + 1) = 760 parameters; six 5x5 filters, no padding: 28x28x6.
"""

from fastconv import nn
from show import compare, derivation, torch

CASES = [
    ("7x7, 3x3, stride 1", (1, 7, 7), "Conv2d", (1, 1, 3), {}, (1, 5, 5), 10),
    ("7x7, 3x3, stride 2", (1, 7, 7), "Conv2d", (1, 1, 3), {"stride": 2}, (1, 3, 3), 10),
    ("7x7, 3x3, stride 3: 2.33", (1, 7, 7), "Conv2d", (1, 1, 3), {"stride": 3}, (1, 2, 2), 10),
    *((f"7x7, {k}x{k}, padding {p}", (1, 7, 7), "Conv2d", (1, 1, k), {"padding": p}, (1, 7, 7), k * k + 1)
      for p, k in ((1, 3), (2, 5), (3, 7))),
    ("32x32x3, ten 5x5, padding 2", (3, 32, 32), "Conv2d", (3, 10, 5), {"padding": 2}, (10, 32, 32), 760),
    ("32x32x3, six 5x5", (3, 32, 32), "Conv2d", (3, 6, 5), {}, (6, 28, 28), 456),
    ("max pooling 2, stride 2", (3, 32, 32), "MaxPool2d", (2,), {}, (3, 16, 16), 0),
    ("average pooling 3, stride 1", (3, 32, 32), "AvgPool2d", (3,), {"stride": 1}, (3, 30, 30), 0),
]


def main():
    derivation(__doc__)
    for title, size, name, arguments, options, output, parameters in CASES:
        row = nn.summary(getattr(nn, name)(*arguments, **options), size).rows[0]
        theirs = None
        if torch is not None:
            layer = getattr(torch.nn, name)(*arguments, **options)
            theirs = [*layer(torch.zeros(1, *size)).shape[1:], sum(p.numel() for p in layer.parameters())]
        compare(f"{title}: size and parameters", hand=[*output, parameters],
                fastconv=[*row.output_size, row.parameters], torch=theirs)


if __name__ == "__main__":
    main()
