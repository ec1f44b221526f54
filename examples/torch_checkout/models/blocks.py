"""The blocks of the network."""

from torch import Tensor, nn
from torch.nn import functional as F


class Stem(nn.Module):
    """A convolution, a norm, an activation and a pool: (n, 3, h, w) -> (n, width, h/2, w/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.norm(self.conv(x))))
