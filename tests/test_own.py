"""Pairs of one's own: the examples, people's ways to write a network, and what is said where their code fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import stdc_parity.align
from stdc_parity import cli
from stdc_parity.align import catalogue
from stdc_parity.align.apart import compare_folders, record_side
from stdc_parity.align.compare import SIDES, Judging
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.own import choose_own, name_of
from stdc_parity.align.progress import Silent
from stdc_parity.align.run import choose_rungs, choose_spec, climb
from stdc_parity.align.sides import open_sides
from stdc_parity.converters.errors import UsageError
from stdc_parity.models_torch import stdcnet

EXAMPLES = Path(stdc_parity.align.__file__).resolve().parents[1] / "examples"
NONE = dict.fromkeys(
    ("torch", "paddle", "torch_path", "paddle_path", "args", "torch_args", "paddle_args", "loss_torch", "loss_paddle",
     "rules")
) | {"inputs": (), "target": ()}  # fmt: skip

NETS = '''
import os
import sys
from dataclasses import dataclass
import {framework}
from {framework} import nn

print("a word on standard output")


class Shared(nn.{Module}):
    """One module called twice, the second time within a tuple."""
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x), (self.fc({framework}.tanh(self.fc(x))),)


class Inner(nn.{Module}):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, nothing, *, mask, factor):
        return self.fc(x * mask) * factor


class Keywords(nn.{Module}):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, *, x, mask):
        return self.inner(x, None, mask=mask, factor=2.0)


class Nested(nn.{Module}):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.act = nn.ReLU({inplace})

    def forward(self, batch, scale=None):
        x = self.table(batch["ids"]).mean(1) + batch["more"]["x"]
        return {{"logits": self.act(x) * scale, "best": batch["ids"].argmax(1)}}


class Nothing(nn.{Module}):
    def forward(self, x):
        return {framework}.tanh(x).sum(1)


class Whole(nn.{Module}):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("place", {framework}.linspace(0, 1, 4), {unsaved})

    def forward(self, x):
        return self.fc(x + self.place).argmax(1)


@dataclass
class Out:
    logits: object
    hidden: object


class Classy(nn.{Module}):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x):
        hidden = self.drop(self.fc(x))
        return Out({framework}.tanh(hidden), hidden)


def extras():
    os.chdir("/")
    sys.argv.append("--changed")
    return Classy(), {{"more": 1}}


def raises():
    raise RuntimeError("no such weights")


def leaves():
    sys.exit(3)


def no_network():
    return 5


class Trunk(nn.{Module}):
    """Names that differ, and attention that torch packs."""
    def __init__(self):
        super().__init__()
        self.{trunk} = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh())
        self.{attention} = nn.{Attention}(8, 2{batch_first})
        self.{head} = nn.Linear(8, 3)

    def forward(self, x):
        x = self.{trunk}(x)
        return self.{head}({attend})
'''
WORDS = {
    "torch": {
        "framework": "torch", "Module": "Module", "inplace": "inplace=True", "unsaved": "persistent=False",
        "trunk": "backbone",
        "attention": "attn", "Attention": "MultiheadAttention", "batch_first": ", batch_first=True", "head": "head",
        "attend": "self.attn(x, x, x)[0]",
    },
    "paddle": {
        "framework": "paddle", "Module": "Layer", "inplace": "", "unsaved": "persistable=False", "trunk": "encoder",
        "attention": "mha", "Attention": "MultiHeadAttention", "batch_first": "", "head": "classifier",
        "attend": "self.mha(x, x, x)",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A folder with the networks of both sides, each in a package of the same name that imports relatively."""
    folder = tmp_path_factory.mktemp("nets")
    for side, words in WORDS.items():
        package = folder / side / "mine"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from .nets import Shared\n")
        (package / "nets.py").write_text(NETS.format(**words))
        (package / "broken.py").write_text("x = 1\ny = (\n")
    return folder


@pytest.fixture(scope="module")
def processes():
    with open_sides(SIDES, 1) as opened:
        yield opened


def spec_of(stage="forward", pair=None, **given):
    own = choose_own(pair, NONE | given)
    assert own is not None
    options = {"pair": None, "size": None, "batch": None, "weights": None, "key": None, "mode": "eval", "dtype": None}
    rungs, options = choose_rungs(stage, options)
    return rungs, choose_spec(**options, own=own)


def of(nets, build, *inputs, **given):
    paths = {f"{side}_path": str(nets / side) for side in SIDES}
    return {"torch": f"mine.nets:{build}", "paddle": f"mine.nets:{build}", "inputs": inputs} | paths | given


def climbed(processes, rungs, spec, **options):
    return climb(processes, rungs, spec, Judging(Tolerance(), "always"), **options)


def test_the_example_climbs_the_whole_ladder(processes):
    rungs, spec = spec_of("all", str(EXAMPLES / "pair.py"))
    result = climbed(processes, rungs, spec)
    assert result, [(stage.stage, stage.verdict, stage.failures) for stage in result.stages]
    assert [stage.stage for stage in result.stages] == list(RUNGS)
    assert not result.left_out
    taps = {stage.stage: {c.tap for c in stage.comparisons} for stage in result.stages}
    assert {"entropy", "size", "total"} == taps["loss"]
    assert {"given outputs: metric[first]", "network, batch 0: metric[second]"} <= taps["metric"]
    assert {"epoch 0 batch 0[0]", "epoch 1 batch 2[1]"} <= taps["data"]
    assert "momentum of stem.conv.weight after step 6" in taps["optimizer"]
    rates = next(s for s in result.stages if s.stage == "schedule").comparisons[0]
    assert rates.shape == (50,)


def test_a_planted_difference_gets_its_place_and_cause(processes, tmp_path):
    paths = {f"{side}_path": str(EXAMPLES / f"{side}_checkout") for side in SIDES}
    given = {"torch": "models.net:Net", "paddle": "models.net:overlooked", "inputs": ("2x3x16x16",)} | paths
    result = climbed(processes, *spec_of(**given), repro=tmp_path)
    (stage,) = result.stages
    assert not stage
    assert [comparison.path for comparison in stage.blamed] == ["stem.pool"]
    assert "exclusive=False" in stage.diagnoses[0].fix
    (script,) = tmp_path.glob("*.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "0: torch (2, 8, 8, 8) paddle (2, 8, 8, 8)" in done.stdout, done.stderr
    assert len(script.read_text().splitlines()) < 60


@pytest.mark.parametrize(
    ("build", "inputs", "empty"),
    [
        ("Shared", ["2x4"], set()),
        ("Keywords", ["x:2x4", "mask:2x4:0..1"], set()),
        ("Nested", ["batch.ids:2x5:int64:0..9", "batch.more.x:2x4", "scale:scalar"], set()),
        ("Nothing", ["2x4"], {"weights"}),
        ("Whole", ["2x4"], {"backward"}),
        ("extras", ["2x4"], set()),
        ("Trunk", ["2x6x4"], set()),
    ],
)
def test_networks_are_written_in_many_ways(processes, nets, build, inputs, empty):
    _, spec = spec_of("all", **of(nets, build, *inputs))
    result = climbed(processes, ["weights", "forward", "forward-train", "backward"], spec)
    wrong = {stage.stage: [c.tap for c in stage.comparisons if not c] for stage in result.stages}
    assert result, (wrong, [stage.failures for stage in result.stages])
    assert set(result.left_out) == empty
    assert all(stage.comparisons for stage in result.stages)


def test_modules_that_are_called_otherwise_go_by_torchs_names(processes, nets):
    given = of(nets, "Trunk", "2x6x4", paddle_args=None)
    result = climbed(processes, *spec_of(**given))
    taps = {comparison.tap for comparison in result.stages[0].comparisons}
    assert {"backbone", "backbone.0", "backbone.1", "head", "output"} <= taps


def test_another_nesting_is_a_difference(processes, nets):
    given = of(nets, "Shared", "2x4") | {"paddle": "mine.nets:extras"}
    (stage,) = climbed(processes, *spec_of(**given)).stages
    assert {c.tap for c in stage.comparisons if "only the" in c.why} >= {"output[0]", "output[logits]"}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ("mine.nets:raises", "RuntimeError: no such weights, at .*nets.py:[0-9]+ in raises"),
        ("mine.nets:leaves", r"sys.exit\(3\) was called, at .*nets.py:[0-9]+ in leaves"),
        ("mine.nets:no_network", "gives a int, no network"),
        ("mine.nets:missing", "nets.py has no missing"),
        ("mine.broken:Net", "SyntaxError: .*, at .*broken.py:2"),
        ("mine.nowhere:Net", "there is no module mine.nowhere"),
        ("nowhere.py:Net", "there is no such file"),
    ],
)
def test_what_fails_in_their_code_is_one_message_with_its_place(processes, nets, build, words):
    given = of(nets, "Shared", "2x4") | {"torch": build}
    with pytest.raises(UsageError, match=words) as caught:
        climbed(processes, *spec_of(**given))
    assert "--torch" in caught.value.message
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"torch": "a:b"}, "--paddle is missing"),
        ({"torch": "a:b", "paddle": "a:b"}, "--input is missing"),
        ({"torch": "a:b", "paddle": "a:b", "inputs": ("1",), "loss_torch": "a:b"}, "belong together"),
        ({"torch": "a:b", "paddle": "a:b", "inputs": ("1",), "target": ("1",)}, "--loss-torch"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(given, words):
    with pytest.raises(UsageError, match=words):
        choose_own(None, NONE | given)


def test_the_parent_imports_no_framework_for_a_pair_file():
    code = (
        "import sys; from stdc_parity.align.own import own_pair; from stdc_parity.align.spec import Own;"
        f"pair = own_pair(Own(file={str(EXAMPLES / 'pair.py')!r}));"
        "print(pair.name, sorted({'torch', 'paddle', 'models'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "classifier []\n"


def test_files_in_a_pair_file_are_relative_to_it(processes, nets, monkeypatch):
    """And its names say which module is which; nothing else of the trees is alike."""
    (nets / "pair.py").write_text(
        "from stdc_parity.align.pair import Pair\n"
        "PAIR = Pair('files', {side: f'{side}/mine/nets.py:Trunk' for side in ('torch', 'paddle')}, inputs='2x6x4',\n"
        "            names={'backbone': 'encoder', 'attn': 'mha', 'head': 'classifier'},\n"
        "            stages=('backbone.1', 'head'), outputs=('scores',))\n"
    )
    monkeypatch.chdir(nets)
    (stage,) = climbed(processes, *spec_of("forward", "pair.py")).stages
    assert [comparison.tap for comparison in stage.comparisons] == ["backbone.1", "head", "scores"]
    assert stage


def test_sides_recorded_apart_are_compared(tmp_path):
    _, spec = spec_of("forward", str(EXAMPLES / "pair.py"))
    judging = Judging(Tolerance())
    with pytest.raises(UsageError, match="record the torch side first"):
        list(record_side("paddle", ["forward"], spec, tmp_path, judging, 1))
    for side in SIDES:
        list(record_side(side, ["forward"], spec, tmp_path, judging, 1))
    result = compare_folders(tmp_path, tmp_path, judging)
    assert result
    assert len(result.stages[0].comparisons) == 6
    assert spec.own is not None
    assert result.spec.pair == name_of(spec.own)


def test_pairs_are_listed_with_what_they_cost():
    (row,) = catalogue.rows(["stdcnet813"], Silent())
    assert row.parameters == sum(parameter.numel() for parameter in stdcnet.stdcnet813().parameters())
    assert row.size == (224, 224)
    assert round(row.flops / 2e6) == 806, "the paper's 813 M without the norms (docs/variants.md)"
    assert row.stages == ("weights", "forward", "forward-train", "backward")
    assert {"official", "paddleseg"} <= set(row.layouts)
    found = json.loads(catalogue.to_json([row]))
    assert found[0]["flops"] == row.flops
    done = CliRunner().invoke(cli.align, ["pairs", "no-such"])
    assert done.exit_code == 2
    assert "there is no pair no-such" in done.output
