"""The script that people write to convert a checkpoint, as `convert.py` measures it against stdc-convert.

    python benchmarks/usual_script.py SRC DST

Load with torch, rename the norms' statistics, transpose what has two dimensions, save with paddle. It is
what the rivals' repositories have, not advice: aliases are written twice, and embeddings would be transposed.
"""

import sys

import paddle
import torch


def main() -> None:
    source, target = sys.argv[1:]
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    converted = {}
    for name, tensor in checkpoint.get("state_dict", checkpoint).items():
        if name.endswith("num_batches_tracked"):
            continue
        array = tensor.numpy()
        if array.ndim == 2:
            array = array.T
        converted[name.replace("running_mean", "_mean").replace("running_var", "_variance")] = array
    paddle.save(converted, target)


if __name__ == "__main__":
    main()
