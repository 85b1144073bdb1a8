# Convolution: the arguments of one call become an fc_conv, which serves forward, adjoint and weight gradient.

ConvGradients = None     # set by fastconv.functional.conv, which documents it


def set_gradients_type(type_):
    global ConvGradients
    ConvGradients = type_


ctypedef struct Sizes:
    # What the geometry of a convolution is made of: the arrays' sizes, whichever of them exist.
    int64_t x[5]
    int64_t w[5]


cdef int read_conv(int axes, bint transposed, object stride, object padding, object dilation, object groups,
                   object output_padding, const Sizes *sizes, str weight_name, fc_conv *p, int64_t *output) except -1:
    """Options and sizes into the geometry (strides and dtype unset) and the sizes N, C, D, H, W of the output."""
    cdef Options options
    cdef int64_t extra[3]
    cdef int i
    read_ints(stride, "stride", axes, 1, 1, options.stride)
    read_ints(dilation, "dilation", axes, 1, 1, options.dilation)
    options.groups = read_int(groups, "groups", 1)
    read_padding(padding, axes, not transposed, &sizes.x[2], &sizes.w[2], &options)
    check_channels(sizes, axes, options.groups, transposed, weight_name)
    if transposed:
        read_output_padding(output_padding, axes, &options, extra)
    fill_conv(axes, sizes, &options, transposed, extra, weight_name, p)
    output[0] = sizes.x[0]
    output[1] = mul(p.groups, p.channels) if transposed else sizes.w[0]
    for i in range(3):
        output[2 + i] = p.window.in_[i] if transposed else p.window.out[i]
    return 0


cdef cnp.ndarray read_weight(object value, str name, int axes, int64_t *size):
    cdef cnp.ndarray array = read_array(value, name)
    cdef int i
    if cnp.PyArray_NDIM(array) != axes + 2:
        kernel = ("K", "KH, KW", "KD, KH, KW")[axes - 1]
        raise ValueError(f"{name}: expected {axes + 2}-D shape (channels, channels per group, {kernel}), got {shape_of(array)}")
    size[0] = cnp.PyArray_DIM(array, 0)
    size[1] = cnp.PyArray_DIM(array, 1)
    for i in range(3):
        size[2 + i] = cnp.PyArray_DIM(array, axes - 1 + i) if i >= 3 - axes else 1
    return array


cdef int check_channels(const Sizes *sizes, int axes, int64_t groups, bint transposed, str name) except -1:
    """input's channels against weight's and groups."""
    cdef int64_t channels = sizes.x[1]
    if sizes.w[0] % groups:
        raise ValueError(f"groups: expected a divisor of {name}'s first axis {sizes.w[0]}, got {groups}")
    if transposed and channels != sizes.w[0]:
        raise ValueError(f"{name}: expected a first axis of {channels} as input has channels, got {sizes.w[0]}")
    if not transposed and channels != mul(sizes.w[1], groups):
        raise ValueError(f"{name}: expected a second axis of {channels}/{groups} (input's channels / groups), got shape "
                         f"{tuple([sizes.w[i] for i in range(5) if i < 2 or i >= 5 - axes])}")
    return 0


cdef int64_t mul(int64_t a, int64_t b) noexcept:
    """a * b of sizes, or INT64_MAX where it does not fit."""
    return INT64_MAX if b and a > INT64_MAX // b else a * b


cdef int fill_conv(int axes, const Sizes *sizes, const Options *options, bint transposed, const int64_t *output_padding,
                   str weight_name, fc_conv *p) except -1:
    """The geometry of a convolution; for a transposed one, of the convolution whose adjoint it is. Leaves strides unset."""
    cdef int i
    cdef int64_t span, room, bound = INT64_MAX // 8
    cdef fc_window *w = &p.window
    p.bounds = fc_bounds(0, 0, 0)
    p.batch = sizes.x[0]
    p.groups = options.groups
    p.channels = sizes.w[1]
    p.out_channels = sizes.w[0] // options.groups
    for i in range(3):
        w.kernel[i] = sizes.w[2 + i]
        w.stride[i] = options.stride[i]
        w.dilation[i] = options.dilation[i]
        w.offset[i] = options.before[i]
        if w.kernel[i] == 0:
            raise ValueError(f"{weight_name}: expected a kernel with at least one element on every axis, got size 0 on spatial "
                             f"axis {i - 3 + axes}")
        span = mul(w.dilation[i], w.kernel[i] - 1)
        if (span > bound or options.before[i] > bound or options.after[i] > bound or w.stride[i] > bound
                or sizes.x[2 + i] > bound or w.dilation[i] > bound or mul(sizes.x[2 + i], w.stride[i]) > bound):
            raise ValueError(f"stride, padding, dilation: expected sizes that 64 bits can index, got stride {w.stride[i]}, padding "
                             f"({options.before[i]}, {options.after[i]}), dilation {w.dilation[i]} on spatial axis {i - 3 + axes}")
        if transposed:
            w.out[i] = sizes.x[2 + i]
            w.in_[i] = (w.out[i] - 1) * w.stride[i] - options.before[i] - options.after[i] + span + output_padding[i] + 1
            if w.in_[i] < (1 if w.out[i] else 0):
                raise ValueError(f"padding: expected an output of at least one element, got size {w.in_[i]} on spatial axis "
                                 f"{i - 3 + axes} (input {w.out[i]}, kernel {w.kernel[i]}, stride {w.stride[i]}, padding "
                                 f"({options.before[i]}, {options.after[i]}), dilation {w.dilation[i]})")
        else:
            w.in_[i] = sizes.x[2 + i]
            room = w.in_[i] + options.before[i] + options.after[i] - span - 1
            if room < 0:
                raise ValueError(f"{weight_name}: expected a kernel that fits the padded input, got kernel {w.kernel[i]} with dilation "
                                 f"{w.dilation[i]} (spans {span + 1}) on input {w.in_[i]} with padding ({options.before[i]}, "
                                 f"{options.after[i]}) on spatial axis {i - 3 + axes}")
            w.out[i] = room // w.stride[i] + 1
    return 0


cdef int set_weight_strides(fc_conv *p, cnp.ndarray weight, int axes) noexcept:
    cdef int64_t bytes = cnp.PyArray_ITEMSIZE(weight)
    cdef int i
    p.w.o = cnp.PyArray_STRIDE(weight, 0) // bytes
    p.w.g = p.w.o * p.out_channels
    p.w.c = cnp.PyArray_STRIDE(weight, 1) // bytes
    for i in range(3):
        p.w.k[i] = cnp.PyArray_STRIDE(weight, axes - 1 + i) // bytes if i >= 3 - axes else 0
    return 0


cdef int run(const fc_conv *p, fc_direction direction, object algorithm, void *x, void *w, void *bias, void *y) except -1:
    cdef fc_conv_plan plan
    cdef fc_status status
    cdef bytes name = None
    cdef const char *c_name = NULL
    if algorithm is not None and algorithm != "auto":
        if not isinstance(algorithm, str):
            raise TypeError(f"algorithm: expected a str, got {algorithm!r}")
        name = algorithm.encode("utf-8", "replace")
        c_name = name
    status = fc_conv_plan_make(&plan, p, direction, precision, c_name)
    if status != FC_OK:
        if name is not None:
            refuse(p, direction, algorithm)
        raise_status(status)
    with nogil:
        status = fc_conv_execute(&plan, x, w, bias, y)
    if status != FC_OK:
        raise_status(status)
    return 0


cdef int refuse(const fc_conv *p, fc_direction direction, str algorithm) except -1:
    """Raises the reason why this algorithm was not taken."""
    rows = list_options(p, direction)
    for row in rows:
        if row[0] == algorithm and row[1] is not None:
            raise ValueError(f"algorithm: expected one that serves this problem, got {algorithm!r}: {row[1]}")
    if rows and algorithm not in [row[0] for row in rows]:
        names = ", ".join(repr(row[0]) for row in rows)
        raise ValueError(f"algorithm: expected 'auto' or one of {names}, got {algorithm!r}")
    if rows and direction == FC_ADJOINT:
        raise ValueError(f"algorithm: expected one that serves every phase of the stride, got {algorithm!r}: it serves the largest")
    return 0


cdef list list_options(const fc_conv *p, fc_direction direction):
    """(name, reason or None, estimated ns, scratch bytes) of every algorithm of the direction."""
    cdef fc_conv_option options[16]
    cdef int count = fc_conv_options(p, direction, precision, options), i
    return [(options[i].name.decode(), None if options[i].reason == NULL else options[i].reason.decode(), options[i].cost,
             options[i].scratch) for i in range(count)]


cdef fc_real real_of(int kind) noexcept nogil:
    return FC_FLOAT32 if kind == cnp.NPY_FLOAT else FC_FLOAT64


cdef cnp.ndarray read_bias(object value, int64_t channels, cnp.ndarray input):
    cdef cnp.ndarray array = read_array(value, "bias")
    check_same_kind(array, "bias", input, "input")
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != channels:
        raise ValueError(f"bias: expected shape ({channels},), one per output channel, got {shape_of(array)}")
    return array if cnp.PyArray_IS_C_CONTIGUOUS(array) else array.copy()


def convolve(int axes, bint transposed, input, weight, bias, stride, padding, dilation, groups, out, algorithm,
             output_padding=0, bounds=None):
    """conv{axes}d or conv_transpose{axes}d; bounds (low, high) limit the former's outputs where they are written."""
    cdef Image x, y
    cdef Sizes sizes
    cdef fc_conv p
    cdef int64_t size[5]
    cdef cnp.ndarray x_array = read_image(input, "input", axes, &x)
    cdef cnp.ndarray w_array = read_weight(weight, "weight", axes, sizes.w)
    cdef cnp.ndarray b_array = None, y_array, target
    check_same_kind(w_array, "weight", x_array, "input")
    sizes.x[:] = x.size
    read_conv(axes, transposed, stride, padding, dilation, groups, output_padding, &sizes, "weight", &p, size)
    p.real = real_of(x.kind)
    set_weight_strides(&p, w_array, axes)
    if bias is not None:
        b_array = read_bias(bias, size[1], x_array)
    if out is None:
        y_array = new_image(size, axes, x.kind, x.batched, is_channels_last(&x, axes))
    else:
        y_array = check_out(out, size, axes, x.kind, x.batched)
    target = y_array
    if out is not None and not can_write_directly(y_array, (x_array, w_array, b_array)):
        target = new_image(size, axes, x.kind, x.batched, False)
    view_image(target, axes, &y)
    cdef void *b_data = NULL if b_array is None else cnp.PyArray_DATA(b_array)
    if transposed:
        p.x, p.y = y.stride, x.stride
        run(&p, FC_ADJOINT, algorithm, y.data, cnp.PyArray_DATA(w_array), b_data, x.data)
    else:
        p.x, p.y = x.stride, y.stride
        if bounds is not None:
            p.bounds = fc_bounds(1, bounds[0], bounds[1])
        run(&p, FC_FORWARD, algorithm, x.data, cnp.PyArray_DATA(w_array), b_data, y.data)
    if target is not y_array:
        np.copyto(y_array, target)
    return y_array if out is None else out


cdef int read_output_padding(object value, int axes, const Options *options, int64_t *extra) except -1:
    cdef int i
    read_ints(value, "output_padding", axes, 0, 0, extra)
    for i in range(3 - axes, 3):
        if extra[i] >= options.stride[i] and extra[i] >= options.dilation[i]:
            raise ValueError(f"output_padding: expected less than stride or dilation, got {extra[i]} with stride "
                             f"{options.stride[i]} and dilation {options.dilation[i]} on spatial axis {i - 3 + axes}")
    return 0


cdef int read_size(object value, str name, int axes, int64_t *size, bint *batched) except -1:
    """A shape (N, C, *spatial) or (C, *spatial) into five sizes."""
    cdef int i, count
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a tuple of ints, got {value!r}")
    count = len(value)
    if count != axes + 2 and (batched == NULL or count != axes + 1):
        raise ValueError(f"{name}: expected {axes + 2} ints, got {value!r}")
    for i in range(5):
        size[i] = 1
    for i in range(axes):
        size[5 - axes + i] = read_int(value[count - axes + i], name, 0)
    size[1] = read_int(value[count - axes - 1], name, 0)
    if count == axes + 2:
        size[0] = read_int(value[0], name, 0)
    if batched != NULL:
        batched[0] = count == axes + 2
    return 0


cdef int check_gradient(const Image *grad, const int64_t *size, bint batched, int axes, cnp.ndarray array) except -1:
    """grad_output against the output that the other arguments give."""
    cdef int i
    cdef bint fits = grad.batched == batched
    for i in range(5):
        fits = fits and grad.size[i] == size[i]
    if not fits:
        expected = tuple([size[i] for i in range(0 if batched else 1, 2)] + [size[i] for i in range(5 - axes, 5)])
        raise ValueError(f"grad_output: expected the output's shape {expected}, got {shape_of(array)}")
    return 0


cdef bint all_bools(tuple entries) noexcept:
    for item in entries:
        if item is not True and item is not False:
            return False
    return True


cdef tuple read_mask(object mask):
    if type(mask) is tuple and len(<tuple>mask) == 3 and all_bools(<tuple>mask):
        return mask
    try:
        entries = tuple(mask)
    except TypeError:
        raise TypeError(f"output_mask: expected three bools (input, weight, bias), got {mask!r}") from None
    if len(entries) != 3:
        raise ValueError(f"output_mask: expected three bools (input, weight, bias), got {mask!r}")
    if not all(isinstance(item, (bool, np.bool_)) for item in entries):
        raise TypeError(f"output_mask: expected three bools (input, weight, bias), got {mask!r}")
    return entries


cdef cnp.ndarray new_gradient(const int64_t *size, int axes, int kind, bint batched, const Image *like):
    return new_image(size, axes, kind, batched, is_channels_last(like, axes))


cdef int run_gradients(fc_conv *p, int axes, bint transposed, const Image *x, cnp.ndarray weight, const Image *g,
                       cnp.ndarray d_input, cnp.ndarray d_weight, cnp.ndarray d_bias, object algorithm) except -1:
    """Fill the gradients that are not None."""
    cdef Image d
    if d_input is not None:
        set_weight_strides(p, weight, axes)
        view_image(d_input, axes, &d)
        if transposed:
            p.x, p.y = g.stride, d.stride
            run(p, FC_FORWARD, algorithm, g.data, cnp.PyArray_DATA(weight), NULL, d.data)
        else:
            p.x, p.y = d.stride, g.stride
            run(p, FC_ADJOINT, algorithm, d.data, cnp.PyArray_DATA(weight), NULL, g.data)
    if d_weight is not None:
        set_weight_strides(p, d_weight, axes)
        if transposed:
            p.x, p.y = g.stride, x.stride
            run(p, FC_WEIGHT, algorithm, g.data, cnp.PyArray_DATA(d_weight), NULL, x.data)
        else:
            p.x, p.y = x.stride, g.stride
            run(p, FC_WEIGHT, algorithm, x.data, cnp.PyArray_DATA(d_weight), NULL, g.data)
    if d_bias is not None:
        sum_channels(g, cnp.PyArray_DATA(d_bias))
    return 0


def gradients(int axes, bint transposed, grad_output, input, weight, stride, padding, dilation, groups, output_mask,
              output_padding=0):
    """conv{axes}d_backward or conv_transpose{axes}d_backward."""
    cdef Image x, g
    cdef Sizes sizes
    cdef fc_conv p
    cdef int64_t size[5]
    cdef cnp.ndarray d_input = None, d_weight = None, d_bias = None
    cdef cnp.ndarray g_array = read_image(grad_output, "grad_output", axes, &g)
    want_input, want_weight, want_bias = read_mask(output_mask)
    cdef cnp.ndarray x_array = read_image(input, "input", axes, &x)
    cdef cnp.ndarray w_array = read_weight(weight, "weight", axes, sizes.w)
    check_same_kind(x_array, "input", g_array, "grad_output")
    check_same_kind(w_array, "weight", g_array, "grad_output")
    sizes.x[:] = x.size
    read_conv(axes, transposed, stride, padding, dilation, groups, output_padding, &sizes, "weight", &p, size)
    check_gradient(&g, size, x.batched, axes, g_array)
    p.real = real_of(g.kind)
    if want_input:
        d_input = new_gradient(sizes.x, axes, g.kind, x.batched, &x)
    if want_weight:
        d_weight = new_weight(sizes.w, axes, g.kind)
    if want_bias:
        d_bias = cnp.PyArray_EMPTY(1, <cnp.npy_intp *>&size[1], g.kind, 0)
    run_gradients(&p, axes, transposed, &x, w_array, &g, d_input, d_weight, d_bias, None)
    return tuple.__new__(ConvGradients, (d_input, d_weight, d_bias))     # half the price of the type's own constructor


def input_gradient(int axes, input_size, weight, grad_output, stride, padding, dilation, groups, algorithm):
    """conv{axes}d_input."""
    cdef Image g
    cdef Sizes sizes
    cdef fc_conv p
    cdef int64_t size[5]
    cdef bint batched
    cdef cnp.ndarray d_input
    cdef cnp.ndarray g_array = read_image(grad_output, "grad_output", axes, &g)
    cdef cnp.ndarray w_array = read_weight(weight, "weight", axes, sizes.w)
    check_same_kind(w_array, "weight", g_array, "grad_output")
    read_size(input_size, "input_size", axes, sizes.x, &batched)
    read_conv(axes, False, stride, padding, dilation, groups, 0, &sizes, "weight", &p, size)
    check_gradient(&g, size, batched, axes, g_array)
    p.real = real_of(g.kind)
    d_input = new_gradient(sizes.x, axes, g.kind, batched, &g)
    run_gradients(&p, axes, False, NULL, w_array, &g, d_input, None, None, algorithm)
    return d_input


def weight_gradient(int axes, input, weight_size, grad_output, stride, padding, dilation, groups, algorithm):
    """conv{axes}d_weight."""
    cdef Image x, g
    cdef Sizes sizes
    cdef fc_conv p
    cdef int64_t size[5]
    cdef cnp.ndarray d_weight
    cdef cnp.ndarray g_array = read_image(grad_output, "grad_output", axes, &g)
    cdef cnp.ndarray x_array = read_image(input, "input", axes, &x)
    check_same_kind(x_array, "input", g_array, "grad_output")
    sizes.x[:] = x.size
    read_size(weight_size, "weight_size", axes, sizes.w, NULL)
    read_conv(axes, False, stride, padding, dilation, groups, 0, &sizes, "weight_size", &p, size)
    check_gradient(&g, size, x.batched, axes, g_array)
    p.real = real_of(g.kind)
    d_weight = new_weight(sizes.w, axes, g.kind)
    run_gradients(&p, axes, False, &x, None, &g, None, d_weight, None, algorithm)
    return d_weight


cdef cnp.ndarray new_weight(const int64_t *size, int axes, int kind):
    cdef cnp.npy_intp shape[5]
    cdef int i
    shape[0], shape[1] = size[0], size[1]
    for i in range(axes):
        shape[2 + i] = size[5 - axes + i]
    return new_array(axes + 2, shape, kind)


cdef int sum_channels(const Image *image, void *sums) noexcept:
    with nogil:
        fc_channel_sums(real_of(image.kind), image.size, &image.stride, image.data, sums)
    return 0


def describe(int axes, direction, bint transposed, input, weight, dtype, stride, padding, dilation, groups, output_padding):
    """What the chooser thinks of a problem over these arrays, or contiguous ones of these shapes: a dict for Explanation."""
    cdef Image x
    cdef Sizes sizes
    cdef fc_conv p
    cdef fc_conv_plan plan
    cdef int64_t size[5]
    cdef bint batched, last = False, is_image = isinstance(input, np.ndarray), is_weight = isinstance(weight, np.ndarray)
    cdef cnp.ndarray w_array = None
    cdef int i
    if is_image:
        read_image(input, "input_shape", axes, &x)
        sizes.x[:] = x.size
        last = is_channels_last(&x, axes)
    else:
        read_size(input, "input_shape", axes, sizes.x, &batched)
    if is_weight:
        w_array = read_weight(weight, "weight_shape", axes, sizes.w)
    else:
        read_size(weight, "weight_shape", axes, sizes.w, NULL)
    read_conv(axes, transposed, stride, padding, dilation, groups, output_padding, &sizes, "weight_shape", &p, size)
    p.real = FC_FLOAT32 if dtype == np.float32 else FC_FLOAT64
    new_strides(p.batch, p.groups * p.channels, p.window.in_, last, &p.x)
    new_strides(p.batch, p.groups * p.out_channels, p.window.out, last, &p.y)
    if is_image and transposed:
        p.y = x.stride
    elif is_image:
        p.x = x.stride
    if is_weight and direction != "weight":
        set_weight_strides(&p, w_array, axes)
    else:
        p.w.k[2], p.w.k[1] = 1, p.window.kernel[2]
        p.w.k[0] = p.window.kernel[1] * p.window.kernel[2]
        p.w.c = p.window.kernel[0] * p.w.k[0]
        p.w.o = p.w.c * p.channels
        p.w.g = p.w.o * p.out_channels
    cdef fc_direction problem = {"forward": FC_FORWARD, "input": FC_ADJOINT, "weight": FC_WEIGHT}[direction]
    if transposed and problem != FC_WEIGHT:
        problem = FC_FORWARD if problem == FC_ADJOINT else FC_ADJOINT
    raise_status(fc_conv_plan_make(&plan, &p, problem, precision, NULL))
    item = 4 if p.real == FC_FLOAT32 else 8
    counts = [p.batch * p.groups * p.channels * p.window.in_[0] * p.window.in_[1] * p.window.in_[2],
              p.groups * p.out_channels * p.channels * p.window.kernel[0] * p.window.kernel[1] * p.window.kernel[2],
              p.batch * p.groups * p.out_channels * p.window.out[0] * p.window.out[1] * p.window.out[2]]
    return {
        "algorithm": fc_conv_algorithm_name(problem, plan.algorithm).decode(),
        "options": list_options(&p, problem),
        "flops": 2 * plan.multiplications,
        "bytes": item * sum(counts),
        "workspace": plan.scratch,
        "threads": plan.threads,
        "tiles": tuple([plan.tile[i] for i in range(4)]),
        "output_shape": tuple([p.window.in_[i] if transposed else p.window.out[i] for i in range(3 - axes, 3)]),
    }


cdef int new_strides(int64_t n, int64_t c, const int64_t *size, bint last, fc_array_strides *strides) noexcept:
    """Those of an array as a call makes it, channels last where its input has them."""
    contiguous_strides(n, c, size, strides)
    if last:
        strides.c = 1
        strides.s[2], strides.s[1], strides.s[0] = c, size[2] * c, size[1] * size[2] * c
    return 0


cdef int contiguous_strides(int64_t n, int64_t c, const int64_t *size, fc_array_strides *strides) noexcept:
    strides.s[2], strides.s[1], strides.s[0] = 1, size[2], size[1] * size[2]
    strides.c = size[0] * strides.s[0]
    strides.n = c * strides.c
    return 0
