"""Run the official STDC-Seg beside both twins in float64 and print how far apart they are.

    python benchmarks/upstream_nets.py --upstream PATH [--size 128x256] [--batch 2]

PATH is a checkout of github.com/MichaelFan01/STDC-Seg. Its imports of torchvision and InPlaceABNSync are
stubbed: the twins behave as the official code with nn.BatchNorm2d in InPlaceABN's place. The torch twin is
compared with upstream, the Paddle twin with the torch twin. A figure is max|a-b| / max|reference|, the worst
of its tensors.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch

from stdc_parity.models_paddle import stdcseg as paddle_seg
from stdc_parity.models_torch import stdcseg as torch_seg

Arrays = dict[str, np.ndarray]
NETS = {"stdc1_seg": "STDCNet813", "stdc2_seg": "STDCNet1446"}
HEADS = [f"conv_out{suffix}" for suffix in ("", "16", "32", "_sp2", "_sp4", "_sp8", "_sp16")]
ALIASES = tuple(f"cp.backbone.x{stride}." for stride in (2, 4, 8, 16, 32))
STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}


def load_upstream(root: Path) -> Any:
    """Import upstream's models.model_stages with its two missing imports stubbed."""

    class Norm(torch.nn.BatchNorm2d):
        def __init__(self, channels: int, activation: str = "none") -> None:
            super().__init__(channels)

    stub: Any = types.ModuleType("modules.bn")
    stub.InPlaceABNSync = Norm
    sys.modules |= {"torchvision": types.ModuleType("torchvision"), "modules.bn": stub}
    sys.path.insert(0, str(root))
    return importlib.import_module("models.model_stages")


def randomise_norms(net: torch.nn.Module) -> None:
    """Give norms the kind of values that training leaves, some gammas negative; fresh are all 0 or 1."""
    rng = torch.Generator().manual_seed(1)
    for name, tensor in net.state_dict().items():
        if tensor.dim() == 1:
            noise = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif name.endswith("weight"):
                tensor.copy_(torch.where(noise < -1.5, -1.0, 1.0) * (1 + 0.2 * noise))
            else:
                tensor.copy_(0.2 * noise)


def paddle_name(name: str) -> str:
    """Return the name of a torch state entry in the Paddle twin."""
    parent, _, leaf = name.rpartition(".")
    return f"{parent}.{STATISTICS.get(leaf, leaf)}"


def load_paddle(net: paddle.nn.Layer, state: dict[str, torch.Tensor]) -> None:
    """Copy the torch twin's state into the Paddle twin."""
    source = {}
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            array = tensor.numpy()
            source[paddle_name(name)] = array.T if name.endswith(("fc.weight", "linear.weight")) else array
    missing, unexpected = net.set_state_dict(source)
    assert not missing and not unexpected, (missing, unexpected)


def observe(net: Any, image: np.ndarray, train: bool) -> dict[str, Arrays]:
    """Run one forward and two backward passes; return outputs, gradients and running statistics.

    The two losses are inner products with fixed random weights: of all heads' logits, and of what the network
    returns.
    """
    is_paddle = isinstance(net, paddle.nn.Layer)
    tensor = paddle.to_tensor if is_paddle else torch.from_numpy
    (net.train if train else net.eval)()
    heads: dict[str, Any] = {}
    for name in HEADS:
        head = getattr(net, name)
        hook = head.register_forward_post_hook if is_paddle else head.register_forward_hook
        hook(lambda _module, _inputs, out, name=name: heads.update({name: out}))
    outs = {str(idx): out for idx, out in enumerate(net(tensor(image)))}
    found = {}
    for part, tensors in (("before upsampling", heads), ("after upsampling", outs)):
        found[f"outputs {part}"] = arrays(tensors)
        rng = np.random.default_rng(2)
        loss = sum((out * tensor(rng.standard_normal(tuple(out.shape)))).mean() for out in tensors.values())
        loss.backward(retain_graph=True)
        grads = arrays({name: param.grad for name, param in net.named_parameters() if param.grad is not None})
        found[f"gradients, loss {part}"] = {name: grad for name, grad in grads.items() if grad.any()}
        for param in net.parameters():
            if is_paddle:
                param.clear_gradient()  # leaves zeros, not None
            else:
                param.grad = None
    if train:
        state = {paddle_name(name): value for name, value in net.state_dict().items()}
        own = {name: value for name, value in state.items() if not name.startswith(ALIASES)}
        ends = tuple(STATISTICS.values())
        found["running statistics"] = arrays({name: own[name] for name in own if name.endswith(ends)})
    return found


def arrays(tensors: dict[str, Any]) -> Arrays:
    """Copy tensors to NumPy."""
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def worst(ours: Arrays, reference: Arrays) -> tuple[float, str]:
    """Return the largest max|a-b| / max|reference| and its tensor's name."""
    assert ours.keys() == reference.keys(), ours.keys() ^ reference.keys()
    errors = [(float(np.abs(ours[k] - v).max() / np.abs(v).max()), k) for k, v in reference.items()]
    return max(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upstream", type=Path, required=True, help="checkout of MichaelFan01/STDC-Seg")
    parser.add_argument("--size", default="128x256", help="image size, HxW")
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    image = np.random.default_rng(0).standard_normal((options.batch, 3, height, width))
    upstream = load_upstream(options.upstream)

    print(f"{'':49}{'torch twin/upstream':>20}{'paddle/torch twin':>20}  worst tensor of the latter")
    for factory, backbone in NETS.items():
        torch.manual_seed(0)
        reference = upstream.BiSeNet(backbone, 19, use_boundary_8=True)
        torch.manual_seed(0)
        twin = getattr(torch_seg, factory)()
        state = {k: v for k, v in reference.state_dict().items() if not k.startswith(ALIASES)}
        fresh = twin.state_dict()
        same = list(fresh) == list(state) and all(torch.equal(fresh[k], v) for k, v in state.items())
        print(f"{factory}: fresh weights from one seed are {'' if same else 'NOT '}upstream's, key by key")
        reference.double()
        randomise_norms(reference)
        pair = getattr(paddle_seg, factory)()
        pair.to(dtype="float64")
        state = {k: v.clone() for k, v in reference.state_dict().items() if not k.startswith(ALIASES)}
        twin.double().load_state_dict(state)
        load_paddle(pair, state)
        for train in (False, True):
            theirs, ours, paddles = (observe(net, image, train) for net in (reference, twin, pair))
            for part in theirs:
                twin_error, _ = worst(ours[part], theirs[part])
                pair_error, name = worst(paddles[part], ours[part])
                label = f"{factory} {'train' if train else 'eval'} {part}"
                print(f"{label:49}{twin_error:20.1e}{pair_error:20.1e}  {name}", flush=True)


if __name__ == "__main__":
    main()
