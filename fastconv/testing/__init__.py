"""Checking gradients by numbers: is this backward pass the derivative of that function?

`gradcheck` compares every element of every gradient with central differences, `vjpcheck` one random direction per
array, and `assert_gradients` is `gradcheck` for a test suite. What is checked may be a layer, a fastconv function with
its `_backward`, or code of your own. `conv_matrix` writes a convolution out as the matrix that it is.
"""

from .gradients import assert_gradients, gradcheck, vjpcheck
from .matrix import conv_matrix
from .report import ArrayCheck, GradcheckReport

__all__ = ["ArrayCheck", "GradcheckReport", "assert_gradients", "conv_matrix", "gradcheck", "vjpcheck"]
