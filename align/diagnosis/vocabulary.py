"""The settings of layers in one vocabulary: PyTorch's names and meanings, for the layers of both frameworks.

No framework is needed: a layer is told by the names of its classes, its settings are its attributes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stdc_parity.converters.architecture import Side

Settings = Mapping[str, Any]
"""A layer's settings by PyTorch's names; "layer" is PyTorch's class, "" for a class that is none of these."""

Meaning = Literal["", "not", "complement", "present", "tanh", "ends"]


@dataclass(frozen=True)
class Word:
    """One setting: PyTorch's name of its argument and attribute, Paddle's argument and attribute.

    `meaning` is how Paddle's value becomes PyTorch's: "not" (exclusive), "complement" (momentum 1 - m),
    "present" (a parameter that is there or not), "tanh" (GELU's approximate), "ends" (padding as two ends).
    """

    name: str
    argument: str
    attribute: str
    meaning: Meaning = ""
    torch_attribute: str = ""


def _w(name: str, argument: str = "", attribute: str = "", meaning: Meaning = "", torch: str = "") -> Word:
    return Word(name, argument or name, attribute or argument or name, meaning, torch or name)


_CONV = (
    _w("in_channels", attribute="_in_channels"), _w("out_channels", attribute="_out_channels"),
    _w("kernel_size", attribute="_kernel_size"), _w("stride", attribute="_stride"),
    _w("padding", attribute="_padding"), _w("dilation", attribute="_dilation"),
    _w("groups", attribute="_groups"), _w("bias", "bias_attr", "bias", "present"),
    _w("padding_mode", attribute="_padding_mode"),
)  # fmt: skip
_DECONV = (*_CONV[:-1], _w("output_padding"))
_NORM = (
    _w("num_features", attribute="_num_features"), _w("eps", "epsilon", "_epsilon"),
    _w("momentum", attribute="_momentum", meaning="complement"),
    _w("track_running_stats", "use_global_stats", "_use_global_stats"),
)  # fmt: skip
_POOL = (_w("kernel_size", attribute="ksize"), _w("stride"), _w("padding"), _w("ceil_mode"))
_RNN = (
    _w("input_size"), _w("hidden_size"), _w("num_layers"),
    _w("batch_first", "time_major", "time_major", "not"), _w("dropout"),
)  # fmt: skip

LAYERS: Mapping[str, tuple[str, tuple[Word, ...]]] = {
    "Conv1d": ("Conv1D", _CONV), "Conv2d": ("Conv2D", _CONV), "Conv3d": ("Conv3D", _CONV),
    "ConvTranspose1d": ("Conv1DTranspose", _DECONV), "ConvTranspose2d": ("Conv2DTranspose", _DECONV),
    "BatchNorm1d": ("BatchNorm1D", _NORM), "BatchNorm2d": ("BatchNorm2D", _NORM),
    "BatchNorm3d": ("BatchNorm3D", _NORM),
    "InstanceNorm2d": ("InstanceNorm2D", (_NORM[0], _NORM[1])),
    "GroupNorm": ("GroupNorm", (
        _w("num_groups", attribute="_num_groups"), _w("num_channels", attribute="_num_channels"), _NORM[1],
    )),
    "LayerNorm": ("LayerNorm", (_w("normalized_shape", attribute="_normalized_shape"), _NORM[1])),
    "LocalResponseNorm": ("LocalResponseNorm", (_w("size"), _w("alpha"), _w("beta"), _w("k"))),
    "AvgPool2d": ("AvgPool2D", (
        *_POOL, _w("count_include_pad", "exclusive", "exclusive", "not"),
        _w("divisor_override", attribute="divisor"),
    )),
    "MaxPool2d": ("MaxPool2D", _POOL),
    "AvgPool1d": ("AvgPool1D", (_w("kernel_size"), *_POOL[1:], _w("count_include_pad", "exclusive", "exclusive", "not"))),
    "MaxPool1d": ("MaxPool1D", (_w("kernel_size"), *_POOL[1:])),
    "AdaptiveAvgPool2d": ("AdaptiveAvgPool2D", (_w("output_size", attribute="_output_size"),)),
    "AdaptiveMaxPool2d": ("AdaptiveMaxPool2D", (_w("output_size", attribute="_output_size"),)),
    "Dropout": ("Dropout", (_w("p"), _w("mode"))),
    "Dropout2d": ("Dropout2D", (_w("p"),)),
    "ReLU": ("ReLU", ()), "ReLU6": ("ReLU6", ()), "SELU": ("SELU", ()), "SiLU": ("Silu", ()),
    "Sigmoid": ("Sigmoid", ()), "Tanh": ("Tanh", ()), "Hardswish": ("Hardswish", ()), "Mish": ("Mish", ()),
    "Hardsigmoid": ("Hardsigmoid", ()), "Softsign": ("Softsign", ()), "Identity": ("Identity", ()),
    "LogSigmoid": ("LogSigmoid", ()), "Tanhshrink": ("Tanhshrink", ()),
    "LeakyReLU": ("LeakyReLU", (_w("negative_slope", attribute="_negative_slope"),)),
    "PReLU": ("PReLU", (_w("num_parameters", attribute="_num_parameters"),)),
    "ELU": ("ELU", (_w("alpha", attribute="_alpha"),)), "CELU": ("CELU", (_w("alpha", attribute="_alpha"),)),
    "GELU": ("GELU", (_w("approximate", attribute="_approximate", meaning="tanh"),)),
    "Hardtanh": ("Hardtanh", (_w("min_val", "min", "_min"), _w("max_val", "max", "_max"))),
    "Softplus": ("Softplus", (_w("beta", attribute="_beta"), _w("threshold", attribute="_threshold"))),
    "Hardshrink": ("Hardshrink", (_w("lambd", "threshold", "_threshold"),)),
    "Softshrink": ("Softshrink", (_w("lambd", "threshold", "_threshold"),)),
    "Threshold": ("ThresholdedReLU", (_w("threshold", attribute="_threshold"), _w("value", attribute="_value"))),
    "Softmax": ("Softmax", (_w("dim", "axis", "_axis"),)),
    "LogSoftmax": ("LogSoftmax", (_w("dim", "axis", "_axis"),)),
    "GLU": ("GLU", (_w("dim", "axis", "_axis"),)),
    "Upsample": ("Upsample", (
        _w("size"), _w("scale_factor"), _w("mode"), _w("align_corners"), _w("align_mode"),
    )),
    "UpsamplingBilinear2d": ("UpsamplingBilinear2D", (_w("size"), _w("scale_factor"))),
    "Linear": ("Linear", (
        _w("in_features"), _w("out_features"), _w("bias", "bias_attr", "bias", "present"),
    )),
    "Embedding": ("Embedding", (
        _w("num_embeddings", attribute="_num_embeddings"), _w("embedding_dim", attribute="_embedding_dim"),
        _w("padding_idx", attribute="_padding_idx"),
    )),
    "PixelShuffle": ("PixelShuffle", (_w("upscale_factor", attribute="_upscale_factor"),)),
    "PixelUnshuffle": ("PixelUnshuffle", (_w("downscale_factor", attribute="_downscale_factor"),)),
    "ChannelShuffle": ("ChannelShuffle", (_w("groups", attribute="_groups"),)),
    "ZeroPad2d": ("ZeroPad2D", (_w("padding"),)),
    "Flatten": ("Flatten", (_w("start_dim", "start_axis"), _w("end_dim", "stop_axis"))),
    "LSTM": ("LSTM", _RNN), "GRU": ("GRU", _RNN), "RNN": ("SimpleRNN", _RNN),
    "MultiheadAttention": ("MultiHeadAttention", (
        _w("embed_dim"), _w("num_heads"), _w("dropout"), _w("batch_first", attribute=" "),
    )),
}  # fmt: skip
"""PyTorch's class -> Paddle's class, and their settings, those that have no default first."""

_BY_PADDLE = {paddle: torch for torch, (paddle, _) in LAYERS.items()}
DEFAULTS: Mapping[str, Any] = {"mode": "upscale_in_train", "align_mode": 0, "batch_first": True}
"""What PyTorch's layers do where they have no such setting, or Paddle's."""

MAX_TEXT = 60


def layer_of(side: Side, module: Any) -> str:
    """PyTorch's class of a layer of `side`, of the nearest base class that is known; "" if none is."""
    for cls in type(module).__mro__:
        if side == "torch" and cls.__name__ in LAYERS:
            return cls.__name__
        if side == "paddle" and cls.__name__ in _BY_PADDLE:
            return _BY_PADDLE[cls.__name__]
    return ""


def is_plain(side: Side, module: Any) -> bool:
    """Whether the module is the framework's own layer, not a class derived from it."""
    name = type(module).__name__
    own = name in LAYERS if side == "torch" else name in _BY_PADDLE
    return own and type(module).__module__.partition(".")[0] == side and "forward" not in vars(module)


def read_settings(side: Side, module: Any) -> dict[str, Any]:
    """A layer's settings by PyTorch's names, as plain values; for other classes their public plain attributes."""
    layer = layer_of(side, module)
    found: dict[str, Any] = {"layer": layer, "class": type(module).__name__}
    if not layer:
        return found | {f".{key}": value for key, value in vars(module).items() if _is_figure(key, value)}
    for word in LAYERS[layer][1]:
        found[word.name] = _read(side, module, layer, word)
    return found


def _is_figure(key: str, value: object) -> bool:
    if key.startswith("_") or key in ("training", "inplace"):
        return False
    values = value if isinstance(value, tuple | list) else (value,)
    return len(values) <= 8 and all(isinstance(each, bool | int | float | str) for each in values)


def _read(side: Side, module: Any, layer: str, word: Word) -> Any:
    if side == "torch":
        value = getattr(module, word.torch_attribute, DEFAULTS.get(word.name))
        if word.meaning == "present":
            return value is not None
        if word.name == "align_corners":
            return bool(value)
        return _plain(_as_pair(layer, word, value))
    value = getattr(module, word.attribute, DEFAULTS.get(word.name))
    return _plain(_as_pair(layer, word, from_paddle(word, value)))


def from_paddle(word: Word, value: Any) -> Any:
    """Paddle's value of a setting in PyTorch's meaning."""
    if word.meaning == "not":
        return not value
    if word.meaning == "complement":
        return round(1 - value, 12)
    if word.meaning == "present":
        return value is not None
    if word.meaning == "tanh":
        return "tanh" if value in (True, "tanh") else "none"
    if word.name == "track_running_stats":
        return value is not False
    if word.name == "padding_idx" and value == -1:
        return None
    return value


def to_paddle(word: Word, value: Any) -> Any:
    """PyTorch's value of a setting as Paddle's argument or attribute."""
    if word.meaning == "not":
        return not value
    if word.meaning == "complement":
        return round(1 - value, 12)
    if word.meaning == "present":
        return None if value else False
    if word.meaning == "tanh":
        return value == "tanh"
    if word.name == "track_running_stats":
        return None if value else False
    return value


PAIRS = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")


def _as_pair(layer: str, word: Word, value: Any) -> Any:
    """2 and (2, 2) are one setting; a pool's stride is its kernel where it is left out."""
    dimensions = int(layer[-2]) if layer.endswith("d") and layer[-2].isdigit() else 1
    if word.name in PAIRS and isinstance(value, tuple | list) and len(set(value)) == 1:
        return value[0] if len(value) == dimensions else list(value)
    return value


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def settle(settings: Settings) -> dict[str, Any]:
    """Settings with what is left out filled in: a pool's stride is its kernel."""
    filled = dict(settings)
    if filled.get("stride", 0) is None:
        filled["stride"] = filled.get("kernel_size")
    return filled


def differing(reference: Settings, own: Settings) -> list[str]:
    """The names of the settings that both layers have and that differ; "layer" if they are different layers."""
    a, b = settle(reference), settle(own)
    if a["layer"] != b["layer"]:
        return ["layer"]
    return [name for name in a if name not in ("layer", "class") and name in b and a[name] != b[name]]


def word_for(layer: str, name: str) -> Word:
    """The word of a layer's setting."""
    return next(word for word in LAYERS[layer][1] if word.name == name)


def paddle_arguments(settings: Settings) -> tuple[str, dict[str, Any]]:
    """Paddle's class and arguments for a layer with `settings`."""
    paddle, words = LAYERS[settings["layer"]]
    filled = settle(settings)
    arguments = {
        word.argument: to_paddle(word, filled[word.name])
        for word in words
        if word.name in filled and word.attribute.strip() and word.name != "training"
    }
    return paddle, arguments


def paddle_line(settings: Settings, cls: Any) -> str:
    """The line that builds a Paddle layer with `settings`; `cls` is its class, for what its defaults are."""
    name, arguments = paddle_arguments(settings)
    parameters = inspect.signature(cls.__init__).parameters
    words = []
    for key, value in arguments.items():
        default = parameters[key].default if key in parameters else inspect.Parameter.empty
        if default is inspect.Parameter.empty:
            words.append(_text(value))
        elif value != default and not (key == "stride" and value == arguments.get("kernel_size")):
            words.append(f"{key}={_text(value)}")
    return f"nn.{name}({', '.join(words)})"


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
