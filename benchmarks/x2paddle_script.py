"""X2Paddle on a checkpoint of STDCNet1446, as `convert.py --x2paddle PYTHON` measures it against stdc-convert.

    python benchmarks/x2paddle_script.py unwrap SRC DST
    python benchmarks/x2paddle_script.py state SRC
    python benchmarks/x2paddle_script.py trace SRC FOLDER

`state` is what `x2paddle --convert_torch_project --pretrain_model SRC` does to SRC.pth, next to which it writes
SRC.pdiparams (over SRC itself when it has no suffix that it knows: never give it the only copy); it takes no nested
checkpoint, so `unwrap` takes the state dict out of one beforehand. `trace` is `pytorch2paddle`: the loaded network
is traced, and code and weights are written. Its telemetry is turned off.
"""

import sys
from collections.abc import Callable

import torch


def unwrap(source: str, target: str) -> None:
    torch.save(torch.load(source, map_location="cpu", weights_only=True)["state_dict"], target)


def state(source: str) -> None:
    from x2paddle.project_convertor.pytorch.convert import convert_params  # type: ignore[import-not-found]

    convert_params(source)


def trace(source: str, folder: str) -> None:
    from x2paddle.convert import pytorch2paddle  # type: ignore[import-not-found]

    from stdc_parity.models_torch.stdcnet import stdcnet1446

    net = stdcnet1446().eval()
    tensors = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    wanted = net.state_dict().keys()
    net.load_state_dict({name: tensor for name, tensor in tensors.items() if name in wanted})  # no aliases
    image = torch.zeros(1, 3, 224, 224)
    pytorch2paddle(net, folder, "trace", [image], disable_feedback=True)


def main() -> None:
    commands: dict[str, Callable[..., None]] = {"unwrap": unwrap, "state": state, "trace": trace}
    name, *paths = sys.argv[1:]
    commands[name](*paths)


if __name__ == "__main__":
    main()
