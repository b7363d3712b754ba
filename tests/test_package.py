"""What importing the package does, what it exports, and which way its imports point."""

import ast
import inspect
import os
import pickle
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import vggish_hf

PACKAGE = Path(vggish_hf.__file__).parent

# Packages whose names are imported with them.
OTHER_FACES = ["audio", "conversion", "distributed", "feature_extraction", "inputs", "jobs"]
OTHER_FACES += ["modeling", "outputs", "pipeline"]

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
    {"cli", "_moved"},
]


EXTRAS = {"torchaudio", "torchcodec", "datasets", "lightning", "transformers", "pandas"}
EXTRAS |= {"matplotlib", "torchmetrics", "ray"}
HEAVY = EXTRAS | {"torch", "numpy", "huggingface_hub", "safetensors", "pyarrow", "fsspec"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_it_imports_nothing_heavy():
    done = run("import sys, vggish_hf; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not HEAVY & set(done.stdout.split()), done.stderr


@pytest.mark.slow
def test_using_it_imports_no_extra():
    code = "import sys; from vggish_hf import *; print(*{n.partition('.')[0] for n in sys.modules})"
    done = run(code)
    imported = set(done.stdout.split())
    assert "torch" in imported, done.stderr
    assert not EXTRAS & imported


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightning", "torchmetrics"])
def test_training_without_its_extra(name):
    code = f"import sys; sys.modules[{name!r}] = None; import vggish_hf.lightning"
    done = run(code)
    message = f"ImportError: Training needs `{name}`: pip install 'vggish-hf[lightning]'"
    assert done.stderr.splitlines()[-1] == message


@pytest.mark.slow
def test_it_works_where_torchaudio_cannot_be_imported():
    code = (
        "import sys; sys.modules['torchaudio'] = None; import torch, vggish_hf;"
        "print(vggish_hf.VGGishFeatureExtractor()(torch.zeros(16_000)).shape)"
    )
    done = run(code)
    assert done.stdout == "torch.Size([1, 96, 64])\n", done.stderr


# What faces with lazy names export.
EXPORTED = {
    "vggish_hf": """
        VGGishConfig VGGishFeatureConfig VGGishFeatureExtractor VGGishModel VGGishOutput
        VGGishPipeline VGGishPostprocessor convert_checkpoint
    """,
    "vggish_hf.audioset": """
        AudioSetClass AudioSetClips AudioSetClipsDataset AudioSetEmbeddings
        AudioSetEmbeddingsDataset AudioSetLabels AudioSetRecord Ontology OntologyNode RecordError
        RecordReader RecordWriter YouTube8MFrames YouTube8MVideo collate_padded collate_ragged
        embed_clips encode_audioset export_clips export_embeddings parse_audioset
        parse_youtube8m_frames parse_youtube8m_video
    """,
    "vggish_hf.lightning": """
        AudioFilesDataModule AudioFolderDataModule AudioSetClipsDataModule
        AudioSetEmbeddingsDataModule BalancedSampler ClassifiedClip ClipDataModule EmbeddingBatch
        EmbeddingProjector FADCallback HeadConfig SpecAugment VGGishClassifier VGGishEmbedder
        VGGishEmbeddingWriter VGGishFinetuning WaveformAugmentation WaveformBatch WaveformClip
        collate_waveforms extract_batch make_head mixup
    """,
    "vggish_hf.metrics": """
        PRESETS ClipEmbedder ClipFailure ClipScore EmbeddingSet EmbeddingStatistics FadResult
        FoundSet FrechetAudioDistance InfinityFit Interval Preset PresetName SmallSampleWarning
        bootstrap_interval embed_set fad_infinity find_set frechet_audio_distance frechet_distance
        provenance_differences
    """,
}


@pytest.fixture
def face(request):
    pytest.importorskip("datasets")
    pytest.importorskip("lightning")
    return import_module(request.param)


def static_names(face):
    """The names that tools which read a face find in it, each with its module."""
    tree = ast.parse(Path(face.__file__).read_text(encoding="utf-8"))
    return {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name and not alias.name.startswith("_")
    }


@pytest.mark.parametrize("face", EXPORTED, indirect=True)
def test_exported_names(face):
    assert set(face.__all__) == set(EXPORTED[face.__name__].split())
    assert len(face.__all__) == len(set(face.__all__))
    assert set(face.__all__) <= set(dir(face))
    public = {name for name in dir(face) if not name.startswith("_")} - set(face.__all__)
    assert all(isinstance(getattr(face, name), ModuleType) for name in public)
    with pytest.raises(AttributeError, match=f"'{face.__name__}' has no attribute 'nothing'"):
        face.nothing  # noqa: B018


FACES = [*EXPORTED, *(f"vggish_hf.{name}" for name in OTHER_FACES)]


@pytest.mark.parametrize("face", FACES, indirect=True)
def test_what_tools_read_is_what_there_is(face):
    names = static_names(face)
    assert names
    for name, module in names.items():
        value = getattr(face, name)
        assert value is getattr(import_module(module), name)
        if inspect.isclass(value) or inspect.isroutine(value):  # aliases of types have no text
            assert value.__doc__, name
        assert name in dir(face)
    if hasattr(face, "__all__"):
        assert set(face.__all__) == set(names)


@pytest.mark.slow
def test_names_whose_extra_is_missing_are_skipped_until_they_are_used():
    code = """
import sys
sys.modules["datasets"] = None
import pydoc, vggish_hf.audioset as face
pydoc.render_doc(face)
print("AudioSetClips" in dir(face), "AudioSetLabels" in dir(face))
face.AudioSetClips
"""
    done = run(code)
    assert done.stdout == "False True\n"
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert "vggish-hf[audioset]" in done.stderr


def test_help_shows_the_classes():
    text = pydoc.plain(pydoc.render_doc(vggish_hf))
    classes = text.partition("CLASSES")[2]
    for name in vggish_hf.__all__:
        assert name in classes
    assert "lazy_names" not in text


def test_classes_are_pickled_by_their_modules():
    config = pickle.loads(pickle.dumps(vggish_hf.VGGishConfig()))
    assert config == vggish_hf.VGGishConfig()


@pytest.mark.slow
def test_modules_are_attributes_without_an_import():
    done = run("import vggish_hf; print(vggish_hf.audio.AudioLimits().max_channels)")
    assert done.stdout == "32\n", done.stderr


@pytest.mark.slow
def test_google_is_known_without_an_import_of_the_conversion():
    code = """
from vggish_hf import hub
assert sorted(hub.BUILTIN_MODELS) == ["demo", "google"]
hub.find_folder("google", [], local_files_only=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere"},
    )
    assert "google_folder" in done.stderr
    assert "FileNotFoundError" in done.stderr


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("vggish_hf.embedding_job", "embed_clips_to_folder"),
        ("vggish_hf.output_folder", "EmbeddingFolder"),
        ("vggish_hf.distributed", "embed_dataset"),
        ("vggish_hf.inputs", "find_clips"),
        ("vggish_hf.inputs", "Clip"),
        ("vggish_hf.audio", "AudioLimits"),
        ("vggish_hf.pipeline", "VGGishOutput"),
    ],
)
def test_documented_paths_keep_working(path, name):
    assert callable(getattr(import_module(path), name))


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


def test_imports_point_one_way():
    for name in MODULES.keys() - {"vggish_hf"}:  # which hands names on
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
