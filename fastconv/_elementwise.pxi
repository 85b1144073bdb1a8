# What fastconv.nn and fastconv.optim compute between convolutions. Private: the layers have checked shapes and dtypes.

cdef extern from "fastconv.h" nogil:
    ctypedef struct fc_momentum:
        double keep
        double fraction
        double momentum
        double lr
        int nesterov

    ctypedef struct fc_batch_norm:
        fc_real real
        int64_t batch
        int64_t channels
        int64_t pixels
        int from_batch
        double eps
        double *mean
        double *variance
        const double *weight
        const double *bias

    void fc_gate(fc_real real, int64_t count, double low, double high, const void *y, const void *gradient, void *dst)
    void fc_residual_add(fc_real real, int64_t count, double low, double high, const void *x, void *y)
    void fc_momentum_step(fc_real real, int64_t count, const fc_momentum *rule, const void *gradient, void *velocity,
                          void *parameter)
    void fc_batch_norm_forward(const fc_batch_norm *problem, const void *x, void *y)
    void fc_batch_norm_gradient(const fc_batch_norm *problem, const void *x, const void *gradient, double *grad_weight,
                                double *grad_bias, void *dx)


cdef cnp.ndarray contiguous(object value, str name):
    """The value as an aligned, C-contiguous array of float32 or float64."""
    return np.asarray(read_array(value, name), order="C")


def gate(y, gradient, double low, double high, bint in_place=False):
    """The gradient where ``low < y < high``, and zeros elsewhere; a NaN in y, or as a bound, closes nothing."""
    cdef cnp.ndarray at = contiguous(y, "y"), g = contiguous(gradient, "gradient")
    cdef cnp.ndarray out = g if in_place else new_like(at)
    cdef fc_real real = real_of(cnp.PyArray_TYPE(at))
    check_same_kind(g, "gradient", at, "y")
    if g.size != at.size:
        raise ValueError(f"gradient: expected shape {shape_of(at)}, got {shape_of(g)}")
    with nogil:
        fc_gate(real, cnp.PyArray_SIZE(at), low, high, cnp.PyArray_DATA(at), cnp.PyArray_DATA(g), cnp.PyArray_DATA(out))
    return out


def add(cnp.ndarray y, cnp.ndarray x, limits):
    """``y += x`` for arrays of one shape, limited to (low, high) unless that is None."""
    cdef double low = -INFINITY, high = INFINITY
    cdef fc_real real = real_of(cnp.PyArray_TYPE(y))
    check_same_kind(x, "x", y, "y")
    if np.shape(x) != np.shape(y):
        raise ValueError(f"x: expected shape {shape_of(y)}, got {shape_of(x)}")
    if limits is not None:
        low, high = limits
    if cnp.PyArray_IS_C_CONTIGUOUS(y) and cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_ISALIGNED(x):
        with nogil:
            fc_residual_add(real, cnp.PyArray_SIZE(y), low, high, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    else:
        np.add(y, x, out=y)
        np.clip(y, low, high, out=y)


def momentum_step(parameter, velocity, gradient, double keep, double fraction, double momentum, double lr, bint nesterov):
    """``velocity = keep velocity + fraction gradient`` and the step along it, both arrays in place."""
    cdef cnp.ndarray w = contiguous(parameter, "parameter"), u = contiguous(velocity, "velocity")
    cdef cnp.ndarray g = contiguous(np.asarray(gradient, w.dtype), "gradient")
    cdef fc_momentum rule = fc_momentum(keep, fraction, momentum, lr, nesterov)
    cdef fc_real real = real_of(cnp.PyArray_TYPE(w))
    check_same_kind(u, "velocity", w, "parameter")
    if not g.size == u.size == w.size:
        raise ValueError(f"gradient and velocity: expected shape {shape_of(w)}, got {shape_of(g)} and {shape_of(u)}")
    if not (parameter.flags.writeable and velocity.flags.writeable):
        raise ValueError("parameter and velocity: expected arrays that can be written, got a read-only one")
    with nogil:
        fc_momentum_step(real, cnp.PyArray_SIZE(w), &rule, cnp.PyArray_DATA(g), cnp.PyArray_DATA(u), cnp.PyArray_DATA(w))
    if not np.shares_memory(w, parameter):
        parameter[...] = w.reshape(np.shape(parameter))
    if not np.shares_memory(u, velocity):
        velocity[...] = u.reshape(np.shape(velocity))


cdef int read_norm(cnp.ndarray x, mean, variance, weight, bias, double eps, bint from_batch, fc_batch_norm *p) except -1:
    """x is (N, C, pixels); the others, which the caller keeps alive, are C numbers each, contiguous float64."""
    cdef cnp.ndarray part
    cdef double *values[4]
    cdef int i
    if cnp.PyArray_NDIM(x) != 3:
        raise ValueError(f"x: expected shape (N, C, pixels), got {shape_of(x)}")
    for i, value in enumerate((mean, variance, weight, bias)):
        part = value
        if cnp.PyArray_TYPE(part) != cnp.NPY_DOUBLE or not part.flags.c_contiguous or part.size != x.shape[1]:
            raise ValueError(f"expected {x.shape[1]} contiguous float64 numbers per channel, got {shape_of(part)} {part.dtype}")
        values[i] = <double *>cnp.PyArray_DATA(part)
    p.real, p.batch, p.channels, p.pixels = real_of(cnp.PyArray_TYPE(x)), x.shape[0], x.shape[1], x.shape[2]
    p.from_batch, p.eps = from_batch, eps
    p.mean, p.variance, p.weight, p.bias = values[0], values[1], values[2], values[3]
    return 0


def batch_norm(x, mean, variance, weight, bias, double eps, bint from_batch, bint in_place=False):
    """y for x (N, C, pixels); with `from_batch`, `mean` and `variance` are written, else read."""
    cdef cnp.ndarray rows = contiguous(x, "x")
    cdef cnp.ndarray y = rows if in_place else new_like(rows)
    cdef fc_batch_norm problem
    read_norm(rows, mean, variance, weight, bias, eps, from_batch, &problem)
    with nogil:
        fc_batch_norm_forward(&problem, cnp.PyArray_DATA(rows), cnp.PyArray_DATA(y))
    return y


def batch_norm_gradient(x, gradient, mean, variance, weight, double eps, bint from_batch, bint input_gradient):
    """(dx or None, dL/dweight, dL/dbias), the latter two in float64."""
    cdef cnp.ndarray rows = contiguous(x, "x"), g = contiguous(gradient, "gradient")
    cdef cnp.ndarray grad_weight = np.empty(np.shape(mean)), grad_bias = np.empty(np.shape(mean))
    cdef fc_batch_norm problem
    cdef void *dx = NULL
    read_norm(rows, mean, variance, weight, weight, eps, from_batch, &problem)
    check_same_kind(g, "gradient", rows, "x")
    if g.size != rows.size:
        raise ValueError(f"gradient: expected shape {shape_of(rows)}, got {shape_of(g)}")
    out = new_like(rows) if input_gradient else None
    if out is not None:
        dx = cnp.PyArray_DATA(out)
    with nogil:
        fc_batch_norm_gradient(&problem, cnp.PyArray_DATA(rows), cnp.PyArray_DATA(g), <double *>cnp.PyArray_DATA(grad_weight),
                               <double *>cnp.PyArray_DATA(grad_bias), dx)
    return out, grad_weight, grad_bias
