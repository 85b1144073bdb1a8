"""Settings that every test shares: hypothesis profiles, a seeded generator, global state put back."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "max_examples": 50, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("local", **COMMON)
settings.register_profile("ci", derandomize=True, database=None, **COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def restore_configuration():
    """Put the thread count and the float32 precision back after a test that changes them."""
    import fastconv

    threads, precision = fastconv.get_num_threads(), fastconv.get_float32_precision()
    yield
    fastconv.set_num_threads(threads)
    fastconv.set_float32_precision(precision)
