# Pooling and patches: the arguments of one call become an fc_pool or an fc_patches.

cdef extern from "fastconv.h" nogil:
    ctypedef enum fc_pool_kind:
        FC_POOL_MAX
        FC_POOL_MEAN

    ctypedef struct fc_pool:
        fc_real real
        fc_pool_kind kind
        int32_t adaptive
        int32_t count_padding
        double divisor
        int64_t batch
        int64_t channels
        fc_window window
        fc_array_strides x
        fc_array_strides y
        fc_array_strides index

    ctypedef struct fc_pool_plan:
        int32_t driver

    ctypedef struct fc_patches:
        fc_real real
        int64_t batch
        int64_t channels
        fc_window window
        fc_array_strides x
        int64_t n
        int64_t c
        int64_t tap
        int64_t stop

    int64_t fc_pool_size(int64_t in_, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int ceil_mode)
    fc_status fc_pool_plan_make(fc_pool_plan *plan, const fc_pool *problem, int indexed)
    fc_status fc_pool_execute(const fc_pool_plan *plan, const void *x, void *y, int64_t *index)
    fc_status fc_pool_mean_adjoint(const fc_pool *problem, void *x, const void *y)
    fc_status fc_pool_route(const fc_pool *problem, void *x, const void *y, const int64_t *index, int add, int64_t *wrong)
    fc_status fc_unfold(const fc_patches *problem, const void *x, void *columns)
    fc_status fc_fold(const fc_patches *problem, const void *columns, void *x)


cdef bint read_bool(object value, str name) except -1:
    if value is True or value is False:
        return value is True
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name}: expected a bool, got {value!r} of type {type(value).__name__}")


cdef int read_window(int axes, object kernel_size, object stride, object padding, object dilation, bint half,
                     fc_window *w) except -1:
    """Kernel, stride (None for the kernel's), padding (at most half the kernel where `half`) and dilation."""
    cdef int i
    read_ints(kernel_size, "kernel_size", axes, 1, 1, w.kernel)
    if stride is None:
        w.stride[:] = w.kernel
    else:
        read_ints(stride, "stride", axes, 1, 1, w.stride)
    read_ints(padding, "padding", axes, 0, 0, w.offset)
    read_ints(dilation, "dilation", axes, 1, 1, w.dilation)
    for i in range(3):
        if half and w.offset[i] > w.kernel[i] / 2:
            raise ValueError(f"padding: expected at most half of kernel_size {w.kernel[i]}, got {w.offset[i]} on spatial axis "
                             f"{i - 3 + axes}")
    return 0


cdef int count_stops(int axes, const int64_t *size, bint ceil_mode, fc_window *w) except -1:
    """How often the window fits an image of these sizes."""
    cdef int i
    for i in range(3):
        w.in_[i] = size[2 + i]
        w.out[i] = fc_pool_size(w.in_[i], w.kernel[i], w.stride[i], w.offset[i], w.dilation[i], ceil_mode)
        if w.out[i] < 1:
            reach = (<object>w.kernel[i] - 1) * w.dilation[i] + 1     # may exceed 64 bits
            raise ValueError(f"kernel_size: expected a window that fits the padded input, got {w.kernel[i]} with dilation "
                             f"{w.dilation[i]} (spans {reach}) on size {w.in_[i]} with padding {w.offset[i]} on spatial axis "
                             f"{i - 3 + axes}")
    return 0


cdef int read_output_size(int axes, object value, const int64_t *size, fc_window *w) except -1:
    """Sizes of an adaptive pooling's result; None stands for the input's size."""
    cdef int i
    if value is None:
        value = (None,) * axes
    if isinstance(value, (tuple, list)) and None in value and len(value) == axes:
        value = [size[5 - axes + i] if value[i] is None else value[i] for i in range(axes)]
    read_ints(value, "output_size", axes, 0, 1, w.out)
    for i in range(3):
        w.in_[i] = size[2 + i]
        if w.in_[i] < 1:
            raise ValueError(f"input: expected at least one element on every spatial axis, got size 0 on spatial axis "
                             f"{i - 3 + axes}")
    return 0


cdef int start_pool(const Image *image, fc_pool_kind kind, fc_pool *p) noexcept:
    p.real = real_of(image.kind)
    p.kind = kind
    p.adaptive = p.count_padding = 0
    p.divisor = 0
    p.batch = image.size[0]
    p.channels = image.size[1]
    return 0


cdef int read_average(object count_include_pad, object divisor_override, fc_pool *p) except -1:
    p.count_padding = read_bool(count_include_pad, "count_include_pad")
    if divisor_override is not None:
        p.divisor = <double>read_int(divisor_override, "divisor_override", -INT64_MAX)
        if p.divisor == 0:
            raise ValueError("divisor_override: expected an int other than 0, got 0")
    return 0


cdef object pool(int axes, const Image *x, fc_pool *p, bint indexed):
    """The result, or the result and its indices, of a problem that lacks strides."""
    cdef Image y, index
    cdef fc_pool_plan plan
    cdef fc_status status
    cdef int64_t size[5]
    cdef bint channels_last = is_channels_last(x, axes)
    cdef cnp.ndarray y_array, index_array = None
    size[0], size[1] = x.size[0], x.size[1]
    size[2], size[3], size[4] = p.window.out[0], p.window.out[1], p.window.out[2]
    y_array = new_image(size, axes, x.kind, x.batched, channels_last)
    view_image(y_array, axes, &y)
    p.x, p.y = x.stride, y.stride
    index.data = NULL
    if indexed:
        index_array = new_image(size, axes, cnp.NPY_INT64, x.batched, channels_last)
        view_image(index_array, axes, &index)
        p.index = index.stride
    status = fc_pool_plan_make(&plan, p, indexed)
    if status == FC_OK:
        with nogil:
            status = fc_pool_execute(&plan, x.data, y.data, <int64_t *>index.data)
    if status != FC_OK:
        raise_status(status)
    return (y_array, index_array) if indexed else y_array


def max_pool(int axes, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    cdef Image x
    cdef fc_pool p
    cdef cnp.ndarray array = read_image(input, "input", axes, &x)
    start_pool(&x, FC_POOL_MAX, &p)
    read_window(axes, kernel_size, stride, padding, dilation, True, &p.window)
    count_stops(axes, x.size, read_bool(ceil_mode, "ceil_mode"), &p.window)
    return pool(axes, &x, &p, read_bool(return_indices, "return_indices"))


def avg_pool(int axes, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None):
    cdef Image x
    cdef fc_pool p
    cdef cnp.ndarray array = read_image(input, "input", axes, &x)
    start_pool(&x, FC_POOL_MEAN, &p)
    read_window(axes, kernel_size, stride, padding, 1, True, &p.window)
    count_stops(axes, x.size, read_bool(ceil_mode, "ceil_mode"), &p.window)
    read_average(count_include_pad, divisor_override, &p)
    return pool(axes, &x, &p, False)


def adaptive_max_pool(int axes, input, output_size, return_indices):
    cdef Image x
    cdef fc_pool p
    cdef cnp.ndarray array = read_image(input, "input", axes, &x)
    start_pool(&x, FC_POOL_MAX, &p)
    p.adaptive = 1
    read_output_size(axes, output_size, x.size, &p.window)
    return pool(axes, &x, &p, read_bool(return_indices, "return_indices"))


def adaptive_avg_pool(int axes, input, output_size):
    cdef Image x
    cdef fc_pool p
    cdef cnp.ndarray array = read_image(input, "input", axes, &x)
    start_pool(&x, FC_POOL_MEAN, &p)
    p.adaptive = 1
    read_output_size(axes, output_size, x.size, &p.window)
    return pool(axes, &x, &p, False)


cdef cnp.ndarray spread_mean(int axes, const Image *grad, const int64_t *size, fc_pool *p):
    """The input gradient, of these sizes, of a mean whose problem lacks strides."""
    cdef Image x
    cdef fc_status status
    cdef cnp.ndarray array = new_image(size, axes, grad.kind, grad.batched, is_channels_last(grad, axes))
    view_image(array, axes, &x)
    p.x, p.y = x.stride, grad.stride
    with nogil:
        status = fc_pool_mean_adjoint(p, x.data, grad.data)
    if status != FC_OK:
        raise_status(status)
    return array


def avg_pool_backward(int axes, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad,
                      divisor_override=None):
    cdef Image grad
    cdef fc_pool p
    cdef int64_t size[5]
    cdef int64_t expected[5]
    cdef bint batched
    cdef cnp.ndarray array = read_image(grad_output, "grad_output", axes, &grad)
    read_size(input_size, "input_size", axes, size, &batched)
    start_pool(&grad, FC_POOL_MEAN, &p)
    read_window(axes, kernel_size, stride, padding, 1, True, &p.window)
    count_stops(axes, size, read_bool(ceil_mode, "ceil_mode"), &p.window)
    read_average(count_include_pad, divisor_override, &p)
    expected[0], expected[1] = size[0], size[1]
    expected[2], expected[3], expected[4] = p.window.out[0], p.window.out[1], p.window.out[2]
    check_gradient(&grad, expected, batched, axes, array)
    return spread_mean(axes, &grad, size, &p)


cdef int read_plane_size(int axes, object value, const Image *grad, cnp.ndarray array, int64_t *size) except -1:
    """`input_size` with the batch and channels of grad_output."""
    cdef bint batched
    read_size(value, "input_size", axes, size, &batched)
    if batched != grad.batched or size[0] != grad.size[0] or size[1] != grad.size[1]:
        raise ValueError(f"input_size: expected the batch and channels of grad_output's shape {shape_of(array)}, got {value}")
    return 0


def adaptive_avg_pool_backward(int axes, grad_output, input_size):
    cdef Image grad
    cdef fc_pool p
    cdef int64_t size[5]
    cdef int i
    cdef cnp.ndarray array = read_image(grad_output, "grad_output", axes, &grad)
    read_plane_size(axes, input_size, &grad, array, size)
    start_pool(&grad, FC_POOL_MEAN, &p)
    p.adaptive = 1
    for i in range(3):
        p.window.in_[i], p.window.out[i] = size[2 + i], grad.size[2 + i]
        if size[2 + i] < 1:
            raise ValueError(f"input_size: expected at least one element on every spatial axis, got {input_size}")
    return spread_mean(axes, &grad, size, &p)


cdef cnp.ndarray read_indices(object value, int axes, cnp.ndarray values, str values_name, Image *image):
    """An int64 array of the values' shape."""
    cdef cnp.ndarray array = value if cnp.PyArray_Check(value) else as_array(value, "indices")
    if cnp.PyArray_TYPE(array) != cnp.NPY_INT64 or not cnp.PyArray_ISNOTSWAPPED(array):
        raise TypeError(f"indices: expected an array of dtype int64 in native byte order, got {array.dtype}")
    if not cnp.PyArray_SAMESHAPE(array, values):
        raise ValueError(f"indices: expected shape {shape_of(values)} as {values_name} has, got {shape_of(array)}")
    cdef int i
    for i in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_STRIDE(array, i) % 8 or not cnp.PyArray_ISALIGNED(array):
            array = array.copy()
            break
    view_image(array, axes, image)
    return array


cdef cnp.ndarray route(int axes, const Image *values, const Image *index, const int64_t *size, bint add):
    """An image of these sizes, zero but where indices put (or add) the values."""
    cdef Image x
    cdef fc_pool p
    cdef fc_status status
    cdef int64_t wrong = 0
    cdef int i
    cdef cnp.ndarray array = new_image(size, axes, values.kind, values.batched, is_channels_last(values, axes))
    view_image(array, axes, &x)
    start_pool(values, FC_POOL_MAX, &p)
    for i in range(3):
        p.window.in_[i], p.window.out[i] = size[2 + i], values.size[2 + i]
    p.x, p.y, p.index = x.stride, values.stride, index.stride
    with nogil:
        status = fc_pool_route(&p, x.data, values.data, <const int64_t *>index.data, add, &wrong)
    if status == FC_INVALID and not 0 <= wrong < size[2] * size[3] * size[4]:
        raise ValueError(f"indices: expected flat positions in one channel of {size[2] * size[3] * size[4]} elements, "
                         f"got {wrong}")
    if status != FC_OK:
        raise_status(status)
    return array


def max_pool_backward(int axes, grad_output, indices, input_size):
    """max_pool{axes}d_backward and adaptive_max_pool{axes}d_backward."""
    cdef Image grad, index
    cdef int64_t size[5]
    cdef cnp.ndarray array = read_image(grad_output, "grad_output", axes, &grad)
    cdef cnp.ndarray index_array = read_indices(indices, axes, array, "grad_output", &index)
    read_plane_size(axes, input_size, &grad, array, size)
    return route(axes, &grad, &index, size, True)


def max_unpool(int axes, input, indices, kernel_size, stride, padding, output_size):
    cdef Image x, index
    cdef fc_window w
    cdef int64_t size[5]
    cdef int64_t wanted[3]
    cdef int i
    cdef cnp.ndarray array = read_image(input, "input", axes, &x)
    cdef cnp.ndarray index_array = read_indices(indices, axes, array, "input", &index)
    read_window(axes, kernel_size, stride, padding, 1, False, &w)
    if isinstance(output_size, (tuple, list)) and len(output_size) == cnp.PyArray_NDIM(array):
        output_size = output_size[len(output_size) - axes:]
    if output_size is not None:
        read_ints(output_size, "output_size", axes, 0, 1, wanted)
    size[0], size[1] = x.size[0], x.size[1]
    for i in range(3):
        # Python's integers: the sum may exceed 64 bits.
        usual = (<object>x.size[2 + i] - 1) * w.stride[i] - 2 * <object>w.offset[i] + w.kernel[i]
        if output_size is not None and i >= 3 - axes and not usual - w.stride[i] < wanted[i] < usual + w.stride[i]:
            raise ValueError(f"output_size: expected more than {usual - w.stride[i]} and less than {usual + w.stride[i]} on "
                             f"spatial axis {i - 3 + axes} for kernel_size {w.kernel[i]}, stride {w.stride[i]} and padding "
                             f"{w.offset[i]}, got {output_size}")
        usual = wanted[i] if output_size is not None and i >= 3 - axes else usual
        if not 0 < usual < INT64_MAX / 8:
            raise ValueError(f"kernel_size, stride, padding: expected an output that 64 bits can index, got size {usual} on "
                             f"spatial axis {i - 3 + axes}")
        size[2 + i] = usual
    return route(axes, &x, &index, size, False)


cdef int read_patches(const int64_t *size, object kernel_size, object dilation, object padding, object stride,
                      fc_patches *p) except -1:
    """The windows of an image of these sizes; leaves the arrays' strides unset."""
    read_window(2, kernel_size, stride, padding, dilation, False, &p.window)
    count_stops(2, size, False, &p.window)
    p.batch, p.channels = size[0], size[1]
    return 0


cdef int64_t patch_taps(const fc_patches *p) noexcept:
    return mul(p.window.kernel[1], p.window.kernel[2])


def unfold(input, kernel_size, dilation, padding, stride):
    cdef Image x
    cdef fc_patches p
    cdef fc_status status
    cdef cnp.npy_intp shape[3]
    cdef cnp.ndarray array = read_image(input, "input", 2, &x), columns
    read_patches(x.size, kernel_size, dilation, padding, stride, &p)
    p.real = real_of(x.kind)
    p.x = x.stride
    shape[0], shape[1] = x.size[0], mul(x.size[1], patch_taps(&p))
    shape[2] = mul(p.window.out[1], p.window.out[2])
    columns = new_array(3, shape, x.kind)
    p.tap, p.stop = shape[2], 1
    p.c = p.tap * patch_taps(&p)
    p.n = p.c * p.channels
    with nogil:
        status = fc_unfold(&p, x.data, cnp.PyArray_DATA(columns))
    if status != FC_OK:
        raise_status(status)
    return columns if x.batched else columns[0]


def fold(input, output_size, kernel_size, dilation, padding, stride):
    cdef fc_patches p
    cdef Image x
    cdef fc_status status
    cdef int64_t size[5]
    cdef int64_t stops, taps, channels, bytes_
    cdef int last
    cdef cnp.ndarray columns = read_array(input, "input"), array
    last = cnp.PyArray_NDIM(columns) - 1
    if last != 1 and last != 2:
        raise ValueError(f"input: expected shape (N, C * KH * KW, L) or (C * KH * KW, L), got {last + 1}-D shape "
                         f"{shape_of(columns)}")
    size[0], size[1] = cnp.PyArray_DIM(columns, 0) if last == 2 else 1, 1
    read_ints(output_size, "output_size", 2, 1, 1, &size[2])
    read_patches(size, kernel_size, dilation, padding, stride, &p)
    taps, stops, channels = patch_taps(&p), mul(p.window.out[1], p.window.out[2]), cnp.PyArray_DIM(columns, last - 1)
    if channels % taps:
        raise ValueError(f"input: expected a multiple of kernel_size's {taps} elements on axis {last - 1}, got {channels} "
                         f"in shape {shape_of(columns)}")
    if cnp.PyArray_DIM(columns, last) != stops:
        raise ValueError(f"input: expected {stops} windows ({p.window.out[1]} x {p.window.out[2]}) on axis {last} for "
                         f"output_size {output_size}, got {cnp.PyArray_DIM(columns, last)} in shape {shape_of(columns)}")
    p.channels = size[1] = channels / taps
    array = new_image(size, 2, cnp.PyArray_TYPE(columns), last == 2, False)
    view_image(array, 2, &x)
    bytes_ = cnp.PyArray_ITEMSIZE(columns)
    p.real = real_of(x.kind)
    p.x = x.stride
    p.stop = cnp.PyArray_STRIDE(columns, last) / bytes_
    p.tap = cnp.PyArray_STRIDE(columns, last - 1) / bytes_
    p.c = p.tap * taps
    p.n = cnp.PyArray_STRIDE(columns, 0) / bytes_ if last == 2 else 0
    with nogil:
        status = fc_fold(&p, cnp.PyArray_DATA(columns), x.data)
    if status != FC_OK:
        raise_status(status)
    return array
