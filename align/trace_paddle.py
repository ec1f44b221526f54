"""Paddle's part of tracing: `tracing.Tracer` sees what a layer calls. `trace_torch.py` is its twin.

Paddle has no hook for its functions, so each is exchanged wherever a module holds it, for as long as a trace takes.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodDescriptorType
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from stdc_parity.align.tracing import Arguments, Tracer

BINARY = {
    f"__{side}{name}__": full
    for name, full in (("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("truediv", "divide"),
                       ("matmul", "matmul"), ("pow", "pow"))
    for side in ("", "i")
} | {
    "__radd__": "add", "__rmul__": "multiply", "__rsub__": "rsubtract", "__rtruediv__": "rdivide", "__rpow__": "rpow",
    "__eq__": "equal", "__ne__": "not_equal", "__lt__": "less_than", "__le__": "less_equal",
    "__gt__": "greater_than", "__ge__": "greater_equal", "register_hook": "register_hook",
}  # fmt: skip
UNARY = {"__neg__": "neg", "detach": "detach", "clone": "clone", "cuda": "cuda", "cpu": "cpu"}
OPERATORS = {**BINARY, **UNARY, "__getitem__": "__getitem__", "__setitem__": "__setitem__"}
"""What stands for an operator or a method that Python knows no function for."""

UNSEEN = {
    "as_tensor", "assign", "backward", "cast_", "create_parameter", "get_tensor", "in_dynamic_mode", "is_complex",
    "is_floating_point", "is_integer", "is_tensor", "item", "numel", "numpy", "rank", "set_value", "shape",
    "to_tensor",
}  # fmt: skip
"""Functions that compute nothing."""


def bind(
    name: str, function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Arguments, Arguments]:
    """The arguments of a call by name, with those that were not given, and all defaults."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {key: value for key, value in bound.arguments.items() if key not in ("name", "out")}
        defaults = {key: p.default for key, p in signature.parameters.items() if p.default is not p.empty}
        return given | given.pop("kwargs", {}), defaults
    except (TypeError, ValueError):
        return {str(i): value for i, value in enumerate(args)} | kwargs, {}


@functools.cache
def functions() -> dict[int, tuple[str, Callable[..., Any]]]:
    """Paddle's public functions and a tensor's methods: name and function by identity."""
    found: dict[int, tuple[str, Callable[..., Any]]] = {}
    for space in (F, paddle, paddle.linalg):
        for name in space.__all__:
            value = getattr(space, name, None)
            if isinstance(value, FunctionType) and name not in UNSEEN:
                found.setdefault(id(value), (name, value))
    for name in dir(paddle.Tensor):
        value = getattr(paddle.Tensor, name)
        if isinstance(value, FunctionType) and not name.startswith("_") and name not in UNSEEN:
            found.setdefault(id(value), (name, value))
    found[id(F.conv._conv_nd)] = ("_conv_nd", F.conv._conv_nd)
    return found


def _places() -> list[tuple[Any, str, str, Callable[..., Any]]]:
    """Everywhere that a function can be called from; modules that were imported since are looked through."""
    return _places_in(len(sys.modules))


@functools.lru_cache(1)
def _places_in(count: int) -> list[tuple[Any, str, str, Callable[..., Any]]]:
    """The module or class, the attribute, its name and the function, in the `count` modules that are imported."""
    known, places = functions(), []
    for module in list(sys.modules.values()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if type(value) is FunctionType and id(value) in known:
                places.append((module, attribute, *known[id(value)]))
    for attribute in dir(paddle.Tensor):
        value = getattr(paddle.Tensor, attribute)
        if attribute in OPERATORS and isinstance(value, FunctionType | MethodDescriptorType):
            places.append((paddle.Tensor, attribute, OPERATORS[attribute], value))
        elif type(value) is FunctionType and id(value) in known:
            places.append((paddle.Tensor, attribute, *known[id(value)]))
    return places


def _described(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a signature: methods that are written in C++ have none."""
    if isinstance(function, FunctionType):
        return function
    if name in UNARY.values():
        return lambda x: function(x)
    return lambda x, y: function(x, y)


@contextmanager
def traced(tracer: Tracer) -> Iterator[None]:
    """Let `tracer` see every call of Paddle's functions and of layers."""
    original, places = nn.Layer.__call__, _places()

    def call(layer: nn.Layer, *args: Any, **kwargs: Any) -> Any:
        return tracer.module(layer, original, args, kwargs)

    def seen(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        described = _described(name, function)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return tracer.function(name, described, args, kwargs, bind)

        return wrapper

    wrappers = {id(function): seen(name, function) for _, _, name, function in places}
    for owner, attribute, _, function in places:
        setattr(owner, attribute, wrappers[id(function)])
    nn.Layer.__call__ = call
    try:
        yield
    finally:
        nn.Layer.__call__ = original
        for owner, attribute, _, function in places:
            setattr(owner, attribute, function)


WRITTEN: Mapping[str, Callable[..., Any]] = {
    "fmod": lambda x, y: x - paddle.trunc(x / y) * y,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "greater_than": operator.gt,
    "greater_equal": operator.ge,
    "less_than": operator.lt,
    "less_equal": operator.le,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "rsubtract": lambda x, y: y - x,
    "rdivide": lambda x, y: y / x,
}
"""What Paddle has no function for, or none that takes a number: PyTorch's do."""


def _written(name: str) -> Callable[..., Any] | None:
    """One of WRITTEN, by the names of Paddle's arguments."""
    return (lambda x, y: WRITTEN[name](x, y)) if name in WRITTEN else None


def function(name: str) -> Callable[..., Any]:
    """Return Paddle's function of that name. Raises AttributeError."""
    found: Callable[..., Any] | None = _written(name) or getattr(F, name, None) or getattr(paddle, name, None)
    found = found or getattr(paddle.Tensor, name)
    assert found is not None
    return found
