"""Latency: what is counted and shown, and a real run of all runtimes at a small width."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stdc_parity.align import pairs, render_latency
from stdc_parity.align.latency import Latency, Measured, Measuring, Timing, sizes_of
from stdc_parity.align.timing import Seconds, time_calls
from stdc_parity.cli import align

CALLS = tuple(0.001 * i for i in range(1, 41))


def measured(*, failure: str = "") -> Latency:
    timings = [Timing("torch", Seconds(CALLS)), Timing("onnx", None if failure else Seconds(CALLS[:3]), failure)]
    published = pairs.find_pair("stdc1-seg-infer").published[:1]
    each = Measured("stdc1-seg-infer", (512, 1024), 2, None, timings, published)
    return Latency(Measuring(("torch", "onnx"), 1), [each], "a processor", {"torch": "2", "onnx": "1"})


def test_median_and_p95_are_numpys_over_all_calls() -> None:
    seconds = Seconds(CALLS)
    assert seconds.median == float(np.median(CALLS)) and seconds.p95 == float(np.percentile(CALLS, 95))


def test_calls_to_warm_up_are_made_and_not_counted() -> None:
    made: list[int] = []
    assert len(time_calls(lambda: made.append(1), 3, 2)) == 3
    assert len(made) == 5


def test_images_per_second_are_of_the_median_and_the_batch() -> None:
    (row,) = [line for line in render_latency.latency_lines(measured()) if " torch " in line and "512x1024" in line]
    assert row.split()[-3:] == ["20.5", "38.0", f"{2 / 0.0205:.1f}"]


def test_published_figures_are_shown_as_published_and_with_their_source() -> None:
    lines = list(render_latency.latency_lines(measured()))
    (row,) = [line for line in lines if "250.4" in line]
    assert "published: GTX 1080 Ti" in row
    assert any(line.startswith("Published figures are not measured here: the paper") for line in lines)


def test_the_papers_four_speeds_belong_to_the_plain_networks_alone() -> None:
    found = {name: [(p.size, p.rate) for p in pairs.find_pair(name).published] for name in pairs.timed_names()}
    assert found["stdc1-seg-infer"] == [((512, 1024), 250.4), ((768, 1536), 126.7)]
    assert found["stdc2-seg-infer"] == [((512, 1024), 188.6), ((768, 1536), 97.0)]
    assert not any(found[name] for name in found if name not in ("stdc1-seg-infer", "stdc2-seg-infer"))
    assert sizes_of("stdc1-seg-cut-infer") == [(512, 1024), (768, 1536)]  # a variant is measured at the same sizes
    assert sizes_of("icnet-resnet50-v1b") == [pairs.find_pair("icnet-resnet50-v1b").size]


def test_a_runtime_that_fails_is_said_and_fails_the_run() -> None:
    assert measured() and not measured(failure="it crashed")
    lines = list(render_latency.latency_lines(measured(failure="it crashed")))
    assert "stdc1-seg-infer on onnx failed: it crashed" in lines


@pytest.mark.parametrize("suffix", render_latency.FORMATS)
def test_a_plot_is_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    render_latency.plot_latency(measured(), path)
    magic = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(magic)
    if suffix == ".svg":
        assert "250.4" in path.read_text() and "published: GTX 1080 Ti" in path.read_text()


def test_networks_and_exports_give_times_at_a_small_width(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    asked = ("--pair", "stdc1-seg-infer", "--base", "4", "--size", "64x128", "--runs", "3", "--warmup", "1")
    runtimes = ("--runtimes", "torch,paddle,onnx", "--threads", "1", "--fold-bn", "-q")
    done = CliRunner().invoke(align, ["latency", *asked, *runtimes, "--json", str(path)])
    assert done.exit_code == 0, done.output
    (network,) = json.loads(path.read_text())["networks"]
    names = ["torch", "paddle", "onnx", "onnx+fold"]
    assert list(network["runtimes"]) == names
    for timing in network["runtimes"].values():
        assert len(timing["seconds"]) == 3 and min(timing["seconds"]) > 0
        assert timing["images_per_second"] == pytest.approx(1 / np.median(timing["seconds"]))
    assert network["parameters"] > 0 and network["macs"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runtimes", "tensorrt"), "there is no runtime 'tensorrt'"),
        (("--runtimes", "torch,torch"), "is not different runtimes"),
        (("--plot", "plot.gif"), "ends in none of .svg, .png, .pdf"),
        (("--pair", "nothing"), "there is no such pair"),
        (("--json", "nowhere/at/all.json"), "its folder does not exist"),
    ],
)
def test_what_users_get_wrong_is_one_message(options: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(align, ["latency", "-q", *options])
    assert done.exit_code == 2 and message in done.output and "Traceback" not in done.output
