"""What may import what (DESIGN.md section 3), proven in fresh interpreters and on the source itself."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stdc_parity.cli
from stdc_parity.converters import stdc
from stdc_parity.converters.version import VERSION
from stdc_parity.fixtures.samples import write_sample

ROOT = Path(stdc_parity.cli.__file__).parent
FRAMEWORKS = ("torch", "paddle", "onnxruntime")
HEAVY = (*FRAMEWORKS, "PIL", "matplotlib", "jinja2", "safetensors", "rich")
SMALL = stdc.architecture("stdc1-seg", base=8, imagenet_head=False)

# Ends by printing which modules are loaded. What is in sys.argv[2] cannot be imported.
PROLOGUE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in json.loads(sys.argv[2]):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Refuse())
from stdc_parity import cli

def run(*arguments):
    try:
        cli.convert(arguments, prog_name="stdc-convert")
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

"""
EPILOGUE = """
print()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("stdc_parity."))))
"""
CONVERSION = """
folder = sys.argv[1]
run("inspect", f"{folder}/net.tar")
run("torch2paddle", f"{folder}/net.tar", "--certificate", f"{folder}/forth.json")
run("paddle2torch", f"{folder}/net.pdparams", "--aliases", "--certificate", f"{folder}/back.json")
run("inspect", f"{folder}/net.pdparams", "--keys")
run("torch2paddle", f"{folder}/net.pth", "--dry-run")
"""


def modules(code, folder, refused=()):
    """The top-level modules and the modules of ours that are loaded after `code`."""
    command = [sys.executable, "-c", PROLOGUE + code + EPILOGUE, str(folder), json.dumps(refused)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, tops, ours = done.stdout.splitlines()
    return set(json.loads(tops)), set(json.loads(ours))


@pytest.fixture
def folder(tmp_path):
    write_sample(tmp_path / "net.tar", SMALL)
    return tmp_path


def test_the_command_line_imports_nothing_but_click(tmp_path):
    tops, ours = modules("", tmp_path)
    assert "click" in tops
    assert ours == {"stdc_parity.cli"}
    assert not tops & {*HEAVY, "numpy", "ml_dtypes"}


def test_help_imports_nothing_but_click(tmp_path):
    tops, _ = modules("run('--help'); run('torch2paddle', '--help')", tmp_path)
    assert not tops & {*HEAVY, "numpy", "ml_dtypes"}


def test_a_whole_conversion_loads_no_framework(folder):
    tops, ours = modules(CONVERSION, folder)
    assert (folder / "back.json").stat().st_size > 1000
    assert not tops & set(HEAVY)
    assert not [name for name in ours if not re.match(r"stdc_parity\.(cli$|converters\b)", name)]


def test_a_whole_conversion_works_where_no_framework_can_be_imported(folder):
    modules(CONVERSION, folder, refused=HEAVY)
    assert (folder / "net.pth").exists()


def test_the_refusal_in_these_tests_refuses(tmp_path):
    with pytest.raises(AssertionError, match="must not be imported"):
        modules("import torch.nn", tmp_path, refused=FRAMEWORKS)


def sources(*folders):
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 3
    return sorted(paths)


def imports(path, *, inside_functions=True):
    """The modules that a file imports, wherever the import stands; TYPE_CHECKING blocks do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if inside_functions else tree.body
    skipped = {
        id(child)
        for node in nodes
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Call) and re.search(r"import_module$|__import__$", ast.unparse(node.func)):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def tops(path, **options):
    return {name.partition(".")[0] for name in imports(path, **options)}


CAPTURES = {
    "align/capture_torch.py": {"torch"},
    "align/capture_optimizer_torch.py": {"torch"},
    "align/capture_optimizer_paddle.py": {"paddle"},
    "align/trace_torch.py": {"torch"},
    "align/trace_paddle.py": {"paddle"},
    "align/capture_paddle.py": {"paddle"},
    "align/capture_table_torch.py": {"torch"},
    "align/capture_table_paddle.py": {"paddle"},
    "align/capture_onnx.py": {"onnxruntime"},
    "fixtures/random_ports_torch.py": {"torch"},
    "fixtures/random_ports_paddle.py": {"paddle"},
}


@pytest.mark.parametrize("path", sources("converters"), ids=lambda path: path.name)
def test_converters_import_numpy_alone(path):
    standard = set(sys.stdlib_module_names)
    assert tops(path) - standard <= {"numpy", "ml_dtypes", "safetensors", "stdc_parity", "tomli"}
    ours = {name for name in imports(path) if name.startswith("stdc_parity")}
    assert all(name.startswith("stdc_parity.converters") for name in ours)


@pytest.mark.parametrize("path", sources("align", "fixtures"), ids=lambda path: path.name)
def test_frameworks_are_imported_by_the_captures_alone(path):
    """The code of a port bug is one side's too: `fixtures/portbugs/<side>_….py`."""
    allowed = CAPTURES.get(path.relative_to(ROOT).as_posix(), set())
    if path.parent.name == "portbugs":
        allowed = {path.name.partition("_")[0]}
    assert tops(path) & set(FRAMEWORKS) <= allowed


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_each_side_imports_its_own_framework_alone(side):
    for path in sources(f"models_{side}"):
        assert tops(path) & set(FRAMEWORKS) <= {side}, path
        ours = {name for name in imports(path) if name.startswith("stdc_parity.")}
        assert all(name.startswith(f"stdc_parity.models_{side}") for name in ours), path


def test_the_command_line_imports_at_its_top_what_is_small():
    path = ROOT / "cli.py"
    assert tops(path, inside_functions=False) - set(sys.stdlib_module_names) == {"click"}
    assert not tops(path) & set(FRAMEWORKS)


# Only these know a network by name. The words of a help text or an example in a message are no knowledge.
KNOW_NETWORKS = {
    "align/pairs/dilated.py": None,
    "align/pairs/icnet.py": None,
    "align/pairs/resnet.py": None,
    "align/pairs/stdc.py": None,
    "align/pairs/__init__.py": {"icnet", "resnet", "stdc", "stdc2-seg"},  # the families, and the default pair
    "converters/dilated.py": None,
    "converters/icnet.py": None,
    "converters/imagenet.py": None,
    "converters/resnet.py": None,
    "converters/stdc.py": None,
    "converters/families.py": {"icnet", "stdc"},  # the list of architectures
}
NETWORKS = re.compile(
    r"(?:stdc(?!_parity|-parity|-align|-convert)|icnet|resnet|pspnet|deeplab|glore|ginet)[\w-]*", re.IGNORECASE
)

# Nor does anything else know what one network is made of, how it is trained, or which data set it is for.
PARTS = re.compile(
    r"\b(?:cp\.|arm(?:16|32)|conv_out\w*|ffm\b|\w*ohem\w*|SegLoss|laplacian\w*|fuse_kernel|Cityscapes)", re.IGNORECASE
)
KNOW_PARTS = {
    "align/pairs/cityscapes.py",
    "align/pairs/dilated.py",
    "align/pairs/icnet.py",
    "align/pairs/stdc.py",
    "align/pairs/stdc_recipe.py",
    "converters/stdc.py",
    "converters/stdc_tensors.py",
}


def named_networks(path, names=NETWORKS):
    """The names of that kind in a file's code: its identifiers and its text, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                statement.value = ast.Constant(None)
    return {match.lower() for match in names.findall(ast.unparse(tree))}


def test_no_network_is_known_by_name_outside_its_own_files():
    for path in sources("align", "converters"):
        allowed = KNOW_NETWORKS.get(path.relative_to(ROOT).as_posix(), set())
        is_layout = path.parent.name == "layouts" and path.name != "__init__.py"
        if allowed is not None and not is_layout:
            assert named_networks(path) <= allowed, path
    for path in KNOW_NETWORKS:
        assert named_networks(ROOT / path), f"{path} needs no exception any more"


def test_no_network_is_known_by_its_parts_outside_its_own_files():
    for path in sources("align", "converters"):
        name = path.relative_to(ROOT).as_posix()
        is_layout = path.parent.name == "layouts" and path.name != "__init__.py"
        if not is_layout:
            assert bool(named_networks(path, PARTS)) == (name in KNOW_PARTS), (name, named_networks(path, PARTS))


def test_the_version_is_the_projects():
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
