"""The README's examples, run as they stand."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from folders import ROOT, TESTS
from sounds import make_sound, write_sounds

from vggish_hf.cli import main, make_parser

pytestmark = [
    # Lightning asks torch in a way that torch deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # a few clips need none
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers"),
]

README = ROOT / "README.md"


@pytest.fixture
def reader(tmp_path, monkeypatch, small_model_folder):
    """A folder with the files that the README speaks of."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_model_folder, "vggish")
    sound = make_sound("engine", 3.0, 16_000, np.random.default_rng(1))
    soundfile.write("clip.wav", sound, 16_000)
    Path("music").mkdir()
    soundfile.write("music/long.flac", np.sin(np.arange(4 * 44_100) / 10), 44_100)
    write_sounds(Path("sounds"))
    # With `rich` installed, the summary of a model would be printed, and not logged.
    for option in ("PROGRESS_BAR", "CHECKPOINTING", "MODEL_SUMMARY"):
        monkeypatch.setenv(f"PL_TRAINER_ENABLE_{option}", "False")
    monkeypatch.setenv("PL_TRAINER_LOGGER", "False")
    rng = np.random.default_rng(0)
    for folder, loudness in (("real", 0.03), ("generated", 0.3)):
        Path(folder).mkdir()
        for number in range(4):
            noise = loudness * rng.uniform(-1, 1, 35 * 16_000)
            soundfile.write(f"{folder}/{number}.wav", noise, 16_000)
    released = TESTS / "data" / "audioset"
    for split in ("bal_train", "eval"):
        shutil.copytree(released / split, Path("audioset_v1_embeddings", split))


def run_console(capsys):
    """Run the README's commands, and check what they print."""
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        command, expected = block.split("\n", 1)
        assert command.startswith("$ vggish-hf ")
        assert main(shlex.split(command)[2:]) == 0
        assert capsys.readouterr().out == expected


def test_examples(reader, capsys):
    run_console(capsys)
    text = README.read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0)
    assert len(examples.examples) > 20
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert found.failed == 0


def test_every_command_of_the_readme_parses(capsys):
    lines = re.findall(r"^(?:\$ )?vggish-hf (.*)$", README.read_text(encoding="utf-8"), re.M)
    assert len(lines) > 5
    for line in lines:
        arguments = shlex.split(line, comments=True)
        if arguments[0] == "train":  # Lightning's parser
            with pytest.raises(SystemExit, match="0"):
                main([*arguments, "--print_config"])
        else:
            make_parser().parse_args(arguments)
