"""PSPNet, DeepLabv3, GloRe and GINet on ResNet-50 and ResNet-101, by the names that models_torch gives their tensors.

Those are hszhao/semseg's for PSPNet and torchvision's for DeepLabv3. The public GloRe and GINet are PaddleSeg's,
which has a layout; the names here are those of their PyTorch parts (models_torch/glore.py and ginet.py say which).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stdc_parity.converters.architecture import Architecture, Side, TensorSpec
from stdc_parity.converters.imagenet import find_backbone
from stdc_parity.converters.resnet import LAYERS, Form, Tensors, backbone, conv, linear, norm, norms

NAME = "dilated"
LOSS_SHAPES: Mapping[str, tuple[int, ...]] = {}
"""What the losses of the recipes train: nothing."""

WORD, NODES = 300, 84
"""GINet's numbers that do not scale: the embedding of a class name, and the visual graph's nodes."""


@dataclass(frozen=True)
class Network:
    """One network but for its depth: whose names it has, the ResNet's form and prefix, its heads, and what shows it.

    `heads(base, classes)` are the tensors behind the backbone's, `parts` the modules that hold them. `classes` is how
    many upstream trains for, `mark` how a name that no other network has begins, `logits` the tensor with an item a
    class.
    """

    official: str
    form: Form
    prefix: str
    heads: Callable[[int, int], Tensors]
    parts: tuple[str, ...]
    classes: int
    mark: str
    logits: str


def block(path: str, width: int, out: int, kernel: int, first: int = 0, *, bias: bool = False) -> Tensors:
    """Convolution and batch norm as items `first` and `first` + 1 of a sequence."""
    yield from conv(f"{path}.{first}", width, out, kernel, bias=bias)
    yield from norm(f"{path}.{first + 1}", out)


def head(path: str, width: int, mid: int, classes: int, *, bias: bool = False) -> Tensors:
    """The tensors of `models_torch.heads.make_head`."""
    yield from block(path, width, mid, 3, bias=bias)
    yield from conv(f"{path}.4", mid, classes, 1, bias=True)


def pspnet(base: int, classes: int) -> Tensors:
    """PSPNet's pyramid pooling, head and auxiliary head."""
    for number in range(4):
        yield from block(f"ppm.features.{number}", base * 32, base * 8, 1, 1)
    yield from head("cls", base * 64, base * 8, classes)
    yield from head("aux", base * 16, base * 4, classes)


def deeplabv3(base: int, classes: int) -> Tensors:
    """DeepLabv3's pyramid pooling with its head, and the auxiliary classifier."""
    for number, kernel in enumerate((1, 3, 3, 3)):
        yield from block(f"classifier.0.convs.{number}", base * 32, base * 4, kernel)
    yield from block("classifier.0.convs.4", base * 32, base * 4, 1, 1)
    yield from block("classifier.0.project", base * 20, base * 4, 1)
    yield from block("classifier", base * 4, base * 4, 3, 1)
    yield from conv("classifier.4", base * 4, classes, 1, bias=True)
    yield from head("aux_classifier", base * 16, base * 4, classes)


def gcn(path: str, states: int, nodes: int) -> Tensors:
    """A graph convolution, along the nodes and along the states."""
    yield from conv(f"{path}.conv1", nodes, nodes, 1, bias=True, dimensions=1)
    yield from conv(f"{path}.conv2", states, states, 1, dimensions=1)


def glore(base: int, classes: int) -> Tensors:
    """GloRe's head with the unit, and the auxiliary classifier."""
    yield from block("classifier", base * 32, base * 8, 1)
    yield from conv("classifier.3.conv_state", base * 8, base * 2, 1, bias=True)
    yield from conv("classifier.3.conv_proj", base * 8, base, 1, bias=True)
    yield from gcn("classifier.3.gcn", base * 2, base)
    yield from conv("classifier.3.conv_extend", base * 2, base * 8, 1)
    yield from norm("classifier.3.blocker", base * 8)
    yield from conv("classifier.5", base * 8, classes, 1, bias=True)
    yield from head("aux_classifier", base * 16, base * 4, classes, bias=True)


def ginet(base: int, classes: int) -> Tensors:
    """GINet's joint pyramid upsampling, its head, and the auxiliary head."""
    width, states = base * 8, base * 4
    for number, planes in ((5, base * 32), (4, base * 16), (3, base * 8)):
        yield from block(f"jpu.conv{number}", planes, width, 3)
    for number in range(1, 5):
        yield f"jpu.dilation{number}.0.conv1.weight", TensorSpec("conv", (width * 3, 1, 3, 3))
        yield from norm(f"jpu.dilation{number}.0.bn", width * 3)
        yield from conv(f"jpu.dilation{number}.0.pointwise", width * 3, width, 1)
        yield from norm(f"jpu.dilation{number}.1", width)
    yield "head.inp", TensorSpec("buffer", (classes, WORD))
    for number, (wide, out) in enumerate(((WORD, base * 2), (base * 2, states)), 1):
        yield from linear(f"head.fc{number}.0", wide, out)
        yield from norm(f"head.fc{number}.1", out)
    yield from block("head.conv5", width * 4, width, 3)
    yield from conv("head.gloru.conv_theta", width, NODES, 1, bias=True)
    yield from conv("head.gloru.conv_phi", width, states, 1, bias=True)
    graph = "head.gloru.graph"
    yield f"{graph}.gamma_vis", TensorSpec("plain", (NODES,))
    yield f"{graph}.gamma_word", TensorSpec("plain", (classes,))
    yield from gcn(f"{graph}.vis_gcn", states, NODES)
    yield from gcn(f"{graph}.word_gcn", states, classes)
    for name, out in (("query_conv", states // 2), ("key_conv", states // 2)):
        yield from conv(f"{graph}.transfer.{name}", states, out, 1, bias=True, dimensions=1)
    for name in ("value_conv_vis", "value_conv_word"):
        yield from conv(f"{graph}.transfer.{name}", states, states, 1, bias=True, dimensions=1)
    yield from conv("head.gloru.extend_dim", states, width, 1)
    yield from norm("head.gloru.bn", width)
    yield from conv("head.conv6.1", width, classes, 1, bias=True)
    yield from conv(PRESENCE, states, 1, 1, bias=True, dimensions=1)
    yield from head("auxlayer", base * 16, base * 4, classes)


PRESENCE = "head.presence"
"""What GINet's semantic context loss needs, and a network may be without."""

_TORCHVISION = ("classifier", "aux_classifier")
NETWORKS: Mapping[str, Network] = {
    "pspnet": Network(
        "hszhao/semseg", "v1s", "", pspnet, ("ppm", "cls", "aux"), 19, "ppm.", "cls.4.weight"
    ),
    "deeplabv3": Network(
        "torchvision", "v1b", "backbone.", deeplabv3, _TORCHVISION, 19, "classifier.0.convs.", "classifier.4.weight"
    ),
    "glore": Network(
        "our PyTorch twin", "v1d", "backbone.", glore, _TORCHVISION, 19, "classifier.3.", "classifier.5.weight"
    ),
    "ginet": Network(
        "our PyTorch twin", "v1d", "backbone.", ginet, ("jpu", "head", "auxlayer"), 59, "head.gloru.",
        "head.conv6.1.weight",
    ),
}  # fmt: skip
MODELS = tuple(f"{network}-{depth}" for network in NETWORKS for depth in LAYERS)


def architecture(
    model: str, *, num_classes: int | None = None, base: int = 64, presence: bool = True
) -> Architecture:
    """The network called `model` ("pspnet-resnet50", …), by default with upstream's classes and width.

    `presence` says whether a GINet has what its semantic context loss needs. Raises KeyError for another name.
    """
    name, _, depth = model.partition("-")
    network = NETWORKS[name]
    classes = network.classes if num_classes is None else num_classes
    tensors = dict(backbone(network.prefix, LAYERS[depth], base, network.form))
    if name == "pspnet":
        tensors = {_semseg(key): spec for key, spec in tensors.items()}
    tensors |= network.heads(base, classes)
    facts: dict[str, str | int | bool] = {"num_classes": classes, "base": base, "backbone": network.form}
    words = [f"{classes} classes", f"base {base}"]
    if name == "ginet":
        facts["presence"] = presence
        words.append(f"with{'' if presence else 'out'} class presence")
        tensors = {key: spec for key, spec in tensors.items() if presence or not key.startswith(f"{PRESENCE}.")}
    return Architecture(
        name=model,
        facts=facts,
        tensors=tensors,
        aliases={},
        abn_norms=frozenset(),
        other_norms=norms(tensors),
        family=NAME,
        words=tuple(words),
        whose={"official": network.official, "paddle": "our Paddle twin"},
    )


def _semseg(name: str) -> str:
    """The name in semseg's PSPNet, whose `layer0` holds the stem as one sequence."""
    for theirs, semseg in (("conv1.", "layer0."), ("bn1.", "layer0.7.")):
        if name.startswith(theirs):
            return semseg + name.removeprefix(theirs)
    return name


def every_tensor(model: str) -> Architecture:
    """The network with all tensors that it may have."""
    return architecture(model)


def recognise(shapes: Mapping[str, tuple[int, ...]], side: Side) -> Architecture | None:
    """The network whose names these are, or None. Names decide; shapes only tell classes and width."""
    del side  # no tensor that tells a number is a Linear's
    name = next((n for n, net in NETWORKS.items() if any(key.startswith(net.mark) for key in shapes)), None)
    if name is None:
        return None
    network = NETWORKS[name]
    found = find_backbone(
        {key: shapes[semseg] for key, semseg in _unsequenced(shapes)} if name == "pspnet" else shapes, network.prefix
    )
    if found is None:
        return None
    (depth, _, form), logits = found[0].partition("-"), shapes.get(network.logits)
    if form != network.form:
        return None
    return architecture(
        f"{name}-{depth}",
        num_classes=logits[0] if logits else None,
        base=found[1],
        presence=any(key.startswith(f"{PRESENCE}.") for key in shapes),
    )


def _unsequenced(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name in a ResNet, name in semseg's PSPNet) for each of the latter."""
    for name in names:
        rest = name.removeprefix("layer0.")
        yield name if rest == name else f"bn1.{rest[2:]}" if rest.startswith("7.") else f"conv1.{rest}", name


def training_orders(
    architecture: Architecture, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """The groups of the recipes: ours (backbone and heads, an empty one behind each), and semseg's, a module each."""
    network = NETWORKS[architecture.name.partition("-")[0]]
    heads = tuple(name for name in names if name.startswith(tuple(f"{part}." for part in network.parts)))
    rest = tuple(name for name in names if name not in heads)
    yield (rest, (), heads, ())
    modules = list(dict.fromkeys(name.partition(".")[0] for name in names))
    yield tuple(tuple(name for name in names if name.partition(".")[0] == module) for module in modules)
