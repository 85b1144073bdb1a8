"""What the figures were measured on."""

import contextlib
import io
import os
import platform
from typing import Any

import fastconv
import numpy as np

from . import peak, peers


def cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configuration() -> str:
    """What `fastconv.show_config()` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        fastconv.show_config()
    return text.getvalue().strip()


def describe() -> dict[str, Any]:
    versions = {"Python": platform.python_version(), "NumPy": np.__version__, "fastconv": fastconv.__version__}
    if peers.torch is not None:
        versions["PyTorch"] = f"{peers.torch.__version__} ({peers.torch.backends.cpu.get_cpu_capability()})"
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "versions": versions,
        "configuration": configuration(),
        "peak source": peak.source(),
    }
