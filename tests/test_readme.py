"""The README's examples, run as they stand."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vggish_hf.cli import main

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def reader(tmp_path, monkeypatch, small_model_folder, request):
    """A folder with the files that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_model_folder, "vggish")
    soundfile.write("clip.wav", np.sin(np.arange(48_000) / 10), 16_000)
    Path("music").mkdir()
    soundfile.write("music/long.flac", np.sin(np.arange(4 * 44_100) / 10), 44_100)
    released = request.path.parent / "data" / "audioset"
    for split in ("bal_train", "eval"):
        shutil.copytree(released / split, Path("audioset_v1_embeddings", split))


def run_console(capsys):
    """Run the README's commands, and check what they print."""
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
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


def test_every_command_of_the_readme_parses():
    from vggish_hf.cli import make_parser

    lines = re.findall(r"^(?:\$ )?vggish-hf (.*)$", README.read_text(encoding="utf-8"), re.M)
    assert len(lines) > 5
    for line in lines:
        make_parser().parse_args(shlex.split(line, comments=True))
