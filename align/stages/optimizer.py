"""The optimizer stage on one side: parameters, momentum buffers and settings after steps on given gradients.

The learning rates are given too: the schedule is a stage of its own.
"""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import numpy as np

from stdc_parity.align import plain_optimizer
from stdc_parity.align.framework import Array, Framework, Names, Network
from stdc_parity.align.pair import PlainOptimizer
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.backward import to_official
from stdc_parity.align.stages.loss import build_loss, trained
from stdc_parity.converters.architecture import Side

STAGE = "optimizer"
WITHOUT_GRADIENT = 7
"""Of every so many parameters one gets no gradient, as those that a forward pass does not use; each of the
others gets none in one of as many steps, where a gradient that is zero instead of absent shows."""

SMALL = 1 << 11
"""Elements up to which a drawn gradient is kept for whoever asks again."""

BEFORE = "before step 1"
"""How a parameter's value at the start is named; it goes along, so that a rule of update can be tried on it."""


def build_optimizer(
    session: Session,
    spec: RunSpec,
    network: Network,
    loss: Any,
    lr: float,
    warmup: int = 2,
    iterations: int = 0,
) -> Any:
    """This side's optimizer with the recipe's settings for a short run; a short warm-up, so that the rate moves
    with every step. `iterations` are by default four times the steps of `spec`."""
    part = session.recipe(spec).optimizer
    if isinstance(part, PlainOptimizer):
        return plain_optimizer.PlainOptimizer(session.framework, session.part(spec, part.place)(network), network)
    assert part is not None
    settings = part.short(lr, warmup, iterations or 4 * spec.steps)
    return session.part(spec, part.place)(network, trained(loss), **settings)


def base_rate(session: Session, spec: RunSpec) -> float:
    """The recipe's base learning rate."""
    part = session.recipe(spec).optimizer
    assert part is not None
    return part.lr


def capture(session: Session, spec: RunSpec) -> Record:
    """Record what applies to every parameter, then its value and momentum after one step and after the last.

    The gradients are drawn from the seed, the same for both sides; some parameters get none, the loss's own
    gets zeros, as in training. The base learning rate grows with every step.
    """
    framework = session.framework
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    lr = base_rate(session, spec)
    optimizer = build_optimizer(session, spec, network, loss, lr)
    names, recorder = framework.official_names(network), Recorder(framework)
    add_settings(recorder, optimizer, names)
    _add_start(framework, recorder, optimizer, names)
    for step in range(1, spec.steps + 1):
        optimizer.zero_grad()
        for group in optimizer.groups:
            for name, parameter in zip(group.names, group.params, strict=True):
                shape = tuple(parameter.shape)
                gradient = _gradient(framework.SIDE, names, name, shape, step, spec)
                if gradient is not None:
                    framework.give_gradient(parameter, gradient)
        optimizer.set_lr(lr * step / spec.steps)
        optimizer.update()
        for name, rate in optimizer.learning_rates().items():
            taken = np.array(rate, np.float64)
            recorder.add_array(
                f"learning rate of {name} in step {step}", "setting", taken, f"learning rate of {name}"
            )
        if step in (1, spec.steps):
            add_state(session, recorder, network, optimizer, f"after step {step}")
    return recorder.record(STAGE)


def official_name(names: Names, name: str) -> str:
    """What the reference calls a parameter; its own name if it is the loss's."""
    return names[name][0] if name in names else name


def add_settings(recorder: Recorder, optimizer: Any, names: Names) -> None:
    """Record the settings of every parameter (learning rate, weight decay, momentum), and its group's name."""
    for own, settings in optimizer.settings().items():
        name = official_name(names, own)
        figures = {what.replace("_", " "): value for what, value in settings.items() if what != "group"}
        group, values = settings["group"], np.array(list(figures.values()), np.float64)
        recorder.add_array(f"{name} {', '.join(figures)} ({group})", "setting", values, name, str(group))


def add_state(session: Session, recorder: Recorder, network: Network, optimizer: Any, when: str) -> None:
    """Record every parameter of the groups and its momentum buffer, in the official shapes.

    The values are the network's own: a group may hold a tensor that is no longer a part of it.
    """
    framework, buffers = session.framework, optimizer.momentum_buffers()
    own, (_, hidden) = framework.parameters(network), session.apart({})
    names = framework.official_names(network)
    for group in optimizer.groups:
        for name, parameter in zip(group.names, group.params, strict=True):
            if name in hidden:
                continue
            value = to_official(framework.SIDE, names, name, framework.to_array(own.get(name, parameter)))
            label = official_name(names, name)
            recorder.add_array(f"{label} {when}", "parameter", value, label, group.name)
            if name in buffers:
                buffer = to_official(framework.SIDE, names, name, framework.to_array(buffers[name]))
                recorder.add_array(f"momentum of {label} {when}", "momentum", buffer, label, group.name)


def _add_start(framework: Framework, recorder: Recorder, optimizer: Any, names: Names) -> None:
    """Record what every parameter is before the first step."""
    for group in optimizer.groups:
        for name, parameter in zip(group.names, group.params, strict=True):
            value = to_official(framework.SIDE, names, name, framework.to_array(parameter))
            label = official_name(names, name)
            recorder.add_array(f"{label} {BEFORE}", "input", value, label, group.name)


def _gradient(
    side: Side, names: Names, name: str, shape: tuple[int, ...], step: int, spec: RunSpec
) -> Array | None:
    """The seeded gradient of a parameter of that name and shape on this side, None for those without one."""
    official = to_official(side, names, name, np.empty(shape, np.bool_)).shape
    gradient = official_gradient(official_name(names, name), official, step, spec.seed, spec.dtype)
    return to_official(side, names, name, gradient) if gradient is not None else None


def official_gradient(name: str, shape: tuple[int, ...], step: int, seed: int, dtype: str) -> Array | None:
    """The seeded gradient of a parameter of that name and official shape in a step; None for those without one."""
    if name.startswith("loss."):
        return np.zeros(shape, dtype)
    if not has_gradient(name, step):
        return None
    draw = _small_gradient if math.prod(shape) <= SMALL else _drawn_gradient
    return draw(name, shape, step, seed, dtype)


def _drawn_gradient(name: str, shape: tuple[int, ...], step: int, seed: int, dtype: str) -> Array:
    key = zlib.crc32(name.encode())
    drawn = np.random.default_rng([seed, step, key]).standard_normal(shape, np.float32)
    gradient: Array = (0.01 * drawn).astype(dtype)
    gradient.flags.writeable = False
    return gradient


_small_gradient = functools.lru_cache(4096)(_drawn_gradient)


def has_gradient(name: str, step: int) -> bool:
    """Whether a parameter of that name gets a gradient in that step; all that ever get one do in the first."""
    key = zlib.crc32(name.encode())
    return key % WITHOUT_GRADIENT != 0 and (step == 1 or (key + step) % WITHOUT_GRADIENT != 0)
