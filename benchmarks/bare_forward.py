"""The least that comparing two forward passes costs: `align_forward.py` measures stdc-align against it.

    python benchmarks/bare_forward.py

Import both frameworks, build both STDC2-Seg, run each forward once at 1x3x512x1024 (eval mode, no gradients,
default threads), one after the other in one process. Nothing is loaded, recorded or compared.
"""

import paddle
import torch

from stdc_parity.models_paddle.stdcseg import stdc2_seg as paddle_seg
from stdc_parity.models_torch.stdcseg import stdc2_seg as torch_seg


def main() -> None:
    with torch.no_grad():
        torch_seg().eval()(torch.rand(1, 3, 512, 1024))
    network = paddle_seg()
    network.eval()
    with paddle.no_grad():
        network(paddle.rand([1, 3, 512, 1024]))


if __name__ == "__main__":
    main()
