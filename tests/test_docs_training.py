"""The examples of docs/training.md, run as they stand."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from clip_sources import IDS, SPEECH, write_csv, write_folder
from folders import ROOT, TESTS
from sounds import make_sound, write_sounds

import vggish_hf.lightning
from vggish_hf.cli import main, make_parser

pytestmark = [
    # Lightning asks torch in a way that torch deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # a few clips need none
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers"),
    # data without validation clips, as some examples have
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    # a few clips have few of the 527 classes
    pytest.mark.filterwarnings("ignore:.* classes have no clip to learn from"),
]

DOCS = ROOT / "docs"
TEXT = (DOCS / "training.md").read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path, monkeypatch, small_model_folder):
    """A folder with the files that the document speaks of, and a Trainer that prints nothing."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    # With `rich` installed, the summary of a model would be printed, and not logged.
    for option in ("PROGRESS_BAR", "CHECKPOINTING", "MODEL_SUMMARY"):
        monkeypatch.setenv(f"PL_TRAINER_ENABLE_{option}", "False")
    monkeypatch.setenv("PL_TRAINER_LOGGER", "False")
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # to be restored: seeding sets them
    shutil.copytree(small_model_folder, "vggish")
    sound = make_sound("engine", 3.0, 16_000, np.random.default_rng(1))
    soundfile.write("clip.wav", sound, 16_000)
    write_sounds(Path("sounds"))
    [table] = re.findall(r"```\n(path,label.*?)```", TEXT, re.DOTALL)
    Path("sounds", "labels.csv").write_text(table, encoding="utf-8")
    released = TESTS / "data" / "audioset"
    for split in ("bal_train", "eval"):
        shutil.copytree(released / split, Path("audioset_v1_embeddings", split))
    write_csv(Path("segments.csv"), dict.fromkeys(IDS, (0, 4)))
    write_folder(Path("audio"), {f"{name}.wav": SPEECH for name in IDS})


@pytest.mark.slow
def test_examples(reader):
    examples = doctest.DocTestParser().get_doctest(TEXT, {}, "training.md", "training.md", 0)
    assert len(examples.examples) > 60
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert found.failed == 0


def test_every_command_parses(capsys):
    lines = re.findall(r"^vggish-hf (.*)$", TEXT.replace("\\\n", ""), re.M)
    assert len(lines) > 5
    for line in lines:
        arguments = shlex.split(line)
        if arguments[0] != "train":
            make_parser().parse_args(arguments)
        elif "mine/training.yaml" not in arguments:
            with pytest.raises(SystemExit, match="0"):
                main([*arguments, "--print_config"])


def test_every_name_is_shown():
    shown = TEXT + (DOCS / "fad.md").read_text(encoding="utf-8")
    names = set(vggish_hf.lightning.__all__)
    assert {"VGGishClassifier", "mixup"} < names
    assert {name for name in names if name not in shown} == set()
