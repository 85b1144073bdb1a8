"""PyTorch as the judge of whole layers: one comparison of forward, backward and buffers."""

import numpy as np
import torch
from reference import assert_close
from shapes import normal


def torch_backward(module, x, grad_output):
    """(output, gradient of the input, {name: gradient of the parameter}) by autograd in float64"""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    module.zero_grad()
    y = module(leaf)
    y.backward(torch.tensor(grad_output, dtype=torch.float64))
    gradients = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    return y.detach().numpy(), leaf.grad.numpy(), gradients


def assert_same(ours, theirs, x, rng):
    """Forward and backward of both agree, and so do the buffers afterwards."""
    y = ours(x)
    grad_output = normal(rng, y.shape, x.dtype)
    grad_input = ours.backward(grad_output)
    expected_y, expected_grad, expected_grads = torch_backward(theirs, x, grad_output)
    assert y.dtype == grad_input.dtype == x.dtype
    assert_close(y, expected_y)
    assert_close(grad_input, expected_grad)
    assert list(ours.grads) == list(ours.params) == list(expected_grads)
    for name, expected in expected_grads.items():
        assert ours.grads[name].dtype == x.dtype
        assert_close(ours.grads[name], expected)
    expected_state = theirs.state_dict()
    for name, buffer in ours.buffers.items():
        if buffer.dtype == np.int64:
            assert buffer == expected_state[name].numpy()
        else:
            assert_close(buffer, expected_state[name].numpy())
