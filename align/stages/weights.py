"""The weights stage on one side: the loaded network's own tensors, under their official names.

They are read back from the network, not from the checkpoint, so a load that skipped or cast something shows.
"""

from __future__ import annotations

import numpy as np

from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import is_transposed

STAGE = "weights"


def capture(session: Session, spec: RunSpec) -> Record:
    """Record every parameter and statistic of the loaded network by its official PyTorch name and shape.

    Module types tell what a tensor is, not the converter's tables. Batch counters are left out: Paddle keeps
    none.
    """
    framework = session.framework
    network = session.network(spec, fresh=bool(spec.plant))
    initial = session.initial()
    recorder, state = Recorder(framework), framework.state(network)
    types = {path: type(module).__name__ for path, module in framework.modules(network)}
    split, own_names = session.apart(state)
    for label, array in split.items():
        recorder.add_array(label, "tensor", array, label.partition(" ")[0].rpartition(".")[0])
    for own, (name, kind) in framework.official_names(network).items():
        if own in own_names:
            continue
        if kind != "norm.batches":
            array = state[own].T if is_transposed(framework.SIDE, kind) else state[own]
            module_type = types.get(own.rpartition(".")[0], "")
            recorder.add_array(name, "tensor", array, name.rpartition(".")[0], module_type)
            if own in initial and np.array_equal(initial[own], state[own]):
                recorder.add_array(f"{name}, initial", "input", array, name.rpartition(".")[0])
    return recorder.record(STAGE)
