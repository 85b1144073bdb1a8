"""Convolution, pooling and patches for NumPy arrays, under the names of ``torch.nn.functional``."""

from fastconv.functional import conv, factored, patches, pool
from fastconv.functional.conv import *  # noqa: F403
from fastconv.functional.factored import *  # noqa: F403
from fastconv.functional.patches import *  # noqa: F403
from fastconv.functional.pool import *  # noqa: F403

__all__ = [*conv.__all__, *factored.__all__, *pool.__all__, *patches.__all__]
