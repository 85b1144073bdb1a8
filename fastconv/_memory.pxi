# Arrays that operations return: through NumPy's interface for allocators (NEP 49), memory of base/blocks.

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memcpy, memset


cdef extern from "base/blocks.h" nogil:
    void *fc_block_take(int64_t bytes)
    void fc_block_give(void *block)
    int64_t fc_block_size(const void *block)


cdef extern from *:
    """
    static PyDataMem_Handler fc_handler = {.name = "fastconv", .version = 1};
    """
    cnp.PyDataMem_Handler fc_handler
    PyObject *PyDataMem_DefaultHandler


# Below, an array's own caches serve it as well, and exchanging the handlers would take longer than it saves.
cdef enum: LEAST_BYTES = 1 << 15


cdef void *take_block(void *unused, size_t bytes) noexcept nogil:
    return fc_block_take(<int64_t>bytes)


cdef void *take_zeros(void *unused, size_t count, size_t size) noexcept nogil:
    cdef void *block = NULL if size and count > <size_t>INT64_MAX // size else fc_block_take(<int64_t>(count * size))
    if block:
        memset(block, 0, count * size)
    return block


cdef void give_block(void *unused, void *block, size_t bytes) noexcept nogil:
    if block:
        fc_block_give(block)


cdef void *resize_block(void *unused, void *block, size_t bytes) noexcept nogil:
    cdef void *other
    if block and <int64_t>bytes <= fc_block_size(block):
        return block
    other = fc_block_take(<int64_t>bytes)
    if block and other:
        memcpy(other, block, <size_t>fc_block_size(block))
        fc_block_give(block)
    return other


fc_handler.allocator = cnp.PyDataMemAllocator(NULL, take_block, take_zeros, resize_block, give_block)
cdef object handler = PyCapsule_New(&fc_handler, "mem_handler", NULL)


cdef cnp.ndarray new_array(int ndim, cnp.npy_intp *shape, int kind):
    """An empty C-contiguous array; where the caller has set an allocator of his own for NumPy, he gets that one."""
    cdef double bytes = 4 if kind == cnp.NPY_FLOAT else 8
    cdef object previous
    cdef int i
    for i in range(ndim):
        bytes *= <double>shape[i]
    if bytes < LEAST_BYTES:
        return cnp.PyArray_EMPTY(ndim, shape, kind, 0)
    previous = cnp.PyDataMem_SetHandler(handler)
    if <PyObject *>previous != PyDataMem_DefaultHandler:
        cnp.PyDataMem_SetHandler(previous)
        return cnp.PyArray_EMPTY(ndim, shape, kind, 0)
    try:
        return cnp.PyArray_EMPTY(ndim, shape, kind, 0)
    finally:
        cnp.PyDataMem_SetHandler(previous)


cdef cnp.ndarray new_like(cnp.ndarray array):
    return new_array(cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), cnp.PyArray_TYPE(array))
