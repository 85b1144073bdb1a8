# Chains: the links of a low-rank or separable convolution in one call (csrc/engine/chain.c).
#
# The axes of a chain come checked from fastconv/functional/_chain.py: (size, kernel, stride, dilation, padding before, out)
# each. Arrays but the input and its gradient are of its dtype, and taken in C order.

cdef int read_chain(object axes, object batch, object channels, object middle, object out_channels, bint mixed,
                    bint split, object dtype, fc_chain *p) except -1:
    """Sizes into a problem; strides are those of contiguous arrays."""
    cdef int i, at
    p.real = FC_FLOAT32 if dtype == np.float32 else FC_FLOAT64
    p.mixed, p.split = mixed, split
    p.bounds = fc_bounds(0, 0, 0)
    p.batch, p.channels, p.middle, p.out_channels = batch, channels, middle, out_channels
    for i in range(3):
        p.window.in_[i] = p.window.out[i] = p.window.kernel[i] = p.window.stride[i] = p.window.dilation[i] = 1
        p.window.offset[i] = 0
    for i in range(len(axes)):
        at = 3 - len(axes) + i
        (p.window.in_[at], p.window.kernel[at], p.window.stride[at], p.window.dilation[at], p.window.offset[at],
         p.window.out[at]) = axes[i]
    contiguous_strides(p.batch, p.channels, p.window.in_, &p.x)
    contiguous_strides(p.batch, p.out_channels, p.window.out, &p.y)
    p.dx = p.x
    return 0


cdef fc_chain_arrays chain_arrays(Image *x, object first, object filters, object last, object bias, Image *y) except *:
    """Pointers; what is None or missing is NULL."""
    cdef fc_chain_arrays arrays
    cdef int i
    arrays.x = NULL if x == NULL else x.data
    arrays.y = NULL if y == NULL else y.data
    arrays.first = data_or_null(first)
    arrays.last = data_or_null(last)
    arrays.bias = data_or_null(bias)
    arrays.filter[0] = arrays.filter[1] = NULL
    for i in range(len(filters)):
        arrays.filter[i] = data_or_null(filters[i])
    return arrays


cdef void *data_or_null(object array) except? NULL:
    if array is None:
        return NULL
    if not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray?>array):
        raise ValueError("expected a contiguous array")
    return cnp.PyArray_DATA(<cnp.ndarray>array)


cdef object in_order(object array):
    """The array, or None, in C order and aligned: itself where it is."""
    return None if array is None else cnp.PyArray_FROM_OF(array, cnp.NPY_ARRAY_CARRAY_RO)


# The two kernel axes' factors (K, R) of a folded chain, and their product (R, KH, KW).  NumPy takes 2 us for the one, 3 for the
# other, of a few hundred numbers.
ctypedef fused tap:
    float
    double


cdef void fold_taps(const tap *column, const tap *row, int64_t height, int64_t width, int64_t rank, tap *folded) noexcept nogil:
    cdef int64_t r, l, k
    for l in range(height):
        for k in range(width):
            for r in range(rank):
                folded[(r * height + l) * width + k] = column[l * rank + r] * row[k * rank + r]


cdef void unfold_taps(const tap *folded, const tap *column, const tap *row, int64_t height, int64_t width, int64_t rank,
                      tap *d_column, tap *d_row) noexcept nogil:
    """The product's gradient contracted with either factor."""
    cdef int64_t r, l, k
    for r in range(rank):
        for l in range(height):
            d_column[l * rank + r] = 0
        for k in range(width):
            d_row[k * rank + r] = 0
    for l in range(height):
        for k in range(width):
            for r in range(rank):
                d_column[l * rank + r] += folded[(r * height + l) * width + k] * row[k * rank + r]
                d_row[k * rank + r] += folded[(r * height + l) * width + k] * column[l * rank + r]


def fold_filters(column, row):
    """``column[l,r] row[k,r]``, shape (R, KH, KW)."""
    cdef cnp.ndarray c = in_order(column), d = in_order(row)
    cdef int64_t height = c.shape[0], width = d.shape[0], rank = c.shape[1]
    cdef cnp.ndarray folded = np.empty((rank, height, width), c.dtype)
    if cnp.PyArray_TYPE(c) == cnp.NPY_FLOAT32:
        fold_taps(<const float *>c.data, <const float *>d.data, height, width, rank, <float *>folded.data)
    else:
        fold_taps(<const double *>c.data, <const double *>d.data, height, width, rank, <double *>folded.data)
    return folded


def unfold_filters(gradient, column, row):
    """Gradients of both from that of `fold_filters`, in the order of the arguments."""
    cdef cnp.ndarray g = in_order(gradient), c = in_order(column), d = in_order(row)
    cdef cnp.ndarray d_column = new_like(c), d_row = new_like(d)
    cdef int64_t height = c.shape[0], width = d.shape[0], rank = c.shape[1]
    if cnp.PyArray_TYPE(c) == cnp.NPY_FLOAT32:
        unfold_taps(<const float *>g.data, <const float *>c.data, <const float *>d.data, height, width, rank,
                    <float *>d_column.data, <float *>d_row.data)
    else:
        unfold_taps(<const double *>g.data, <const double *>c.data, <const double *>d.data, height, width, rank,
                    <double *>d_column.data, <double *>d_row.data)
    return d_column, d_row


# Plans, 19 KiB each, by what they depend on: those of a chain's links take 3 to 20 us together (separable s2 64-128@112 backward
# 20 of 740, and no less with two threads).
cdef dict chain_plans = {}
cdef enum: CHAIN_PLANS_MAX = 64


cdef int run_chain(const fc_chain *p, int wanted, const fc_chain_arrays *arrays, const fc_chain_arrays *gradients,
                   tuple key) except -1:
    """`key` holds what the problem depends on."""
    cdef fc_chain_plan made
    cdef const fc_chain_plan *plan
    cdef fc_status status
    key = (wanted, precision, fc_threads_get(), key)
    known = chain_plans.get(key)
    if known is None:
        raise_status(fc_chain_plan_make(&made, p, wanted, precision))
        if len(chain_plans) >= CHAIN_PLANS_MAX:
            chain_plans.clear()
        known = chain_plans[key] = (<char *>&made)[:sizeof(made)]
    plan = <const fc_chain_plan *><char *>known
    with nogil:
        status = fc_chain_execute(plan, arrays, gradients)
    return raise_status(status)


cdef tuple chain_key(object input, object grad_output, object axes, bint mixed, object filters, object last, object bounds):
    return (input.dtype.char, input.shape, input.strides, None if grad_output is None else grad_output.strides, *axes, mixed,
            len(filters), len(filters[0]), len(last), bounds)


cdef fc_bounds read_bounds(object bounds) except *:
    return fc_bounds(0, 0, 0) if bounds is None else fc_bounds(1, bounds[0], bounds[1])


def chain_forward(cnp.ndarray input, axes, first, filters, last, bias, bounds):
    """The output, of the input's layout; `first` is None where channels are filtered as they are, and may then be limited."""
    cdef Image x, y
    cdef fc_chain p
    cdef fc_chain_arrays arrays
    cdef int64_t size[5]
    cdef int count = len(axes), i
    input = read_array(input, "input")
    first, filters, last, bias = in_order(first), [in_order(taps) for taps in filters], in_order(last), in_order(bias)
    view_image(input, count, &x)
    read_chain(axes, x.size[0], x.size[1], len(filters[0]), len(last), first is not None, len(filters) == 2, input.dtype, &p)
    size[0], size[1] = p.batch, p.out_channels
    for i in range(3):
        size[2 + i] = p.window.out[i]
    output = new_image(size, count, x.kind, x.batched, is_channels_last(&x, count))
    view_image(output, count, &y)
    p.x, p.y, p.bounds = x.stride, y.stride, read_bounds(bounds)
    arrays = chain_arrays(&x, first, filters, last, bias, &y)
    run_chain(&p, 0, &arrays, NULL, chain_key(input, None, axes, first is not None, filters, last, bounds))
    return output


def chain_backward(cnp.ndarray grad_output, cnp.ndarray input, axes, first, filters, last, wanted, bounds):
    """Gradients (input, first, filters, last), None where `wanted`, four bools, says so."""
    cdef Image x, g, d
    cdef fc_chain p
    cdef fc_chain_arrays arrays, gradients
    cdef int64_t size[5]
    cdef int count = len(axes), i, bits = 0
    input, grad_output = read_array(input, "input"), read_array(grad_output, "grad_output")
    first, filters, last = in_order(first), [in_order(taps) for taps in filters], in_order(last)
    view_image(input, count, &x)
    view_image(grad_output, count, &g)
    read_chain(axes, x.size[0], x.size[1], len(filters[0]), len(last), first is not None, len(filters) == 2, input.dtype, &p)
    p.x, p.y, p.bounds = x.stride, g.stride, read_bounds(bounds)
    for i in range(4):
        bits |= <int>bool(wanted[i]) << i
    d_input = None
    if wanted[0]:
        for i in range(5):
            size[i] = x.size[i]
        d_input = new_image(size, count, x.kind, x.batched, is_channels_last(&x, count))
        view_image(d_input, count, &d)
        p.dx = d.stride
    d_first = new_like(first) if wanted[1] else None
    d_filters = [new_like(taps) if wanted[2] else None for taps in filters]
    d_last = new_like(last) if wanted[3] else None
    arrays = chain_arrays(&x, first, filters, last, None, &g)
    gradients = chain_arrays(&d if wanted[0] else NULL, d_first, d_filters, d_last, None, NULL)
    if bits:
        key = chain_key(input, grad_output, axes, first is not None, filters, last, bounds)
        run_chain(&p, bits, &arrays, &gradients, key)
    return d_input, d_first, d_filters, d_last


cdef bint holds(object array, int kind, tuple shape):
    """Whether it is an array of these numbers, in C order and aligned."""
    if not isinstance(array, np.ndarray) or array.shape != shape:
        return False
    cdef cnp.ndarray a = array
    return cnp.PyArray_TYPE(a) == kind and cnp.PyArray_ISCARRAY_RO(a)


def bottleneck(cnp.ndarray input, axes, first, first_bias, filter, filter_bias, last, last_bias, bounds):
    """An inverted residual's output, a new array without gaps, or None where arrays do not fit or the engine refuses it.

    `first` (channels, middle), `filter` (middle, 1, KH, KW), `last` (middle, out_channels); biases may be None.
    """
    cdef Image x, y
    cdef fc_chain c
    cdef fc_bottleneck p
    cdef fc_bottleneck_arrays arrays
    cdef fc_status status
    cdef int64_t size[5]
    cdef int i
    input = read_array(input, "input")
    view_image(input, 2, &x)
    middle, outputs, kernel = len(filter), last.shape[-1], (axes[0][1], axes[1][1])
    if not (holds(first, x.kind, (x.size[1], middle)) and holds(filter, x.kind, (middle, 1, *kernel))
            and holds(last, x.kind, (middle, outputs))):
        return None
    for bias, count in ((first_bias, middle), (filter_bias, middle), (last_bias, outputs)):
        if bias is not None and not holds(bias, x.kind, (count,)):
            return None
    read_chain(axes, x.size[0], x.size[1], middle, outputs, True, False, input.dtype, &c)
    p.real, p.batch, p.channels = c.real, c.batch, c.channels
    p.middle, p.out_channels, p.window, p.x, p.bounds = c.middle, c.out_channels, c.window, x.stride, read_bounds(bounds)
    size[0], size[1] = p.batch, p.out_channels
    for i in range(3):
        size[2 + i] = p.window.out[i]
    output = new_image(size, 2, x.kind, x.batched, False)
    view_image(output, 2, &y)
    p.y = y.stride
    arrays.x, arrays.y = x.data, y.data
    arrays.first, arrays.first_bias = data_or_null(first), data_or_null(first_bias)
    arrays.filter, arrays.filter_bias = data_or_null(filter), data_or_null(filter_bias)
    arrays.last, arrays.last_bias = data_or_null(last), data_or_null(last_bias)
    with nogil:
        status = fc_bottleneck_run(&p, &arrays)
    if status == FC_REFUSED:
        return None
    raise_status(status)
    return output


def channel_sums(cnp.ndarray array):
    """The sum of each channel of (N, C, *spatial)."""
    cdef Image image
    cdef cnp.ndarray sums
    array = read_array(array, "grad_output")
    view_image(array, cnp.PyArray_NDIM(array) - 2, &image)
    sums = np.empty(image.size[1], array.dtype)
    sum_channels(&image, cnp.PyArray_DATA(sums))
    return sums


def describe_chain(axes, batch, channels, middle, out_channels, bint mixed, bint split, dtype, wanted):
    """What a chain costs: a dict for the chooser and for ChainExplanation."""
    cdef fc_chain p
    cdef fc_chain_plan plan
    read_chain(axes, batch, channels, middle, out_channels, mixed, split, dtype, &p)
    raise_status(fc_chain_plan_make(&plan, &p, wanted, precision))
    return {"flops": 2 * plan.multiplications, "cost": plan.cost, "workspace": plan.scratch, "threads": plan.threads,
            "tiles": (plan.images, plan.rows, plan.columns, plan.parts), "outer": bool(plan.outer)}


# The orders in which a CP convolution's products can be taken.
cdef tuple CHAIN_ORDERS = ("folded", "split", "dense")

ctypedef struct Order:
    double cost            # estimated nanoseconds, infinite where refused
    int64_t flops
    int64_t workspace
    int64_t elements       # of the arrays read and written, gradients not counted
    int threads
    int64_t tile[4]


cdef int cost_chain(const fc_chain *p, int wanted, Order *order) except -1:
    cdef fc_chain_plan plan
    cdef int i
    raise_status(fc_chain_plan_make(&plan, p, wanted, precision))
    order.cost, order.flops, order.workspace, order.threads = plan.cost, 2 * plan.multiplications, plan.scratch, plan.threads
    order.tile = [plan.images, plan.rows, plan.columns, plan.parts]
    return 0


cdef fc_conv dense_problem(const fc_chain *p) noexcept:
    """The convolution with the dense kernel that a chain stands for."""
    cdef fc_conv q
    q.real, q.batch, q.groups, q.channels, q.out_channels = p.real, p.batch, 1, p.channels, p.out_channels
    q.window, q.x, q.y = p.window, p.x, p.y
    q.w.k[2], q.w.k[1] = 1, q.window.kernel[2]
    q.w.k[0] = q.w.c = q.window.kernel[1] * q.window.kernel[2]
    q.w.o = q.w.c * q.channels
    q.w.g = q.w.o * q.out_channels
    q.bounds = fc_bounds(0, 0, 0)
    return q


cdef fc_conv expansion_problem(const fc_chain *p) noexcept:
    """The product of matrices by which `cp_weight` expands the kernel."""
    cdef fc_conv q
    cdef int64_t width = mul(p.channels, p.window.kernel[1] * p.window.kernel[2])
    cdef int i
    q.real, q.batch, q.groups, q.channels, q.out_channels = p.real, 1, 1, p.middle, p.out_channels
    for i in range(3):
        q.window.in_[i] = q.window.out[i] = q.window.kernel[i] = q.window.stride[i] = q.window.dilation[i] = 1
        q.window.offset[i] = q.x.s[i] = q.y.s[i] = q.w.k[i] = 0
    q.window.in_[2] = q.window.out[2] = width
    q.x.n, q.x.c, q.x.s[2] = mul(width, p.middle), 1, p.middle
    q.y.n, q.y.c, q.y.s[2] = mul(width, p.out_channels), width, 1
    q.w.g, q.w.o, q.w.c = mul(p.middle, p.out_channels), p.middle, 1
    q.bounds = fc_bounds(0, 0, 0)
    return q


cdef int cost_dense(const fc_chain *p, int wanted, Order *order) except -1:
    """Expanding the kernel is a product of matrices and a call of NumPy's; contracting its gradient, two and a few.

    Measured / estimated, 64 to 256 channels at ranks of 16 to 512: 59 / 59, 114 / 103, 2920 / 2830 us; 165, 304, 7650 us beyond.
    """
    cdef fc_conv q = dense_problem(p), expansion = expansion_problem(p)
    cdef fc_conv_plan plan
    cdef fc_direction directions[2]
    cdef int count = 1, i
    cdef int64_t terms = mul(p.middle, q.w.o), products = mul(terms, p.out_channels), times = 1
    directions[0] = FC_FORWARD
    if wanted:
        count = 0
        if wanted & FC_CHAIN_INPUT:
            directions[count], count = FC_ADJOINT, count + 1
        if wanted & ~FC_CHAIN_INPUT:
            directions[count], count, times = FC_WEIGHT, count + 1, 3
    raise_status(fc_conv_plan_make(&plan, &expansion, FC_FORWARD, precision, NULL))
    order.cost, order.flops, order.workspace, order.threads = 1e4 + 0.1 * terms + plan.cost, 2 * mul(times, products), 0, 1
    if times > 1:
        order.cost += 4e4 + 0.6 * terms + 2 * plan.cost
    for i in range(count):
        raise_status(fc_conv_plan_make(&plan, &q, directions[i], precision, NULL))
        order.cost += plan.cost
        order.flops += 2 * plan.multiplications
        order.workspace = max(order.workspace, plan.scratch)
        order.threads = max(order.threads, plan.threads)
        order.tile = plan.tile
    return 0


cdef int cost_orders(object axes, int64_t batch, int64_t channels, int64_t rank, int64_t out_channels, object dtype, int wanted,
                     Order *orders) except -1:
    """All three, and the number of the cheapest."""
    cdef fc_chain p
    cdef int i, best = 0
    read_chain(axes, batch, channels, rank, out_channels, True, False, dtype, &p)
    cost_chain(&p, wanted, &orders[0])
    cost_dense(&p, wanted, &orders[2])
    orders[1].cost = INFINITY
    if p.window.kernel[1] > 1 and p.window.kernel[2] > 1:
        p.split = True
        cost_chain(&p, wanted, &orders[1])
    x = p.batch * p.channels * p.window.in_[1] * p.window.in_[2]
    y = p.batch * p.out_channels * p.window.out[1] * p.window.out[2]
    taps = p.window.kernel[1] * p.window.kernel[2]
    orders[0].elements = x + y + rank * (channels + taps + out_channels)
    orders[1].elements = x + y + rank * (channels + p.window.kernel[1] + p.window.kernel[2] + out_channels)
    orders[2].elements = x + y + channels * taps * out_channels
    for i in range(1, 3):
        if orders[i].cost < orders[best].cost:
            best = i
    return best


# Taps up to which the folded filter is never slower than the split one by more than 4 % (both passes, 60 shapes of 28 x 28 and
# 56 x 56, ranks of 8 to 64, Zen 5): 5x5.  The three estimates of 5x5s2 64-128@56 took 10 of 89 us, of its gradients 30 of 230.
cdef enum: FOLDED_TAPS = 25


cdef bint is_folded(object axes, int64_t channels, int64_t rank, int64_t out_channels) except -1:
    """Whether nothing needs to be estimated: a small kernel whose rank is far too low for the dense one."""
    cdef int64_t taps = 1, inside = 1, outside = 1
    for axis in axes:
        taps, inside, outside = mul(taps, axis[1]), mul(inside, axis[0]), mul(outside, axis[5])
    chain = mul(rank, mul(channels, inside)) / 1.0 + mul(rank, mul(taps + out_channels, outside))
    return taps <= FOLDED_TAPS and 6 * chain < mul(mul(channels, taps), mul(out_channels, outside))


# Orders by what they depend on: three estimates take 8 us, of gradients up to 30, as long as a small call (64-64@14 42 to 34 us).
cdef dict known_orders = {}
cdef enum: KNOWN_ORDERS_MAX = 1000


def choose_order(axes, int64_t batch, int64_t channels, int64_t rank, int64_t out_channels, dtype, int wanted):
    """The fastest order's name."""
    cdef Order orders[3]
    if is_folded(axes, channels, rank, out_channels):
        return CHAIN_ORDERS[0]
    key = (*axes, batch, channels, rank, out_channels, dtype.char, wanted, precision, fc_threads_get())
    order = known_orders.get(key)
    if order is None:
        order = CHAIN_ORDERS[cost_orders(axes, batch, channels, rank, out_channels, dtype, wanted, orders)]
        if len(known_orders) >= KNOWN_ORDERS_MAX:
            known_orders.clear()
        known_orders[key] = order
    return order


def describe_orders(axes, batch, channels, rank, out_channels, dtype, int wanted):
    """What `explain` tells of a CP convolution: the order taken, and all of them."""
    cdef Order orders[3]
    cdef int best = cost_orders(axes, batch, channels, rank, out_channels, dtype, wanted, orders), i
    if is_folded(axes, channels, rank, out_channels):
        best = 0
    item = np.dtype(dtype).itemsize
    rows = []
    for i in range(3):
        refused = orders[i].cost == INFINITY
        rows.append((CHAIN_ORDERS[i], "the kernel has one axis" if refused else None, orders[i].cost,
                     0 if refused else orders[i].workspace, 0 if refused else orders[i].flops,
                     0 if refused else item * orders[i].elements))
    return {"algorithm": CHAIN_ORDERS[best], "options": rows, "flops": orders[best].flops,
            "bytes": item * orders[best].elements, "workspace": orders[best].workspace, "threads": orders[best].threads,
            "tiles": tuple([orders[best].tile[i] for i in range(4)])}


def describe_separable(axes, batch, channels, middle, out_channels, dtype, int wanted):
    """What `explain` tells of a separable convolution; the dense kernel's figures are for comparison."""
    cdef fc_chain p
    cdef Order fused, dense
    read_chain(axes, batch, channels, middle, out_channels, False, False, dtype, &p)
    cost_chain(&p, wanted, &fused)
    cost_dense(&p, wanted, &dense)
    item = np.dtype(dtype).itemsize
    taps = p.window.kernel[1] * p.window.kernel[2]
    arrays = p.batch * (p.channels * p.window.in_[1] * p.window.in_[2] + p.out_channels * p.window.out[1] * p.window.out[2])
    rows = [("fused", None, fused.cost, fused.workspace, fused.flops, item * (arrays + p.middle * (taps + p.out_channels))),
            ("dense", "a separable kernel is not expanded", INFINITY, dense.workspace, dense.flops,
             item * (arrays + p.channels * taps * p.out_channels))]
    return {"algorithm": "fused", "options": rows, "flops": fused.flops, "bytes": rows[0][5], "workspace": fused.workspace,
            "threads": fused.threads, "tiles": tuple([fused.tile[i] for i in range(4)])}
