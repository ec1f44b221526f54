"""report.html: one file that needs nothing else, says what differs and where, and works in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from stdc_parity.align.evidence import Picture
from stdc_parity.align.gather import LARGEST, gather
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.record import Record, Tap, load_record, save_record
from stdc_parity.align.render_html import to_html, write_html
from stdc_parity.align.render_html_images import DECADES, class_colour, data_url, ramp, to_png
from stdc_parity.align.render_html_plots import depth_plot, frame_of, kinds_in, loss_curves
from stdc_parity.align.render_html_tree import build_tree, walk
from stdc_parity.align.render_html_words import ABOUT, WORDS
from stdc_parity.align.report import write_report
from stdc_parity.align.result import (
    Arbitration,
    Comparison,
    Diagnosis,
    Failure,
    RunResult,
    StageResult,
    Verdict,
)
from stdc_parity.align.spec import RunSpec
from stdc_parity.cli import align

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

EVIL = '</script><script>document.title="evil"</script>'
GROUPS = ("stem", "body.0", "body.1", "head")
SMALL = ["--pair", "stdc1-seg", "--base", "4", "--size", "64x128"]


def tap(path: str, relative: float, verdict: Verdict = Verdict.PASS, **more: object) -> Comparison:
    facts = {
        "tap": path, "kind": "module", "paths": {"torch": path, "paddle": path},
        "types": {"torch": "Conv2d", "paddle": "Conv2D"}, "verdict": verdict, "shape": (1, 2, 4, 4),
        "error": relative, "scale": 1.0, "relative": relative,
        "arbiter": Arbitration(relative, 1e-9, {"torch": 1e-7, "paddle": 2e-7}),
    }  # fmt: skip
    return Comparison(**(facts | more))  # type: ignore[arg-type]


@pytest.fixture
def result() -> RunResult:
    """One rung that holds, one with a module to blame and one that inherits, a crash, a rung that is blocked."""
    own = tap("body.0.conv", 0.3, Verdict.DIVERGED)
    taps = [tap("stem", 1e-7), tap("body.0", 0.2, Verdict.DIVERGED), tap("body.1", 1e-4, Verdict.ROUNDING)]
    taps.append(tap(f"head.{EVIL}", 0.1, Verdict.DIVERGED, why=f"NaN {EVIL}"))
    stages = [
        StageResult("weights", [tap("stem", 0.0, arbiter=None)], "exact", {"torch": 0.1, "paddle": 0.2}),
        StageResult(
            "forward", taps, "tol", blamed=[own], parts=[tap("stem", 0.0), own], isolated=True, limit=1e-5,
            diagnoses=[Diagnosis("body.0.conv", f"a cause {EVIL}", "a fix", 0.3, 1e-9)], remarks=["a remark"],
            facts={"torch": {"torch": "2.0", "spec": {}}, "paddle": {"paddle": "3.0", "spec": {}}},
        ),
        StageResult("loss", [], "", failures=[Failure("paddle", f"crashed {EVIL}", "last words")]),
        StageResult("backward", [], "", blocked_by="forward"),
    ]  # fmt: skip
    return RunResult(RunSpec("some-pair", (64, 128)), "seeded", GROUPS, stages)


class Page(HTMLParser):
    """The text of a page, its elements and their attributes; errors if tags do not match."""

    VOID = ("meta", "link", "img", "input", "br", "path", "circle", "rect", "polyline", "polygon")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID or (self.get_starttag_text()[-2:] != "/>" and tag in ("path", "circle")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_else(result: RunResult) -> None:
    page = Page(to_html(result))
    for name, attributes in page.elements:
        for key in ("src", "href", "action", "srcset", "poster", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:")), (name, key, value)
    policy = [a["content"] for n, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and str(policy[0]).startswith("default-src 'none';")
    assert "url(" not in to_html(result) and "@import" not in to_html(result)


def test_what_strangers_wrote_stays_text(result: RunResult) -> None:
    text = to_html(result)
    assert EVIL not in text and text.count("<script>") == 1
    assert (
        Page(text).words.count('document.title="evil"') >= 4
    )  # the tap, what is wrong with it, the cause, the crash


def test_the_page_says_what_the_run_says(result: RunResult) -> None:
    page = Page(re.sub(r'<span lang="zh">[^<]*</span>', "", to_html(result)))
    for expected in (
        "DIVERGED",
        "1 of 4",
        "body.0.conv",
        "a fix",
        "3.0e-01 → 1.0e-09",
        "a remark",
        "crashed",
        "last words",
    ):
        assert expected in page.words, expected
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(a["href"])[1:] for n, a in page.elements if n == "a"}
    assert links <= set(ids) and {"rung-weights", "rung-forward"} <= links


def test_every_word_has_both_languages() -> None:
    for key, (english, chinese) in WORDS.items():
        assert english.isascii() or key == "language", key
        assert re.search(r"[\u4e00-\u9fff]", chinese) or key in ("of", "language") or "NaN" in chinese, key
    assert list(ABOUT) == list(RUNGS)


def test_own_and_inherited_differ_by_shape_in_the_plot(result: RunResult) -> None:
    stage = result.stages[1]
    plot = depth_plot(stage, GROUPS)
    counts = {
        kind: len(re.findall(f'class="mark {kind}"', plot))
        for kind in ("pass", "rounding", "inherited", "own", "part")
    }
    assert counts == {"pass": 1, "rounding": 1, "inherited": 2, "own": 1, "part": 1}
    assert set(kinds_in(stage)) == {*counts, "limit", "noise", "gap64"}
    assert re.search(r'<circle class="mark inherited"', plot) and re.search(r'<path class="mark own"', plot)
    assert depth_plot(result.stages[0], GROUPS) == ""


def test_a_plot_is_logarithmic_and_in_order() -> None:
    frame = frame_of([1e-9, 3e-2])
    heights = [frame.y(value) for value in (0.0, 1e-9, 1e-8, 1e-7, 1e-2, float("inf"))]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 6
    assert heights[1] - heights[2] == pytest.approx(heights[2] - heights[3])
    assert all(-9 <= decade <= -1 for decade in frame.decades())


def test_the_loss_curves_have_a_point_for_each_iteration_and_side() -> None:
    taps = [
        tap(
            f"iteration {i}: total", 1e-8 * 10**i, Verdict.PASS if i < 2 else Verdict.DIVERGED,
            kind="loss", shape=(), values={"torch": 3.0 - i, "paddle": 3.01 - i},
        )
        for i in range(4)
    ]  # fmt: skip
    losses, gaps = loss_curves(StageResult("train", taps, ""))
    assert losses.count("<circle") == 8 and gaps.count('class="mark pass"') == 2
    assert gaps.count('class="mark inherited"') == 2 and 'class="envelope"' in gaps
    assert loss_curves(StageResult("train", [], "")) == ("", "")


def test_the_tree_has_every_module_once_and_knows_what_is_to_blame(result: RunResult) -> None:
    nodes = {node.path: node for node in walk(build_tree(result))}
    assert {"", "stem", "body", "body.0", "body.0.conv", "body.1"} <= set(nodes)
    kinds = {path: nodes[path].kind for path in ("stem", "body.0", "body.0.conv", "body.1")}
    assert kinds == {"stem": "pass", "body.0": "inherited", "body.0.conv": "own", "body.1": "rounding"}
    assert nodes["body"].sign == nodes[""].sign == "contains" and nodes["body.0.conv"].sign == "own"
    assert list(nodes["body"].children) == ["0", "1"]


def test_pictures_are_pngs_that_others_read() -> None:
    random = np.random.default_rng(0)
    for rgb in (random.integers(0, 256, (7, 5, 3)), random.integers(0, 2, (40, 30, 3)) * 255):
        pixels = rgb.astype(np.uint8)
        again = np.array(Image.open(io.BytesIO(to_png(pixels))).convert("RGB"))
        assert (again == pixels).all()
    light = ramp(np.linspace(0, 1, 50)) @ np.array((0.2126, 0.7152, 0.0722))
    assert (np.diff(light) > 0).all()  # an error map reads without hues
    assert len({class_colour(i) for i in range(60)}) == 60


def test_an_error_map_shows_decades() -> None:
    picture = Picture("error", np.array([[0, 1, 10.0 ** (-DECADES / 2), np.inf]], np.float32))
    png = base64.b64decode(data_url(picture).partition(",")[2])
    none, most, middle, infinite = np.array(Image.open(io.BytesIO(png)).convert("RGB"))[0]
    assert (
        (none == ramp(np.array(0.0))).all()
        and (most == infinite).all()
        and (most == ramp(np.array(1.0))).all()
    )
    assert np.abs(middle.astype(int) - ramp(np.array(0.5))).max() <= 1


@pytest.fixture
def gathered(tmp_path: Path) -> tuple[dict[str, np.ndarray], StageResult]:
    """A forward rung of records of our own: logits of which one pixel changes class, and a feature map."""
    random = np.random.default_rng(1)
    spec = RunSpec("stdc1-seg", (400, 600), base=4)
    a = random.standard_normal((1, 19, 400, 600)).astype(np.float32)
    b = a.copy()
    b[0, :, 399, 601 - 2] = 0
    b[0, (a[0, :, 399, 599].argmax() + 1) % 19, 399, 599] = 9
    feature = random.standard_normal((2, 3, 8, 9)).astype(np.float32)
    arrays = {"a": a, "b": b, "f": feature, "g": feature * np.float32(1.5)}
    for side, logits, other in (("torch", a, feature), ("paddle", b, arrays["g"])):
        taps = [
            Tap("f", "module", "ffm", "F"),
            Tap("logits", "output", "", "N"),
            Tap("scalar", "loss", "l", "L"),
        ]
        values = {"f": other, "logits": logits, "scalar": np.array(1.0 if side == "torch" else 2.0)}
        save_record(Record(side, "forward", taps, values), tmp_path)  # type: ignore[arg-type]
    comparisons = compare_records(
        *(load_record(tmp_path, side, "forward") for side in ("torch", "paddle")), Tolerance()
    )  # type: ignore[arg-type]
    stage = StageResult("forward", comparisons, "tol")
    folders = {"torch": tmp_path, "paddle": tmp_path}
    apart = {"torch": tmp_path / "isolated", "paddle": tmp_path / "isolated"}
    return arrays, gather(stage, spec, find_pair("stdc1-seg", base=4), folders, apart)  # type: ignore[arg-type]


def test_evidence_is_that_of_the_arrays(gathered: tuple[dict[str, np.ndarray], StageResult]) -> None:
    arrays, stage = gathered
    found = {evidence.tap: evidence for evidence in stage.evidence}
    assert set(found) == {"logits", "f"}  # one value needs no histogram
    for side, name in (("torch", "f"), ("paddle", "g")):
        numbers, array = found["f"].numbers[side], arrays[name].astype(np.float64)  # type: ignore[index]
        assert (numbers.minimum, numbers.maximum, numbers.size) == (array.min(), array.max(), array.size)
        assert (numbers.mean, numbers.deviation) == pytest.approx((array.mean(), array.std()))
        assert found["f"].counts[side].sum() == array.size  # type: ignore[index]


def test_one_pixel_that_changes_class_is_seen(gathered: tuple[dict[str, np.ndarray], StageResult]) -> None:
    arrays, stage = gathered
    pictures = {(p.kind, p.side): p for e in stage.evidence if e.tap == "logits" for p in e.pictures}
    assert set(pictures) == {
        ("image", None),
        ("classes", "torch"),
        ("classes", "paddle"),
        ("disagreement", None),
        ("error", None),
    }
    apart = pictures["disagreement", None]
    assert apart.share == 1 / (400 * 600) == (arrays["a"].argmax(1) != arrays["b"].argmax(1)).mean()
    assert apart.pixels.sum() == 1 and apart.pixels[-1, -1]
    assert (pictures["error", None].pixels > 0).sum() == 1
    assert all(p.pixels.shape[0] <= LARGEST[0] and p.pixels.shape[1] <= LARGEST[1] for p in pictures.values())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of a run with a pooling bug, made twice."""
    folder = tmp_path_factory.mktemp("reports")
    for name in ("first", "second"):
        arguments = ["forward", *SMALL, "--plant", "pool-exclusive", "--report", str(folder / name)]
        done = CliRunner().invoke(align, arguments)
        assert done.exit_code == 1, done.output
    return folder


def test_a_run_writes_the_same_page_again_but_for_its_environment(planted: Path) -> None:
    block = re.compile(r"<!-- environment.*<!-- end of environment -->", re.DOTALL)
    pages = [(planted / name / "report.html").read_text(encoding="utf-8") for name in ("first", "second")]
    assert all(len(block.findall(page)) == 1 for page in pages)
    assert block.sub("", pages[0]) == block.sub("", pages[1])
    assert "AvgPool2D(..., exclusive=False)" in pages[0]
    assert len(pages[0]) < 1_000_000
    Page(pages[0])


@pytest.mark.parametrize("plant", ["metric-two-classes-exchanged", "resize-bicubic"])
def test_pages_of_rungs_without_modules(plant: str, tmp_path: Path) -> None:
    stage = "metric" if plant.startswith("metric") else "data"
    done = CliRunner().invoke(align, [stage, *SMALL, "--plant", plant, "--report", str(tmp_path)])
    assert done.exit_code == 1, done.output
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    if stage == "metric":
        assert '<table class="confusion">' in text and "13 car" in text
    else:
        assert text.count('<figure class="image">') >= 2 and '<figure class="error">' in text


def test_without_jinja2_the_other_reports_are_there(
    result: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    write_report(result, tmp_path)
    assert {"report.json", "junit.xml", "summary.md", "taps.csv"} == {path.name for path in tmp_path.iterdir()}
    message = capsys.readouterr().err
    assert "report.html" in message and "pip install 'stdc-parity[report]'" in message


# What is done to a page in a browser; the last line leaves what was seen in the document, for --dump-dom.
DRIVE = """
<script>
addEventListener("load", () => {
  const byId = (id) => document.getElementById(id);
  const items = [...document.querySelectorAll("#tree li")];
  const shown = () => items.filter((li) => li.checkVisibility()).map((li) => li.dataset.search.split(" ")[0]);
  const type = (text) => { byId("search").value = text; byId("search").dispatchEvent(new Event("input")); };
  const options = { bubbles: true, cancelable: true };
  const press = (key, target) => target.dispatchEvent(new KeyboardEvent("keydown", { key, ...options }));
  const seen = {};
  seen.start = shown();
  byId("fold").click(); seen.folded = shown();
  byId("unfold").click(); seen.unfolded = shown();
  byId("fold").click();
  type("CONV"); seen.found = shown(); seen.count = byId("count").textContent;
  type(""); seen.after = shown();
  byId("only-bad").click(); seen.bad = shown(); byId("only-bad").click();
  press("/", document.body); seen.focus = document.activeElement.id;
  type("zzz"); seen.none = shown(); press("Escape", byId("search")); seen.cleared = byId("search").value;
  const words = () => document.querySelector("header .sentence").innerText.trim();
  seen.first = words(); byId("language").click(); seen.second = words(); seen.lang = document.documentElement.lang;
  const rung = document.querySelector(".rung"); rung.open = false;
  location.hash = `#${rung.id}`;
  const wide = document.documentElement.scrollWidth <= innerWidth;
  setTimeout(() => {
    seen.opened = rung.open; seen.fits = wide; seen.title = document.title;
    document.body.dataset.seen = JSON.stringify(seen);
  }, 100);
});
</script>
"""


def drive(page: str, folder: Path, script: str = DRIVE, width: int = 1200) -> tuple[dict[str, object], str]:
    """What `script` saw in a browser, and what the browser's console said."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--lang=en-US",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=4000",
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    found = re.search(r"data-seen=\"([^\"]*)\"", done.stdout)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(found[1].replace("&quot;", '"')) if found else {}, console


@browser
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_works_in_a_browser(planted: Path, tmp_path: Path, width: int) -> None:
    seen, console = drive((planted / "first/report.html").read_text(encoding="utf-8"), tmp_path, width=width)
    assert console == ""
    assert "cp.backbone.features.2.skip" in seen["start"]  # what is to blame is open from the start
    assert "cp.backbone.features.2.skip" not in seen["folded"] and len(seen["folded"]) == 1  # type: ignore[operator, arg-type]
    assert len(seen["unfolded"]) > 100  # type: ignore[arg-type]
    assert "cp.conv_avg" in seen["found"] and "cp.backbone.features.2.skip" not in seen["found"]  # type: ignore[operator]
    assert 0 < int(str(seen["count"])) <= len(seen["found"])  # type: ignore[arg-type]
    assert seen["after"] == seen["folded"] and seen["none"] == [] and seen["cleared"] == ""
    assert "cp.backbone.features.2.skip" in seen["bad"] and "cp.backbone.features.0" not in seen["bad"]  # type: ignore[operator]
    assert (seen["focus"], seen["lang"]) == ("search", "zh")
    assert str(seen["first"]).startswith("The two sides do not") and "两侧的计算不一致" in str(seen["second"])
    assert seen["fits"]


@browser
def test_a_link_unfolds_its_rung_and_strangers_names_do_nothing(result: RunResult, tmp_path: Path) -> None:
    seen, console = drive(to_html(result), tmp_path)
    assert console == "" and seen["opened"]
    assert seen["title"] == "some-pair: DIVERGED"


@browser
def test_the_console_is_heard(result: RunResult, tmp_path: Path) -> None:
    broken = to_html(result).replace('find("language")', 'find("no such thing")')
    assert "TypeError" in drive(broken, tmp_path)[1]
    fetched = "<script>fetch('https://example.com').catch(() => {})</script>"
    assert "Content Security Policy" in drive(to_html(result), tmp_path, fetched)[1]


def test_a_surrogate_in_a_name_is_no_crash(result: RunResult, tmp_path: Path) -> None:
    stage = replace(result.stages[1], remarks=["a lone \ud800"])
    write_html(replace(result, stages=[stage]), tmp_path / "page.html")
    assert "a lone" in (tmp_path / "page.html").read_text(encoding="utf-8")
