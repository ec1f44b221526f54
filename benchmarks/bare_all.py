"""The least that climbing the ladder costs: `align_all.py` measures stdc-align against it.

    python benchmarks/bare_all.py

What `stdc-align all --size 256x512` runs on STDC2-Seg, and nothing around it, in one process, one framework
after the other: forwards in eval and train mode in float32 and float64, a forward, loss and backward in both,
6 optimizer steps, the forwards of the metric over 4 scenes at its scales, and 6 training steps in float64, 12
on the torch side, whose control is a training of its own. Nothing is loaded, recorded or compared.
"""

import importlib
from typing import Any

import paddle
import torch

HEIGHT, WIDTH, BATCH, TRAIN_BATCH, STEPS, SCENES = 256, 512, 2, 4, 6, 4


def climb(side: str, framework: Any) -> None:
    def part(name: str) -> Any:
        return importlib.import_module(f"stdc_parity.models_{side}.{name}")

    def tensor(shape: list[int], dtype: str) -> Any:
        return framework.rand(shape, dtype=getattr(framework, dtype))

    def network(dtype: str) -> Any:
        net = part("stdcseg").stdc2_seg()
        net.to(dtype=getattr(framework, dtype))
        return net

    def losses(dtype: str) -> Any:
        loss = part("losses").SegLoss()
        loss.to(dtype=getattr(framework, dtype))
        return loss

    def step(net: Any, loss: Any, dtype: str, batch: int) -> None:
        net.train()
        labels = framework.randint(0, 19, [batch, HEIGHT, WIDTH])
        loss(net(tensor([batch, 3, HEIGHT, WIDTH], dtype)), labels)[0].backward()

    for dtype in ("float32", "float64"):
        net = network(dtype)
        with framework.no_grad():
            net.eval()
            net(tensor([1, 3, HEIGHT, WIDTH], dtype))
            net.train()
            net(tensor([BATCH, 3, HEIGHT, WIDTH], dtype))
        step(network(dtype), losses(dtype), dtype, BATCH)
    net, loss = network("float32"), losses("float32")
    optimizer = part("optim").build_optimizer(net, loss)
    for _ in range(STEPS):
        for parameter in net.parameters():
            if not getattr(parameter, "stop_gradient", False):
                (parameter * framework.rand_like(parameter)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    measure(framework, net, part("metrics"), tensor)
    for _ in range(2 if side == "torch" else 1):
        net, loss = network("float64"), losses("float64")
        optimizer = part("optim").build_optimizer(net, loss)
        for _ in range(STEPS):
            step(net, loss, "float64", TRAIN_BATCH)
            optimizer.step()
            optimizer.zero_grad()


def measure(framework: Any, net: Any, metrics: Any, tensor: Any) -> None:
    net.eval()
    with framework.no_grad():
        for _ in range(SCENES):
            for scale in (0.5, 0.75):
                metrics.single_scale_logits(net, tensor([1, 3, HEIGHT, WIDTH], "float32"), HEIGHT, WIDTH, scale)
        image = tensor([1, 3, HEIGHT, WIDTH], "float32")
        metrics.multi_scale_scores(net, image, 19, (0.75, 1.0), 2 * HEIGHT // 3, True)


def main() -> None:
    climb("torch", torch)
    climb("paddle", paddle)


if __name__ == "__main__":
    main()
