"""The network."""

from paddle import Tensor, nn

from .blocks import Stem


class Net(nn.Layer):
    """Logits (n, classes) of images (n, 3, h, w)."""

    def __init__(self, classes: int = 5, width: int = 8, exclusive: bool = False) -> None:
        super().__init__()
        self.stem = Stem(width, exclusive)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


def overlooked() -> Net:
    """The port with what people overlook: the pool as Paddle's default makes it."""
    return Net(exclusive=True)
