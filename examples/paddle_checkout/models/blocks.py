"""The blocks of the network."""

from paddle import Tensor, nn
from paddle.nn import functional as F


class Stem(nn.Layer):
    """A convolution, a norm, an activation and a pool: (n, 3, h, w) -> (n, width, h/2, w/2).

    `exclusive` is Paddle's way to leave padding out of averages: its default, and not PyTorch's.
    """

    def __init__(self, width: int, exclusive: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.pool = nn.AvgPool2D(3, stride=2, padding=1, exclusive=exclusive)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.norm(self.conv(x))))
