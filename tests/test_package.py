"""What importing the package does, what it exports, and which way its imports point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vggish_hf

PACKAGE = Path(vggish_hf.__file__).parent

# The lowest first: a room, which is a package or a module of the root, imports from lower floors.
FLOORS = [
    {"_version", "_checks", "_runtime", "hub", "assets"},
    {"configuration", "audio", "tf_files"},
    {"feature_extraction", "modeling", "inputs"},
    {"provenance", "conversion", "training"},
    {"pipeline"},
    {"outputs", "audioset", "plotting"},
    {"jobs", "metrics"},
    {"distributed", "lightning"},
    {"cli"},
]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "name",
    ["torchaudio", "torchcodec", "datasets", "lightning", "transformers", "pandas", "matplotlib"],
)
def test_importing_it_imports_no(name):
    done = run(f"import sys, vggish_hf; sys.exit({name!r} in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_importing_the_training_imports_no_other_extra():
    # torchmetrics imports matplotlib where it is installed: what is asked is who else does.
    code = """
import sys
import lightning.pytorch, torchmetrics
def imported():
    extras = ("torchaudio", "datasets", "matplotlib")
    return [name for name in sys.modules if name.partition(".")[0] in extras]
for name in imported():
    del sys.modules[name]
import vggish_hf.lightning
print(imported())
"""
    done = run(code)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", ["lightning", "torchmetrics"])
def test_training_without_its_extra(name):
    code = f"import sys; sys.modules[{name!r}] = None; import vggish_hf.lightning"
    done = run(code)
    message = f"ImportError: Training needs `{name}`: pip install 'vggish-hf[lightning]'"
    assert done.stderr.splitlines()[-1] == message


def test_it_works_where_torchaudio_cannot_be_imported():
    code = (
        "import sys; sys.modules['torchaudio'] = None; import torch, vggish_hf;"
        "print(vggish_hf.VGGishFeatureExtractor()(torch.zeros(16_000)).shape)"
    )
    done = run(code)
    assert done.stdout == "torch.Size([1, 96, 64])\n", done.stderr


def test_exported_names():
    modules = {path.stem for path in PACKAGE.iterdir()}
    exported = {name for name in vars(vggish_hf) if not name.startswith("_")} - modules
    assert exported == {
        "VGGishConfig",
        "VGGishFeatureConfig",
        "VGGishFeatureExtractor",
        "VGGishModel",
        "VGGishOutput",
        "VGGishPipeline",
        "VGGishPostprocessor",
        "convert_checkpoint",
    }


def floor_of(room):
    (floor,) = [i for i, rooms in enumerate(FLOORS) if room in rooms]
    return floor


def module_name(path):
    parts = ("vggish_hf", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imported_modules(path):
    """Modules of the package that a file imports anywhere in it, also for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name in MODULES:
                yield name
            elif (parent := name.rpartition(".")[0]) in MODULES:
                yield parent


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: set(imported_modules(path)) - {name} for name, path in MODULES.items()}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    if name == "vggish_hf":  # hands names on
        return
    own = name.split(".")[1]
    for imported in IMPORTS[name] - {"vggish_hf"}:
        room = imported.split(".")[1]
        if room != own:
            assert floor_of(room) < floor_of(own), f"{name} imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    # The face of a package hands on names of its modules, which do not import it in turn.
    remaining = {name: set(imports) for name, imports in IMPORTS.items()}
    while ready := {name for name, imports in remaining.items() if not imports & remaining.keys()}:
        for name in ready:
            del remaining[name]
    assert not remaining


def test_the_root_holds_few_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= 8
