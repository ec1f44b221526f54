"""The pytest plugin: `assert_parity`, and a fixture `parity` that is the same with the test's name.

pytest loads this in every project where the package is installed, so it imports nothing until it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stdc_parity.align.result import RunResult


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--parity-report DIR`."""
    parser.getgroup("parity").addoption(
        "--parity-report", metavar="DIR", help="write a report of every use of the fixture `parity` into DIR"
    )


def assert_parity(torch_module: Any, paddle_layer: Any, inputs: Any, **options: Any) -> RunResult:
    """Assert that both compute the same: see `stdc_parity.align.live.assert_parity`."""
    __tracebackhide__ = True
    from stdc_parity.align import live

    return live.assert_parity(torch_module, paddle_layer, inputs, **options)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., RunResult]:
    """Return `assert_parity` with the test's name; with `--parity-report DIR` each call writes its report there."""
    folder = request.config.getoption("--parity-report")
    name = request.node.name
    calls = iter(range(1, 1 << 31))

    def check(*args: Any, **options: Any) -> RunResult:
        __tracebackhide__ = True
        number = next(calls)
        if folder:
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in request.node.nodeid)
            options.setdefault("report", Path(folder) / (safe if number == 1 else f"{safe}-{number}"))
        return partial(assert_parity, name=name)(*args, **options)

    return check
