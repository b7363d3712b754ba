"""What importing the package does, what it exports, and which way its imports point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vggish_hf

PACKAGE = Path(vggish_hf.__file__).parent

# The lowest first: a module may import from its own layer and from those below.
LAYERS = [
    {"_crc32c", "_encoded_audio", "_files", "_protobuf", "_threads", "_version"},
    {"configuration", "assets"},
    {"hub", "_decoder_process"},
    {"feature_extraction", "modeling"},
    {"conversion", "audio", "_prefetch", "_batching", "_stores"},
    {"isolated_audio", "_clip_tables"},
    {"pipeline"},
    {"audioset"},
    {"clips"},
    {"inputs"},
    {"outputs", "plotting", "_parquet_parts"},
    {"output_folder"},
    {"embedding_blocks"},
    {"embedding_job"},
    {"_part_stages"},
    {"distributed"},
    {"metrics"},
    {"lightning"},
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


def layer_of(name):
    (layer,) = [i for i, names in enumerate(LAYERS) if name in names]
    return layer


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "vggish_hf" and rest:
                yield rest.split(".")[0]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imported_modules(path):
        if name != own:
            assert layer_of(name) < layer_of(own), f"{own} imports {name}"
