"""The weights stage on one side: the loaded network's own tensors, under their official names.

They are read back from the network, not from the checkpoint, so a load that skipped or cast something shows.
"""

from __future__ import annotations

from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import paddle_name

STAGE = "weights"


def capture(session: Session, spec: RunSpec) -> Record:
    """Record every parameter and statistic of the loaded network by its official PyTorch name and shape.

    Batch counters are left out (Paddle keeps none). A tensor that the architecture does not know keeps its
    own name, so that it is missed on the other side.
    """
    framework, architecture = session.framework, session.pair(spec).architecture
    state = framework.state(session.network(spec))
    recorder = Recorder(framework)
    for name, tensor_spec in architecture.tensors.items():
        own = name if framework.SIDE == "torch" else paddle_name(name, tensor_spec.kind)
        array = state.pop(own, None)
        if array is None or tensor_spec.kind == "norm.batches":
            continue
        transposed = framework.SIDE == "paddle" and tensor_spec.kind == "linear"
        recorder.add_array(name, "tensor", array.T if transposed else array, name.rpartition(".")[0])
    for name, array in state.items():
        recorder.add_array(name, "tensor", array, name.rpartition(".")[0])
    return recorder.record(STAGE)
