"""A script that shows one module's difference by itself: what one attaches to a bug report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.own import arguments_of, own_place
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record
from stdc_parity.align.renamed import rename
from stdc_parity.align.result import Diagnosis
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.stages.explain import STATE
from stdc_parity.converters.atomic import atomic_write

SCRIPT = '''\
"""{title}

{cause}
Run it beside {data}, where both frameworks and the two packages below are installed.
"""

import importlib
{import_sys}from pathlib import Path

import numpy as np
import paddle
import torch

DATA = np.load(Path(__file__).with_name("{data}"))
BUILDERS = {builders}
ARGUMENTS = {arguments}
TRAIN, DTYPE = {train}, "{dtype}"
{own}

def build(side):
    module, _, function = BUILDERS[side].rpartition(":")
{build}    for name in filter(None, {path}.split(".")):
        network = getattr(network, name) if not name.isdigit() else network[int(name)]
    network.train() if TRAIN else network.eval()
    return network


def arrays(prefix):
    return {{key[len(prefix):]: DATA[key] for key in DATA.files if key.startswith(prefix)}}


def results(output):
    return [t for item in output for t in results(item)] if isinstance(output, (tuple, list)) else [output]


ours = build("torch").to(getattr(torch, DTYPE))
ours.load_state_dict({{k: torch.tensor(a) for k, a in arrays("torch state ").items()}}, strict=False)
theirs = build("paddle")
theirs._to_impl(dtype=DTYPE, floating_only=True)
theirs.set_state_dict({{k: paddle.to_tensor(a) for k, a in arrays("paddle state ").items()}})
gives = {{"torch": results(ours{method}({torch_input}))}}
gives["paddle"] = results(theirs{method}({paddle_input}))
{gradients}for i, (a, b) in enumerate(zip(gives["torch"], gives["paddle"])):
    a, b = a.detach().numpy(), b.detach().numpy()
    print(f"{{i}}: torch {{a.shape}} paddle {{b.shape}}", end="  ")
    print("max|a-b| / max|a| =", abs(a - b).max() / (abs(a).max() or 1) if a.shape == b.shape else "shapes differ")
'''
"""The script; `build` takes the network apart at the module, so that the rest of it does not matter."""

GRADIENTS = '''\
for side, given in (("torch", torch.tensor), ("paddle", paddle.to_tensor)):
    total = sum((t * given(a)).sum() for t, a in zip(gives[side], arrays("gradient ").values()))
    total.backward()
gives = {"torch": [t.grad for t in INPUTS["torch"]], "paddle": [t.grad for t in INPUTS["paddle"]]}
'''


STATISTICS = '''\
PADDLE = {"running_mean": "_mean", "running_var": "_variance"}
buffers = theirs.state_dict()
for name, buffer in ours.named_buffers():
    path, dot, last = name.rpartition(".")
    if last in PADDLE and path + dot + PADDLE[last] in buffers:
        gives["torch"].append(buffer)
        gives["paddle"].append(buffers[path + dot + PADDLE[last]])
'''
"""What a module leaves behind in training."""


OURS = """\
    network = getattr(importlib.import_module(module), function)(**ARGUMENTS){plant}
"""
THEIRS = """\
    sys.path.insert(0, FOLDERS[side])
    network = getattr(importlib.import_module(module), function)(**ARGUMENTS[side])
    sys.path.remove(FOLDERS[side])
    for name, found in list(sys.modules.items()):  # the other side may have a package of that name, too
        if str(getattr(found, "__file__", "")).startswith(FOLDERS[side]):
            del sys.modules[name]
    network = network[0] if isinstance(network, (tuple, list)) else network
"""
"""How a network of ours is built, and one of a user's own, from its own folder."""


def write_repro(
    folder: Path,
    stage: str,
    diagnosis: Diagnosis,
    call: str,
    records: Mapping[Side, Record],
    calls: Record,
    pair: Pair,
    spec: RunSpec,
) -> Path:
    """Write the script and its data for the module of `diagnosis` under `folder`; returns the script's path.

    `records` are both sides' traces of the module, with its state dict; `calls` the reference's record of all calls.
    Raises UsageError if they cannot be written.
    """
    path = "" if diagnosis.place == "network" else diagnosis.place
    stem = f"repro_{stage.replace('-', '_')}_{re.sub(r'[^0-9A-Za-z]+', '_', path) or 'network'}"
    inputs = _arrays(calls, f"{call} input")
    gradients = _arrays(calls, f"{call} gradient")
    data: dict[str, Array] = {f"input {name}": array for name, array in inputs.items()}
    data |= {f"gradient {name}": array for name, array in gradients.items()}
    for side, record in records.items():
        data |= {f"{side} {name}": array for name, array in record.arrays.items() if name.startswith(STATE)}
        outputs = [tap.name for tap in record.taps if tap.kind in ("module", "output", "gradient", "buffer")]
        data |= {f"recorded {side} {name}": record.arrays[name] for name in outputs}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{stem}.npz", force=True) as file:
        np.savez(file, **data)  # type: ignore[arg-type]
    script = folder / f"{stem}.py"
    keywords = any(not key.isdecimal() for key in inputs)
    with atomic_write(script, force=True) as file:
        backward = stage == "backward"
        file.write(_script(stem, path, diagnosis, pair, spec, backward=backward, keywords=keywords).encode())
    return script


def _arrays(record: Record, start: str) -> dict[str, Array]:
    """The arrays whose names begin so: by their number, or by the keyword that they are given as."""
    found = [tap.name for tap in record.taps if tap.name == start or tap.name.startswith(f"{start}[")]
    keys = [name[len(start) + 1 :].partition("]")[0] for name in found]
    named = len(set(keys)) == len(keys)  # not several within one argument
    return {
        key if named and key and not key.isdecimal() else str(i): record.arrays[name]
        for i, (key, name) in enumerate(zip(keys, found, strict=True))
    }


def _script(
    stem: str, path: str, diagnosis: Diagnosis, pair: Pair, spec: RunSpec, *, backward: bool, keywords: bool
) -> str:
    cause = f"Likely cause: {diagnosis.cause}" if diagnosis else "The cause is not known."
    plant = ""
    if spec.plant:
        plant = (
            "\n    from stdc_parity.fixtures.portbugs import planted"
            f"\n    for bug in planted(side, {list(spec.plant)}):\n        network = bug.change_network(network)"
        )
    plain = {"torch": "torch.tensor(a)", "paddle": "paddle.to_tensor(a)"}
    learning = {
        "torch": 'INPUTS["torch"].append(t := torch.tensor(a).requires_grad_(a.dtype.kind == "f")) or t',
        "paddle": 'INPUTS["paddle"].append(t := paddle.to_tensor(a, stop_gradient=a.dtype.kind != "f")) or t',
    }
    given = {side: _arguments(each, keywords) for side, each in (learning if backward else plain).items()}
    own, places = spec.own, {side: own_place(build, pair, side) for side, build in pair.builders.items()}
    arguments = {side: arguments_of(own, pair, side) for side in pair.builders}
    folders = f"FOLDERS = { {side: folder for side, (folder, _) in places.items()} }\n" if own else ""
    place = {"torch": path, "paddle": rename(path, pair.names)}
    text = SCRIPT.format(
        title=f"{path or 'The network'} of {pair.name} differs by {diagnosis.before:.3g} of scale by itself.",
        cause="\n".join(_wrapped(cause)),
        data=f"{stem}.npz",
        builders={side: build for side, (_, build) in places.items()} if own else dict(pair.builders),
        arguments=arguments if own else dict(pair.arguments),
        own=folders,
        import_sys="import sys\n" if own else "",
        build=THEIRS if own else OURS.format(plant=plant),
        path=repr(path) if place["torch"] == place["paddle"] else f"{place}[side]",
        train=spec.mode == "train",
        dtype=spec.dtype,
        method="" if path or pair.method == "forward" else f".{pair.method}",
        torch_input=given["torch"],
        paddle_input=given["paddle"],
        gradients=GRADIENTS if backward else STATISTICS if spec.mode == "train" else "",
    )
    kept = 'INPUTS = {"torch": [], "paddle": []}\nTRAIN, DTYPE'
    return text.replace("TRAIN, DTYPE", kept, 1) if backward else text


def _arguments(each: str, keywords: bool) -> str:
    """The arguments of a call: what `each` makes of every input `a`."""
    if not keywords:
        return f'*[{each} for a in arrays("input ").values()]'
    of = 'for k, a in arrays("input ").items()'
    return f"*[{each} {of} if k.isdigit()], **{{k: {each} {of} if not k.isdigit()}}"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text.replace('"""', "'''").replace("\\", "/"), 100)
