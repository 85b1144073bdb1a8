"""What the parameters of convolution and pooling may be, for annotations."""

from collections.abc import Sequence

Sizes = int | Sequence[int]
Padding = int | Sequence[int | tuple[int, int]] | str
