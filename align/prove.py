"""Proving a conversion by running it: each side's network with its own file, forward, compared."""

from __future__ import annotations

import os
from pathlib import Path

from stdc_parity.align import pairs
from stdc_parity.align.compare import Judging
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.progress import Silent
from stdc_parity.align.result import RunResult
from stdc_parity.align.run import SILENT, choose_spec, run_rungs
from stdc_parity.align.spec import TapLevel
from stdc_parity.converters.errors import MissingFramework, shown


def prove(
    source: Path, key: str | None, target: Path, model: str, taps: TapLevel, progress: Silent = SILENT
) -> RunResult:
    """Run the pair's forward stage: the side whose names `target` has loads that, the other one loads `source`.

    `key` is where the state dict is in `source`, `model` the architecture that it was converted as.
    `taps` are "outputs" if `target` may lack modules that do not lead to one, as layouts of other code bases do.
    Raises MissingFramework, and says that `target` was written, if a side's framework cannot be imported; otherwise
    as `run_rungs`.
    """
    spec = choose_spec(
        pair=model if model in pairs.names() else None,
        size=None,
        batch=None,
        weights=os.fspath(source),
        key=key,
        converted=os.fspath(target),
        taps=taps,
    )
    judging = Judging(Tolerance(1e-5, None, None), "auto", False, None)
    try:
        return run_rungs(["forward"], spec, judging, progress=progress)
    except MissingFramework as error:
        note = f"{shown(str(target))} was written and is kept. To prove it: {error.note}"
        raise MissingFramework(error.message, note) from None
