"""Which algorithm computes a convolution, and why not another one?

Run: python examples/why_this_algorithm.py
"""

import fastconv

for title, input_shape, weight_shape, options in [
    ("A 3x3 layer in the middle of a network", (1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    ("A depthwise layer", (1, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ("A first layer with stride 2", (1, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
]:
    print(f"{title}: input {input_shape}, weight {weight_shape}, {options}")
    print(fastconv.explain(fastconv.conv2d, input_shape, weight_shape, **options), "\n")
