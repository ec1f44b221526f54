"""PyTorch's part of tracing: `tracing.Tracer` sees what a module calls. `trace_paddle.py` is its twin."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from stdc_parity.align.tracing import Arguments, Tracer

POSITIONS = {
    "conv1d": "input weight bias stride padding dilation groups",
    "conv2d": "input weight bias stride padding dilation groups",
    "conv3d": "input weight bias stride padding dilation groups",
    "conv_transpose1d": "input weight bias stride padding output_padding groups dilation",
    "conv_transpose2d": "input weight bias stride padding output_padding groups dilation",
    "conv_transpose3d": "input weight bias stride padding output_padding groups dilation",
    "avg_pool1d": "input kernel_size stride padding ceil_mode count_include_pad",
    "avg_pool2d": "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
    "avg_pool3d": "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
    "max_pool1d": "input kernel_size stride padding dilation ceil_mode",
    "max_pool2d": "input kernel_size stride padding dilation ceil_mode",
    "linear": "input weight bias",
    "prelu": "input weight",
    "softplus": "input beta threshold",
    "pixel_shuffle": "input upscale_factor",
    "scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal",
    "cat": "tensors dim",
    "concat": "tensors dim",
    "stack": "tensors dim",
    "mean": "input dim keepdim",
    "sum": "input dim keepdim",
    "max": "input dim keepdim",
    "min": "input dim keepdim",
    "amax": "input dim keepdim",
    "amin": "input dim keepdim",
    "var": "input dim unbiased keepdim",
    "std": "input dim unbiased keepdim",
    "median": "input dim keepdim",
    "argmax": "input dim keepdim",
    "argmin": "input dim keepdim",
    "softmax": "input dim",
    "log_softmax": "input dim",
    "cumsum": "input dim",
    "norm": "input p dim keepdim",
    "clamp": "input min max",
    "clip": "input min max",
    "roll": "input shifts dims",
    "transpose": "input dim0 dim1",
    "unsqueeze": "input dim",
    "squeeze": "input dim",
    "chunk": "input chunks dim",
    "split": "input split_size dim",
    "gather": "input dim index",
    "scatter": "input dim index src",
    "scatter_": "input dim index src",
    "index_select": "input dim index",
    "repeat_interleave": "input repeats dim",
    "topk": "input k dim largest sorted",
    "kthvalue": "input k dim keepdim",
    "where": "condition input other",
    "flatten": "input start_dim end_dim",
    "pow": "input exponent",
    "softshrink": "input lambd",
    "hardshrink": "input lambd",
    "tril": "input diagonal",
    "triu": "input diagonal",
    "logsumexp": "input dim keepdim",
    "cumprod": "input dim",
    "sort": "input dim descending",
    "argsort": "input dim descending",
    "fmod": "input other",
    "remainder": "input other",
    "pixel_unshuffle": "input downscale_factor",
    "cosine_similarity": "x1 x2 dim eps",
    "quantile": "input q dim keepdim",
    "unbind": "input dim",
    "all": "input dim keepdim",
    "any": "input dim keepdim",
    "nanmean": "input dim keepdim",
    "nansum": "input dim keepdim",
    "rot90": "input k dims",
    "diagonal": "input offset dim1 dim2",
    "cross": "input other dim",
    "lerp": "input end weight",
    "__getitem__": "input item",
}
"""The arguments of PyTorch's built-in functions, whose signatures Python does not know: their documentation's."""

VARIADIC = {"permute": "dims", "view": "size", "reshape": "size", "expand": "size", "repeat": "sizes", "flip": "dims"}


class _Mode(TorchFunctionMode):
    """Hands every call of PyTorch's functions to a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "dim", "size"):
            return func(*args, **(kwargs or {}))
        return self._tracer.function(name, func, args, kwargs or {}, bind)


def bind(
    name: str, function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Arguments, Arguments]:
    """The arguments of a call by name; PyTorch's defaults are in `diagnosis.meanings`."""
    if name in VARIADIC and args:
        rest = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
        return {"input": args[0], **({VARIADIC[name]: list(rest)} if rest else {}), **kwargs}, {}
    if name == "einsum" and args and isinstance(args[0], str):
        return {"equation": args[0], "operands": list(args[1:])}, {}
    if name in POSITIONS:
        names = POSITIONS[name].split()
        return {names[i] if i < len(names) else str(i): value for i, value in enumerate(args)} | kwargs, {}
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments), {}
    except (TypeError, ValueError):
        return {"input" if i == 0 else "other" if i == 1 else str(i): a for i, a in enumerate(args)} | kwargs, {}


@contextmanager
def traced(tracer: Tracer) -> Iterator[None]:
    """Let `tracer` see every call of PyTorch's functions and of modules."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.module(module, original, args, kwargs)

    nn.Module.__call__ = call
    try:
        with _Mode(tracer):
            yield
    finally:
        nn.Module.__call__ = original


def function(name: str) -> Callable[..., Any]:
    """Return PyTorch's function of that name. Raises AttributeError."""
    found: Callable[..., Any] = getattr(F, name, None) or getattr(torch, name, None) or getattr(torch.Tensor, name)
    return found
