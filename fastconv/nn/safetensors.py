"""Reading the safetensors format: a header in JSON, then the arrays' bytes; nothing in it can be executed."""

from __future__ import annotations

import json
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "BF16": "<u2",
}
LONGEST_HEADER = 100_000_000  # bytes, as the format's own reader has it


def load_safetensors(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, ready for `load_state_dict`.

    The file is the header's length as a 64-bit little-endian integer, a JSON object ``{name: {"dtype": ..., "shape":
    [...], "data_offsets": [begin, end]}}``, and the arrays, row-major and little-endian.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict of str to ndarray
        In the file's order and dtypes; bfloat16, which NumPy does not have, as float32, which loses nothing.

    Raises
    ------
    ValueError
        If the file is cut off or is no such file, and for dtypes that NumPy does not have.
    OSError
        If it cannot be read.

    References
    ----------
    https://github.com/huggingface/safetensors, "Format".

    Examples
    --------
    >>> import json, tempfile
    >>> from fastconv import nn
    >>> header = json.dumps({"bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     size = file.write(len(header).to_bytes(8, "little") + header + bytes([0, 0, 128, 63, 0, 0, 0, 64]))
    ...     file.flush()
    ...     nn.load_safetensors(file.name)
    {'bias': array([1., 2.], dtype=float32)}
    """
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, LONGEST_HEADER):
        raise ValueError(f"{path} is no safetensors file: its header would have {length} of {len(data)} bytes")
    try:
        header = json.loads(data[8 : 8 + length])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no safetensors file: its header is no JSON object ({error})") from None
    body = memoryview(data)[8 + length :]
    return {name: _array(f"{path}: {name!r}", entry, body) for name, entry in entries.items()}


def _array(name: str, entry: Any, body: memoryview) -> np.ndarray:
    """One array, copied out of the file's bytes."""
    try:
        kind, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name} must have dtype, shape and two data_offsets, got {entry!r}") from None
    if kind not in DTYPES:
        raise ValueError(f"{name} has dtype {kind}, expected one of {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[kind])
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(body) or end - begin != prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} of shape {shape}, {kind}, does not fit its bytes {begin} to {end} of {len(body)}")
    array = np.frombuffer(body[begin:end], dtype).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(dtype.newbyteorder("="))
