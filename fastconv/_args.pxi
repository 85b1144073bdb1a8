# Reading arguments. Every function that fails names the argument, what it was and what was expected.
#
# The common case (an aligned float array, plain ints as options) costs tens of nanoseconds; whatever else a user may
# hand in takes a slower path below it.

ctypedef struct Image:
    # An array (N, C, *spatial) or (C, *spatial) with strides in elements; leading spatial axes have size 1.
    char *data
    int64_t size[5]
    fc_array_strides stride
    int kind      # cnp.NPY_FLOAT or cnp.NPY_DOUBLE
    bint batched


ctypedef struct Options:
    int64_t stride[3]
    int64_t dilation[3]
    int64_t before[3]
    int64_t after[3]
    int64_t groups


cdef str spatial_names(int axes):
    return ("L", "H, W", "D, H, W")[axes - 1]


cdef str shape_of(cnp.ndarray array):
    return str((<object>array).shape)


cdef cnp.ndarray read_array(object value, str name):
    """The value as an aligned float32 or float64 ndarray; copied only where its memory cannot be addressed in elements."""
    cdef cnp.ndarray array
    cdef int i, kind
    if cnp.PyArray_Check(value):
        array = value
    else:
        array = as_array(value, name)
    kind = cnp.PyArray_TYPE(array)
    if (kind != cnp.NPY_FLOAT and kind != cnp.NPY_DOUBLE) or not cnp.PyArray_ISNOTSWAPPED(array):
        raise TypeError(f"{name}: expected an array of dtype float32 or float64 in native byte order, got {array.dtype}")
    if not cnp.PyArray_ISALIGNED(array):
        return array.copy()
    cdef cnp.npy_intp size = 4 if kind == cnp.NPY_FLOAT else 8
    for i in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_STRIDE(array, i) % size:
            return array.copy()
    return array


cdef cnp.ndarray as_array(object value, str name):
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name}: expected an array of dtype float32 or float64, got {type(value).__name__}: {error}") from None
    return array


cdef int check_same_kind(cnp.ndarray array, str name, cnp.ndarray other, str other_name) except -1:
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(other):
        raise TypeError(f"{name}: expected dtype {other.dtype} as {other_name} has, got {array.dtype}")
    return 0


cdef int view_image(cnp.ndarray array, int axes, Image *image) noexcept:
    """Shape and strides as N, C, D, H, W, for an array of axes + 1 or axes + 2 dimensions."""
    cdef int ndim = cnp.PyArray_NDIM(array), i, at
    cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(array)
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(array)
    image.kind = cnp.PyArray_TYPE(array)
    cdef int64_t bytes = 4 if image.kind == cnp.NPY_FLOAT else 8
    image.data = cnp.PyArray_BYTES(array)
    image.batched = ndim == axes + 2
    at = 1 if image.batched else 0
    image.size[0] = shape[0] if image.batched else 1
    image.stride.n = strides[0] // bytes if image.batched else 0
    image.size[1] = shape[at]
    image.stride.c = strides[at] // bytes
    for i in range(3 - axes):
        image.size[2 + i] = 1
        image.stride.s[i] = 0
    for i in range(axes):
        image.size[5 - axes + i] = shape[at + 1 + i]
        image.stride.s[3 - axes + i] = strides[at + 1 + i] // bytes
    return 0


cdef cnp.ndarray read_image(object value, str name, int axes, Image *image):
    """An input (N, C, *spatial), or (C, *spatial) without a batch."""
    cdef cnp.ndarray array = read_array(value, name)
    cdef int ndim = cnp.PyArray_NDIM(array)
    if ndim != axes + 1 and ndim != axes + 2:
        raise ValueError(f"{name}: expected shape (N, C, {spatial_names(axes)}) or (C, {spatial_names(axes)}), "
                         f"got {ndim}-D shape {shape_of(array)}")
    view_image(array, axes, image)
    return array


cdef int64_t read_int(object value, str name, int64_t least) except? -1:
    """One integer that is at least `least`; numpy integers too, but no bool and no float."""
    if type(value) is not int:
        if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}: expected an int, got {value!r} of type {type(value).__name__}")
        value = value.__index__()
    cdef int64_t number
    try:
        number = value
    except OverflowError:
        raise ValueError(f"{name}: expected an int of at least {least} that fits 64 bits, got {value}") from None
    if number < least:
        raise ValueError(f"{name}: expected an int of at least {least}, got {number}")
    return number


cdef int read_ints(object value, str name, int axes, int64_t least, int64_t fill, int64_t *out) except -1:
    """An int for all axes or one per axis, into the last of three places; the others become `fill`."""
    cdef int i
    cdef int64_t number
    for i in range(3 - axes):
        out[i] = fill
    if type(value) is int:
        number = read_int(value, name, least)
        for i in range(axes):
            out[3 - axes + i] = number
        return 0
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        if len(value) == 1:
            value = list(value) * axes
        if len(value) != axes:
            raise ValueError(f"{name}: expected an int or {axes} ints (one per spatial axis), got {value!r}")
        for i in range(axes):
            out[3 - axes + i] = read_int(value[i], name, least)
        return 0
    return read_ints(int(read_int(value, name, least)), name, axes, least, fill, out)


cdef int read_padding(object value, int axes, bint named, const int64_t *size, const int64_t *kernel,
                      Options *options) except -1:
    """Padding before and after each axis; `options` holds stride and dilation already. `named` admits "same" and "valid"."""
    cdef int i
    cdef int64_t total
    if type(value) is int:
        read_ints(value, "padding", axes, 0, 0, options.before)
        for i in range(3):
            options.after[i] = options.before[i]
        return 0
    for i in range(3):
        options.before[i] = options.after[i] = 0
    if isinstance(value, str):
        if not named or value not in ("same", "valid"):
            expected = "an int, ints, (before, after) pairs" + (", 'same' or 'valid'" if named else "")
            raise ValueError(f"padding: expected {expected}, got {value!r}")
        if value == "same":
            for i in range(3 - axes, 3):
                total = ((size[i] + options.stride[i] - 1) // options.stride[i] - 1) * options.stride[i] \
                    + options.dilation[i] * (kernel[i] - 1) + 1 - size[i]
                total = max(total, 0)
                options.before[i] = total // 2
                options.after[i] = total - total // 2
        return 0
    if isinstance(value, (tuple, list)) and any(isinstance(item, (tuple, list, np.ndarray)) for item in value):
        if len(value) != axes or not all(isinstance(item, (tuple, list, np.ndarray)) and len(item) == 2 for item in value):
            raise ValueError(f"padding: expected {axes} (before, after) pairs, one per spatial axis, got {value!r}")
        for i in range(axes):
            options.before[3 - axes + i] = read_int(value[i][0], "padding", 0)
            options.after[3 - axes + i] = read_int(value[i][1], "padding", 0)
        return 0
    read_ints(value, "padding", axes, 0, 0, options.before)
    for i in range(3):
        options.after[i] = options.before[i]
    return 0


cdef bint is_channels_last(const Image *image, int axes) noexcept:
    """Memory order N, spatial axes, C: PyTorch's rule, where axes of size 1 do not decide; never a C-contiguous array."""
    cdef int64_t least = 0
    cdef int i
    if image.stride.c != 1 or image.size[1] < 2:
        return False
    least = image.size[1]
    for i in range(2, 2 - axes, -1):
        if image.size[2 + i] > 1:
            if image.stride.s[i] < least:
                return False
            least = image.stride.s[i] * image.size[2 + i]
    if image.batched and image.size[0] > 1 and image.stride.n < least:
        return False
    return least > image.size[1]     # some spatial axis is larger than 1


cdef cnp.ndarray new_image(const int64_t *size, int axes, int kind, bint batched, bint channels_last):
    """An empty array of sizes N, C, D, H, W, without the axes that the caller's arrays do not have."""
    cdef cnp.npy_intp shape[5]
    cdef cnp.npy_intp order[5]
    cdef cnp.PyArray_Dims permutation
    cdef int ndim = 0, i
    if batched:
        shape[0] = size[0]
        ndim = 1
    if not channels_last:
        shape[ndim] = size[1]
        ndim += 1
    for i in range(5 - axes, 5):
        shape[ndim] = size[i]
        ndim += 1
    if channels_last:
        shape[ndim] = size[1]
        ndim += 1
    cdef cnp.ndarray array = new_array(ndim, shape, kind)
    if not channels_last:
        return array
    cdef int first = 1 if batched else 0
    order[0] = 0
    order[first] = ndim - 1
    for i in range(first + 1, ndim):
        order[i] = i - 1
    permutation.ptr = order
    permutation.len = ndim
    return cnp.PyArray_Transpose(array, &permutation)


cdef bint overlaps_itself(cnp.ndarray array) noexcept:
    """Whether two elements may share memory (conservative: False only where strides nest)."""
    cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(array)
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(array)
    cdef int ndim = cnp.PyArray_NDIM(array), i, j
    cdef cnp.npy_intp stride, extent, inner
    for i in range(ndim):
        if shape[i] < 2:
            continue
        stride = strides[i] if strides[i] >= 0 else -strides[i]
        inner = cnp.PyArray_ITEMSIZE(array)
        for j in range(ndim):
            extent = strides[j] if strides[j] >= 0 else -strides[j]
            if j != i and shape[j] > 1 and (extent < stride or (extent == stride and j > i)):
                inner += extent * (shape[j] - 1)
        if stride < inner:
            return True
    return False


cdef cnp.ndarray check_out(object out, const int64_t *size, int axes, int kind, bint batched):
    """`out` as an array of the right shape and dtype that can be written to."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    cdef tuple expected = tuple([size[i] for i in range(0 if batched else 1, 2)] + [size[i] for i in range(5 - axes, 5)])
    cdef cnp.ndarray array = out
    if cnp.PyArray_TYPE(array) != kind or not cnp.PyArray_ISNOTSWAPPED(array):
        raise TypeError(f"out: expected dtype {'float32' if kind == cnp.NPY_FLOAT else 'float64'} as input has, got {out.dtype}")
    if out.shape != expected:
        raise ValueError(f"out: expected shape {expected}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    return array


cdef bint can_write_directly(cnp.ndarray out, tuple inputs):
    """Whether the engine may write `out` while it reads the inputs."""
    if read_array(out, "out") is not out or overlaps_itself(out):
        return False
    return not any(item is not None and np.may_share_memory(out, item) for item in inputs)
