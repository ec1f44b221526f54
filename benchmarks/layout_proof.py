"""Load converted weights into the real PaddleSeg and mmsegmentation, and hold their logits against the twin's.

    python benchmarks/layout_proof.py [--only paddleseg|mmseg] [--size 512x1024]

Seeded official weights go through `stdc-convert`, are loaded strictly by name into the package's own network,
and both networks see one image. A figure is max|a-b| / max|reference| of the logits in eval mode; the reference
is our torch twin, which other benchmarks hold against upstream. Then the package's own file of these weights is
converted back, and must be the official weights bit for bit.

It needs `paddleseg` (2.8.0 was tried) and `mmsegmentation` (1.2.2, with mmcv-lite 2.1.0). mmcv-lite leaves out
the compiled operators, which mmseg imports all the same: functions that raise stand in for them. No STDC network
calls one.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.converters.architecture import Architecture
from stdc_parity.fixtures.images import seeded_image
from stdc_parity.fixtures.samples import write_sample
from stdc_parity.models_torch import stdcseg

Logits = dict[str, np.ndarray]
TOLERANCE = 1e-5
TWINS: dict[str, Callable[[], torch.nn.Module]] = {"stdc1-seg": stdcseg.stdc1_seg, "stdc2-seg": stdcseg.stdc2_seg}
LISTS = {"stdc1-seg": "STDC1-Seg", "stdc2-seg": "STDC2-Seg"}
OUTPUTS = ("logits", "logits16", "logits32", "detail8")


def convert(*arguments: str | Path) -> None:
    """Run stdc-convert, its words left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        cli.convert.main([str(argument) for argument in arguments], standalone_mode=False)


def twin_logits(model: str, weights: Path, image: np.ndarray) -> Logits:
    net = TWINS[model]().eval()
    state = torch.load(weights, weights_only=True)["state_dict"]
    own = net.state_dict().keys()
    net.load_state_dict({name: tensor for name, tensor in state.items() if name in own})
    with torch.no_grad():
        return dict(zip(OUTPUTS, map(torch.Tensor.numpy, net(torch.from_numpy(image))), strict=True))


def check_names(package: str, model: str, shapes: dict[str, list[int]]) -> None:
    """The package's network has the keys of the list that the tests rest on."""
    known = json.loads(files("stdc_parity.fixtures").joinpath(f"{package}_stdc.json").read_text())[LISTS[model]]
    assert shapes == known, shapes.keys() ^ known.keys()


def paddleseg_runs(model: str, official: Path, image: np.ndarray) -> Iterator[tuple[str, Logits, Path]]:
    """PaddleSeg as it is, then with the fix; and the file that it saves."""
    import paddle
    from paddleseg.models import STDC1, STDC2, STDCSeg

    converted = official.with_name("paddleseg.pdparams")
    convert("torch2paddle", official, converted, "--to-layout", "paddleseg")
    net = STDCSeg(19, STDC1() if model == "stdc1-seg" else STDC2())
    check_names("paddleseg", model, {name: list(tensor.shape) for name, tensor in net.state_dict().items()})
    missing, unexpected = net.set_state_dict(paddle.load(str(converted)))
    assert not missing and not unexpected, (missing, unexpected)
    saved = official.with_name("saved.pdparams")
    paddle.save(net.state_dict(), str(saved))
    net.eval()
    net.training = True  # of the outermost layer only: all heads are returned, norms stay in eval mode
    for what in ("as it is", "exclusive=False"):
        with paddle.no_grad():
            outs = [out.numpy() for out in net(paddle.to_tensor(image))]
        yield what, dict(zip(OUTPUTS, outs, strict=True)), saved
        for layer in net.sublayers():
            if isinstance(layer, paddle.nn.AvgPool2D):
                layer.exclusive = False


def mmseg_runs(model: str, official: Path, image: np.ndarray) -> Iterator[tuple[str, Logits, Path]]:
    """mmsegmentation as it is, and the file that it saves."""
    stand_in_for_operators()
    import mmseg
    from mmengine import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules
    from torch.nn.functional import interpolate

    converted = official.with_name("mmseg.pth")
    convert("relayout", official, converted, "--to-layout", "mmseg")
    register_all_modules()
    config = Config.fromfile(str(Path(mmseg.__file__).parent / ".mim/configs/_base_/models/stdc.py"))
    config.model.backbone.backbone_cfg.stdc_type = "STDCNet1" if model == "stdc1-seg" else "STDCNet2"
    net = MODELS.build(config.model).eval()
    check_names("mmseg", model, {name: list(tensor.shape) for name, tensor in net.state_dict().items()})
    net.load_state_dict(torch.load(converted, weights_only=True), strict=True)
    saved = official.with_name("saved.pth")
    torch.save({"meta": {}, "state_dict": net.state_dict()}, saved)
    size = image.shape[2:]
    with torch.no_grad():
        features = net.extract_feat(torch.from_numpy(image))
        logits = net.encode_decode(torch.from_numpy(image), [{"img_shape": size, "pad_shape": size}])
        two, one, detail = (head.forward(features) for head in net.auxiliary_head)
        up = [interpolate(each, size, mode="bilinear", align_corners=True) for each in (two, one)]  # as upstream
    no_detail, detail = detail[:, :1], detail[:, 1:]
    assert torch.allclose(no_detail, -detail, atol=1e-5)
    yield "as it is", dict(zip(OUTPUTS, (t.numpy() for t in (logits, *up, detail)), strict=True)), saved


def stand_in_for_operators() -> None:
    """What mmcv-lite leaves out of `mmcv._ext`, as functions that raise."""

    class Operators(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)

            def operator(*_: object, **__: object) -> NoReturn:
                raise RuntimeError(f"mmcv-lite has no {name}")

            return operator

    try:
        import mmcv._ext  # noqa: F401
    except ImportError:
        sys.modules["mmcv._ext"] = Operators("mmcv._ext")


PACKAGES = {"paddleseg": ("paddleseg", paddleseg_runs), "mmseg": ("mmsegmentation", mmseg_runs)}


def compare(what: str, found: Logits, reference: Logits) -> bool:
    """Print the figures of one network; whether all logits are within the tolerance."""
    apart = {name: np.abs(found[name] - value).max() / np.abs(value).max() for name, value in reference.items()}
    moved = (found["logits"].argmax(1) != reference["logits"].argmax(1)).mean()
    cells = "".join(f"{apart[name]:>11.1e}" for name in OUTPUTS)
    print(f"{what:<38}{cells}{moved:>19.3%}")
    return max(apart.values()) <= TOLERANCE


def check_way_back(saved: Path, official: Path, architecture: Architecture, layout: str) -> None:
    """The package's own file becomes the official weights, bit for bit."""
    back = saved.with_name("back.pth")
    convert("relayout", saved, back, "--to-layout", "official")
    first, last = torch.load(official, weights_only=True)["state_dict"], torch.load(back, weights_only=True)
    left_out = () if layout == "paddleseg" else ("conv_out_sp16.", "conv_out_sp4.", "conv_out_sp2.")
    for name in last:
        if not name.startswith(left_out) and not (layout == "paddleseg" and name.endswith("num_batches_tracked")):
            assert torch.equal(first[name], last[name]), name
    needed = {name for name in architecture.tensors if not name.startswith(("cp.backbone.conv_last.",
              "cp.backbone.fc.", "cp.backbone.bn.", "cp.backbone.linear."))}  # fmt: skip
    assert last.keys() == needed
    print(f"  and back: {len(last)} official tensors, bit for bit")


def prove(layout: str, size: tuple[int, int]) -> bool:
    package, runs = PACKAGES[layout]
    title = f"{package} {version(package)}, {size[0]}x{size[1]}"
    print(f"{title:<38}" + "".join(f"{name:>11}" for name in OUTPUTS) + "  pixels that change")
    image, good = seeded_image(size), True
    for model in TWINS:
        with tempfile.TemporaryDirectory() as folder:
            official = Path(folder) / "official.pth"
            architecture = stdc.architecture(model)
            write_sample(official, architecture)
            reference = twin_logits(model, official, image)
            results = list(runs(model, official, image))
            for what, found, _saved in results:
                within = compare(f"{model}, {what}", found, reference)
            good = good and within  # of the last, with the fix
            check_way_back(results[-1][2], official, architecture, layout)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(PACKAGES), help="one package; both by default")
    parser.add_argument("--size", default="512x1024", help="image size, HxW")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    warnings.simplefilter("ignore")
    good = True
    for layout in [options.only] if options.only else PACKAGES:
        try:
            good = prove(layout, (height, width)) and good
        except ImportError as error:
            print(f"{layout}: {error}. Install {PACKAGES[layout][0]} first (see this script's docstring).")
            sys.exit(4)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
