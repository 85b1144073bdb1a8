# cython: language_level=3, cdivision=True
"""The one extension module: NumPy arrays and Python options in, one call of the C engine, exceptions out.

_memory.pxi allocates results, _args.pxi reads arguments; _conv.pxi, _chain.pxi, _pool.pxi and _elementwise.pxi are the
operations; here are the C interface and the configuration. Public functions, with their documentation, are in
fastconv/functional and fastconv/_config.py.
"""
cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_NoMemory
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, INT64_MAX

import os

import numpy as np

cnp.import_array()


cdef extern from "fastconv.h" nogil:
    enum:
        FC_AXES
        FC_ALGORITHMS_MAX
        FC_CHAIN_INPUT
        FC_CHAIN_FIRST
        FC_CHAIN_FILTER
        FC_CHAIN_LAST

    ctypedef enum fc_status:
        FC_OK
        FC_INVALID
        FC_NO_MEMORY
        FC_REFUSED

    ctypedef enum fc_real:
        FC_FLOAT32
        FC_FLOAT64

    ctypedef enum fc_direction:
        FC_FORWARD
        FC_ADJOINT
        FC_WEIGHT

    ctypedef enum fc_precision:
        FC_PRECISION_HIGH
        FC_PRECISION_HIGHEST

    # Embedded names: the C header calls the first field `in`.
    ctypedef struct fc_window:
        int64_t in_ "in"[3]
        int64_t kernel[3]
        int64_t out[3]
        int64_t stride[3]
        int64_t dilation[3]
        int64_t offset[3]

    ctypedef struct fc_array_strides:
        int64_t n
        int64_t c
        int64_t s[3]

    ctypedef struct fc_weight_strides:
        int64_t g
        int64_t o
        int64_t c
        int64_t k[3]

    ctypedef struct fc_bounds:
        int32_t on
        double low
        double high

    ctypedef struct fc_conv:
        fc_real real
        int64_t batch
        int64_t groups
        int64_t channels
        int64_t out_channels
        fc_window window
        fc_array_strides x
        fc_array_strides y
        fc_weight_strides w
        fc_bounds bounds

    ctypedef struct fc_conv_plan:
        int32_t algorithm
        int32_t threads
        int64_t multiplications
        int64_t scratch
        double cost
        int64_t tile[4]

    ctypedef struct fc_chain:
        fc_real real
        int32_t mixed
        int32_t split
        int64_t batch
        int64_t channels
        int64_t middle
        int64_t out_channels
        fc_window window
        fc_array_strides x
        fc_array_strides y
        fc_array_strides dx
        fc_bounds bounds

    ctypedef struct fc_chain_plan:
        int32_t threads
        int32_t outer
        int64_t images
        int64_t rows
        int64_t columns
        int64_t parts
        int64_t multiplications
        int64_t scratch
        double cost

    ctypedef struct fc_chain_arrays:
        void *x
        void *first
        void *filter[2]
        void *last
        void *bias
        void *y

    fc_status fc_chain_plan_make(fc_chain_plan *plan, const fc_chain *problem, int gradients, fc_precision precision)
    fc_status fc_chain_execute(const fc_chain_plan *plan, const fc_chain_arrays *arrays, const fc_chain_arrays *gradients)

    ctypedef struct fc_bottleneck:
        fc_real real
        int64_t batch
        int64_t channels
        int64_t middle
        int64_t out_channels
        fc_window window
        fc_array_strides x
        fc_array_strides y
        fc_bounds bounds

    ctypedef struct fc_bottleneck_arrays:
        const void *x
        const void *first
        const void *first_bias
        const void *filter
        const void *filter_bias
        const void *last
        const void *last_bias
        void *y

    fc_status fc_bottleneck_run(const fc_bottleneck *problem, const fc_bottleneck_arrays *arrays)

    ctypedef struct fc_conv_option:
        const char *name
        const char *reason
        double cost
        int64_t scratch

    fc_status fc_conv_plan_make(fc_conv_plan *plan, const fc_conv *problem, fc_direction direction, fc_precision precision,
                                const char *algorithm)
    fc_status fc_conv_execute(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
    void fc_channel_sums(fc_real real, const int64_t *size, const fc_array_strides *strides, const void *x, void *sums)
    int fc_conv_options(const fc_conv *problem, fc_direction direction, fc_precision precision, fc_conv_option *options)
    const char *fc_conv_algorithm_name(fc_direction direction, int algorithm)
    int fc_threads_get()
    void fc_threads_set(int threads)
    int fc_threads_default()
    fc_status fc_isa_cap(const char *cap)
    const char *fc_isa_name()
    int fc_isa_available(const char **names, int capacity)


cdef int raise_status(fc_status status) except -1:
    """The one place where the engine's status becomes an exception."""
    if status == FC_NO_MEMORY:
        PyErr_NoMemory()
    if status == FC_INVALID:
        raise ValueError("the sizes of the arrays and options, multiplied, exceed what 64 bits can index")
    if status == FC_REFUSED:
        raise ValueError("the algorithm cannot serve this problem")
    return 0


include "_memory.pxi"
include "_args.pxi"
include "_conv.pxi"
include "_chain.pxi"
include "_pool.pxi"
include "_elementwise.pxi"


# Configuration: process-wide, read by every call.

cdef fc_precision precision = FC_PRECISION_HIGH


def set_precision(bint highest):
    global precision
    precision = FC_PRECISION_HIGHEST if highest else FC_PRECISION_HIGH


def get_precision():
    return "highest" if precision == FC_PRECISION_HIGHEST else "high"


def get_threads():
    return fc_threads_get()


def set_threads(int threads):
    fc_threads_set(threads)


def default_threads():
    return fc_threads_default()


def cap_isa(cap):
    """Use at most this instruction set; False where the name is unknown."""
    cdef bytes name = cap.encode()
    chain_plans.clear()  # made for another
    known_orders.clear()
    return fc_isa_cap(name) == FC_OK


def isa_name():
    return fc_isa_name().decode()


def isa_available():
    cdef const char *names[8]
    return [names[i].decode() for i in range(fc_isa_available(names, 8))]
