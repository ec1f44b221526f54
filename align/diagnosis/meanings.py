"""What the two frameworks' functions and settings are called: PyTorch's calls in Paddle's words.

Read off both documentations ("API mapping" of Paddle's, and the functions' own pages).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stdc_parity.align.tracing import Call, Settings, Trace

CONV = "x weight bias stride=1 padding=0 dilation=1 groups=1"
CONV_T = "x weight bias stride=1 padding=0 output_padding=0 groups=1 dilation=1"
POOL = "x kernel_size stride=None padding=0"
NORM = "input:x running_mean running_var weight bias"
WINDOWS = "kernel_size:kernel_sizes dilation:dilations=1 padding:paddings=0 stride:strides=1"
TARGET = "target:label weight reduction=mean"
REDUCE = "x dim:axis=None keepdim=False"

FUNCTIONS = f"""
conv1d conv1d input:{CONV}
conv2d conv2d input:{CONV}
conv3d conv3d input:{CONV}
conv_transpose1d conv1d_transpose input:{CONV_T}
conv_transpose2d conv2d_transpose input:{CONV_T}
conv_transpose3d conv3d_transpose input:{CONV_T}
linear linear input:x weight bias
batch_norm batch_norm {NORM} training=False momentum:1-momentum=0.1 eps:epsilon=1e-5
layer_norm layer_norm input:x normalized_shape weight bias eps:epsilon=1e-5
group_norm group_norm input:x num_groups weight bias eps:epsilon=1e-5
instance_norm instance_norm {NORM} momentum:1-momentum=0.1 eps:eps=1e-5
local_response_norm local_response_norm input:x size alpha=1e-4 beta=0.75 k=1.0
normalize normalize input:x p=2.0 dim:axis=1 eps:epsilon=1e-12
avg_pool1d avg_pool1d input:{POOL} ceil_mode=False count_include_pad:!exclusive=True
avg_pool2d avg_pool2d input:{POOL} ceil_mode=False count_include_pad:!exclusive=True divisor_override=None
avg_pool3d avg_pool3d input:{POOL} ceil_mode=False count_include_pad:!exclusive=True divisor_override=None
max_pool1d max_pool1d input:{POOL} ceil_mode=False
max_pool2d max_pool2d input:{POOL} ceil_mode=False
max_pool3d max_pool3d input:{POOL} ceil_mode=False
adaptive_avg_pool1d adaptive_avg_pool1d input:x output_size
adaptive_avg_pool2d adaptive_avg_pool2d input:x output_size
adaptive_max_pool1d adaptive_max_pool1d input:x output_size
adaptive_max_pool2d adaptive_max_pool2d input:x output_size
lp_pool2d lp_pool2d input:x norm_type kernel_size stride=None ceil_mode=False
relu relu input:x
relu_ relu input:x
relu6 relu6 input:x
hardtanh hardtanh input:x min_val:min=-1.0 max_val:max=1.0
leaky_relu leaky_relu input:x negative_slope=0.01
elu elu input:x alpha=1.0
celu celu input:x alpha=1.0
selu selu input:x
gelu gelu input:x approximate=none
silu silu input:x
mish mish input:x
softplus softplus input:x beta=1.0 threshold=20.0
softsign softsign input:x
softshrink softshrink input:x lambd:threshold=0.5
hardshrink hardshrink input:x lambd:threshold=0.5
tanhshrink tanhshrink input:x
logsigmoid log_sigmoid input:x
sigmoid sigmoid input:x
hardsigmoid hardsigmoid input:x
hardswish hardswish input:x
tanh tanh input:x
glu glu input:x dim:axis=-1
softmax softmax input:x dim:axis=-1
log_softmax log_softmax input:x dim:axis=-1
prelu prelu input:x weight
dropout dropout input:x p=0.5 training=True
dropout2d dropout2d input:x p=0.5 training=True
interpolate interpolate input:x size=None scale_factor=None mode=nearest align_corners=False antialias=False
upsample upsample input:x size=None scale_factor=None mode=nearest align_corners=False
grid_sample grid_sample input:x grid mode=bilinear padding_mode=zeros align_corners=False
affine_grid affine_grid theta size:out_shape align_corners=False
pixel_shuffle pixel_shuffle input:x upscale_factor
pixel_unshuffle pixel_unshuffle input:x downscale_factor
channel_shuffle channel_shuffle input:x groups
pad pad input:x pad mode=constant value=0.0
embedding embedding input:x weight padding_idx=None max_norm=None norm_type=2.0
one_hot one_hot tensor:x num_classes
scaled_dot_product_attention scaled_dot_product_attention query key value attn_mask dropout_p=0.0 is_causal=False
unfold unfold input:x {WINDOWS}
fold fold input:x output_size:output_sizes {WINDOWS}
cosine_similarity cosine_similarity x1 x2 dim:axis=1 eps=1e-8
cross_entropy cross_entropy input target:label weight ignore_index=-100 reduction=mean label_smoothing=0.0 @axis=1
nll_loss nll_loss input target:label weight ignore_index=-100 reduction=mean
binary_cross_entropy binary_cross_entropy input {TARGET}
binary_cross_entropy_with_logits binary_cross_entropy_with_logits input:logit {TARGET} pos_weight
mse_loss mse_loss input target:label reduction=mean
l1_loss l1_loss input target:label reduction=mean
smooth_l1_loss smooth_l1_loss input target:label reduction=mean beta:delta=1.0
kl_div kl_div input target:label reduction=mean log_target=False
mean mean input:{REDUCE}
sum sum input:{REDUCE}
prod prod input:{REDUCE}
max max input:{REDUCE}
min min input:{REDUCE}
amax max input:{REDUCE}
amin min input:{REDUCE}
median median input:{REDUCE} @mode=min
logsumexp logsumexp input:{REDUCE}
var var input:x dim:axis=None unbiased=True keepdim=False
std std input:x dim:axis=None unbiased=True keepdim=False
norm norm input:x p=fro dim:axis=None keepdim=False
argmax argmax input:x dim:axis=None keepdim=False
argmin argmin input:x dim:axis=None keepdim=False
cumsum cumsum input:x dim:axis=None
cat concat tensors:x dim:axis=0
concat concat tensors:x dim:axis=0
stack stack tensors:x dim:axis=0
flip flip input:x dims:axis
roll roll input:x shifts dims:axis=None
permute transpose input:x dims:perm
transpose transpose input:x
view reshape input:x size:shape
reshape reshape input:x size:shape
flatten flatten input:x start_dim:start_axis=0 end_dim:stop_axis=-1
unsqueeze unsqueeze input:x dim:axis
squeeze squeeze input:x dim:axis=None
expand expand input:x size:shape
repeat tile input:x sizes:repeat_times
repeat_interleave repeat_interleave input:x repeats dim:axis=None
gather take_along_axis input:arr dim:axis index:indices
scatter put_along_axis input:arr dim:axis index:indices src:values
index_select index_select input:x dim:axis index
where where condition input:x other:y
clamp clip input:x min=None max=None
clip clip input:x min=None max=None
pow pow input:x exponent:y
square square input:x
sqrt sqrt input:x
rsqrt rsqrt input:x
abs abs input:x
exp exp input:x
log log input:x
round round input:x
floor floor input:x
neg neg input:x
detach detach 0:x
clone clone 0:x
add add input:x other:y
sub subtract input:x other:y
rsub rsubtract input:x other:y
__rsub__ rsubtract input:x other:y
mul multiply input:x other:y
div divide input:x other:y
__rdiv__ rdivide input:x other:y
__rpow__ rpow input:x other:y
matmul matmul input:x other:y
bmm bmm input:x mat2:y
maximum maximum input:x other:y
minimum minimum input:x other:y
topk topk input:x k dim:axis=-1 largest=True
kthvalue kthvalue input:x k dim:axis=-1 keepdim=False
sort sort input:x dim:axis=-1 descending=False
split split input:x split_size:num_or_sections dim:axis=0
chunk chunk input:x chunks dim:axis=0
__getitem__ __getitem__ input:x item
register_hook register_hook 0:x
gt greater_than input:x other:y
ge greater_equal input:x other:y
lt less_than input:x other:y
le less_equal input:x other:y
eq equal input:x other:y
ne not_equal input:x other:y
full_like full_like input:x fill_value
masked_fill masked_fill input:x mask value
masked_select masked_select input:x mask
numel numel input:x
erf erf input:x
fmod fmod input:x other:y
remainder remainder input:x other:y
floor_divide floor_divide input:x other:y
tril tril input:x diagonal=0
triu triu input:x diagonal=0
einsum einsum operands equation
cumprod cumprod input:x dim=None
argsort argsort input:x dim:axis=-1 descending=False
quantile quantile input:x q dim:axis=None keepdim=False
unbind unbind input dim:axis=0
all all input:{REDUCE}
any any input:{REDUCE}
nanmean nanmean input:{REDUCE}
nansum nansum input:{REDUCE}
rot90 rot90 input:x k=1 dims:axes
diagonal diagonal input:x offset=0 dim1:axis1=0 dim2:axis2=1
cross cross input:x other:y dim:axis
lerp lerp input:x end:y weight
log2 log2 input:x
log10 log10 input:x
log1p log1p input:x
expm1 expm1 input:x
sin sin input:x
cos cos input:x
ceil ceil input:x
trunc trunc input:x
sign sign input:x
reciprocal reciprocal input:x
logical_not logical_not input:x
logical_and logical_and input:x other:y
logical_or logical_or input:x other:y
"""
"""PyTorch's function, Paddle's, and the arguments: PyTorch's name, Paddle's if it is another one, the default."""

UNTOLD = ("data_format", "stable", "requires_grad", "pin_memory", "inplace", "training_mode")
"""Settings that say nothing about what is computed."""

CASTS = {
    "to": "", "type": "", "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
}  # fmt: skip
"""PyTorch's ways to cast, and to what."""

IN_PLACE = ("add", "sub", "mul", "div", "clamp", "relu", "pow")
TWINS = {
    "_conv_nd": "conv2d", "expand_as": "expand", "chunk": "split", "mod": "remainder", "floor_mod": "remainder",
}  # fmt: skip

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "eps": ("_epsilon", "epsilon", "_eps"),
    "momentum": ("_momentum",),
    "count_include_pad": ("exclusive",),
    "batch_first": ("time_major",),
    "negative_slope": ("slope", "_negative_slope"),
    "dim": ("_axis", "axis"),
    "normalized_shape": ("_normalized_shape",),
    "kernel_size": ("ksize", "_kernel_size", "kernel_size"),
    "min_val": ("min", "_min"),
    "max_val": ("max", "_max"),
    "num_groups": ("_num_groups",),
    "padding_idx": ("_padding_idx",),
}
"""What a module keeps a setting as, in PyTorch and in Paddle; other names are the same but for an underscore."""

NOTES: Mapping[str, str] = {
    "exclusive": "exclusive=True divides by the valid cells, PyTorch counts the padding (count_include_pad=True)",
    "momentum": "Paddle's momentum is the weight of the old value, 1 minus PyTorch's",
    "align_corners": "the samples lie half a cell off",
    "time_major": "PyTorch's batch_first=False means time_major=True",
    "ceil_mode": "it decides whether a window that is not full counts",
    "axis": "it decides what belongs together",
    "approximate": "tanh is an approximation of erf",
    "training": "False normalises by the running statistics, True by the batch's",
    "pad_from_left_axis": "Paddle pads the first axis first if all are given, PyTorch the last one: another order",
    "unbiased": "a biased variance divides by n, an unbiased one by n - 1",
}
"""What is worth knowing of a setting."""


def _parse(lines: str) -> dict[str, tuple[str, list[tuple[str, str, Any]]]]:
    found = {}
    for line in lines.strip().splitlines():
        torch, paddle, *arguments = line.split()
        found[torch] = (paddle, [_argument(text) for text in arguments])
    return found


def _argument(text: str) -> tuple[str, str, Any]:
    names, has, default = text.partition("=")
    torch, renamed, paddle = names.partition(":")
    return torch, paddle if renamed else torch, _value(default) if has else MISSING


MISSING = "(none)"


def _value(text: str) -> Any:
    special = {"None": None, "True": True, "False": False}
    if text in special:
        return special[text]
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


TABLE = _parse(FUNCTIONS)


def in_paddles_words(trace: Trace) -> Trace:
    """A trace of PyTorch's with Paddle's names of functions and settings."""
    return replace(trace, calls=[_by_result(_translated(call), trace) for call in trace.calls])


def tidied(trace: Trace) -> Trace:
    """A trace of Paddle's with one name for what has several."""
    return replace(trace, calls=[_by_result(_tidy(call), trace) for call in trace.calls])


def _by_result(call: Call, trace: Trace) -> Call:
    """A call whose settings mean something else in Paddle, by what it gives.

    A split: PyTorch is told a part's size, Paddle how many there are. A padding of all axes: PyTorch begins with
    the last one.
    """
    if "axes" in call.settings and not call.module:
        perm = list(range(trace.values[call.outputs[0]].ndim))
        one, other = call.settings["axes"]
        perm[one], perm[other] = perm[other], perm[one]
        return replace(call, settings={"perm": tuple(perm)})
    if call.name == "pad" and not call.module:
        rank = trace.values[call.outputs[0]].ndim
        whole = len(call.settings["pad"]) == 2 * rank and "pad_from_left_axis" not in call.settings
        return replace(call, settings={**call.settings, "pad_from_left_axis": False}) if whole else call
    if call.name not in ("split", "chunk") or call.module:
        return call
    axis = call.settings.get("axis", 0)
    sizes = tuple(trace.values[number].shape[axis] for number in call.outputs)
    return replace(call, name="split", settings={"num_or_sections": sizes, "axis": axis}, defaults={})


def _translated(call: Call) -> Call:
    name = call.name.removesuffix("_") if call.name.removesuffix("_") in IN_PLACE else call.name
    name = {"sigmoid_": "sigmoid", "concatenate": "cat", "absolute": "abs", "__radd__": "add", "__rmul__": "mul",
            "true_divide": "div", "multiply": "mul", "subtract": "sub", "divide": "div", "__rtruediv__": "__rdiv__",
            "view_as": "reshape", "swapaxes": "transpose"}.get(name, name)  # fmt: skip
    if name in CASTS and not call.module:
        dtype = CASTS[name] or call.settings.get("other", call.settings.get("dtype"))
        return replace(call, name="astype", settings={"dtype": dtype})
    if call.module or name not in TABLE:
        return replace(call, name=name)
    paddle, arguments = TABLE[name]
    settings: dict[str, Any] = {}
    renamed = {}
    for torch, other, default in arguments:
        if torch.startswith("@"):
            settings[torch.removeprefix("@")] = default
            continue
        renamed[torch] = other.lstrip("!").removeprefix("1-")
        value = call.settings.get(torch, default)
        if value == MISSING or torch in {key for key, _ in call.inputs}:
            continue
        value = default if value is None and default != MISSING else value
        if other.startswith("!"):
            value = not value
        elif other.startswith("1-") and value is not None:
            value = round(1 - value, 12)
        settings[other.lstrip("!").removeprefix("1-")] = value
    if name == "transpose" and "dim0" in call.settings:
        settings = {"axes": (call.settings["dim0"], call.settings["dim1"])}
    if name == "hardtanh" and (settings["min"], settings["max"]) == (0.0, 6.0):
        paddle, settings = "relu6", {}
    if call.name.endswith("_") and not call.name.endswith("__"):
        settings["inplace"] = True
    inputs = [(renamed.get(key, key), number) for key, number in call.inputs]
    return replace(call, name=paddle, settings=_with_stride(settings), inputs=inputs)


def _tidy(call: Call) -> Call:
    if call.module:
        return call
    name = TWINS.get(call.name, call.name)
    name = name.removesuffix("_") if name.endswith("_") and not name.endswith("__") else name
    settings = {key: value for key, value in call.settings.items() if key not in UNTOLD}
    if name == "clip":
        settings = {key: settings.get(key) for key in ("min", "max")}
    if name == "gelu" and isinstance(settings.get("approximate"), bool):
        settings["approximate"] = "tanh" if settings["approximate"] else "none"
    return replace(call, name=name, settings=_with_stride(settings))


def _with_stride(settings: Settings) -> Settings:
    """A pool's stride is its kernel's size if it is not given."""
    if settings.get("stride", 1) is None and "kernel_size" in settings:
        return {**settings, "stride": settings["kernel_size"]}
    return settings


def normal(value: Any) -> Any:
    """A setting in one form: (3, 3) is 3, [1, 1] is 1, 1.0 is 1."""
    if isinstance(value, list | tuple):
        items = tuple(normal(item) for item in value)
        return items[0] if items and all(item == items[0] for item in items) else items
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def same(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a setting mean the same."""
    one, other = normal(one), normal(other)
    if name in ("p", "norm_type") and {one, other} <= {"fro", 2, None}:
        return True
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= 1e-7 * max(abs(one), abs(other)) or (one == other)
    return bool(one == other)


def differing(reference: Call, other: Call) -> dict[str, tuple[Any, Any]]:
    """The settings that differ: the reference's value and the other's. What only Paddle has should be its default."""
    expected = {**other.defaults, **reference.settings}
    return {
        key: (expected[key], value)
        for key, value in other.settings.items()
        if key in expected and key not in UNTOLD and not same(key, expected[key], value)
    }


def attribute_pairs(torch: Settings, paddle: Settings) -> list[tuple[str, str, Any, Any]]:
    """The settings that both modules keep and that differ: PyTorch's name, Paddle's, PyTorch's value as Paddle
    would have it, and Paddle's value."""
    found = []
    for name, value in torch.items():
        if name.startswith("_") or name in ("frozen", "inplace", "training"):
            continue
        candidates: Sequence[str] = (*ATTRIBUTES.get(name, ()), name, f"_{name}")
        other = next((key for key in candidates if key in paddle), None)
        if other is None:
            continue
        if name in ("count_include_pad", "batch_first"):
            value = not value
        elif name == "momentum" and value is not None:
            value = round(1 - value, 12)
        elif name == "approximate":
            value = value == "tanh"
        if isinstance(paddle[other], str) != isinstance(value, str) and value is not None:
            continue
        if not same(name, value, paddle[other]):
            found.append((name, other, value, paddle[other]))
    return found
