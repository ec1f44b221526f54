"""What Paddle 2.4 did and Paddle 3 does not, for code that was written for it.

Two things stop the ports of 2021 to 2023 on Paddle 3: arithmetic between a float and an integer (or boolean) tensor
raised no TypeError, the integer one was converted; and there were no 0-d tensors: `paddle.sum` of everything had the
shape [1], so that sums could be concatenated, and so had `vector[3]`. `speak_paddle_2()` and `give_vectors()` bring
this back in this process, so that the ports' files run as they are.
"""

from __future__ import annotations

from typing import Any

import paddle

OPERATORS = ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__")
FLOATS = (paddle.float32, paddle.float64)


def speak_paddle_2() -> None:
    """Convert integers in mixed arithmetic, and let `paddle.concat` take 0-d tensors."""
    for name in OPERATORS:
        setattr(paddle.Tensor, name, _converting(getattr(paddle.Tensor, name)))
    concat = paddle.concat

    def concat_of_any(x: Any, axis: Any = 0, name: Any = None) -> Any:
        return concat([t.reshape([1]) if t.ndim == 0 else t for t in x], axis, name)

    paddle.concat = concat_of_any


def give_vectors() -> None:
    """Let `vector[3]` have the shape [1]."""
    item = paddle.Tensor.__getitem__

    def item_of_vector(self: Any, index: Any) -> Any:
        found = item(self, index)
        return found.reshape([1]) if isinstance(index, int) and found.ndim == 0 else found

    paddle.Tensor.__getitem__ = item_of_vector


def _converting(operator: Any) -> Any:
    def converted(self: Any, other: Any) -> Any:
        if isinstance(other, paddle.Tensor) and self.dtype != other.dtype:
            if self.dtype in FLOATS and other.dtype not in FLOATS:
                other = other.astype(self.dtype)
            elif other.dtype in FLOATS and self.dtype not in FLOATS:
                self = self.astype(other.dtype)
            elif paddle.bool in (self.dtype, other.dtype):  # an integer and a boolean
                kind = other.dtype if self.dtype == paddle.bool else self.dtype
                self, other = self.astype(kind), other.astype(kind)
        return operator(self, other)

    return converted
