"""The examples of docs/scale.md and docs/speed.md, run as they stand."""

import doctest
import io
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import embedding_faults as faults
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import ROOT

from vggish_hf.cli import main, make_parser

DOCS = ROOT / "docs"
TEXT = (DOCS / "scale.md").read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path, monkeypatch, small_model_folder):
    """A folder with the files that the document speaks of."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_model_folder, "vggish")
    files = faults.make_files(Path("sounds"), 3)
    faults.make_files(Path("more"), 1)
    Path("more", "bad.wav").write_bytes(b"no audio")
    with tarfile.open("shard.tar", "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    cells = pa.array([{"bytes": content, "path": name} for name, content in files.items()])
    pq.write_table(pa.table({"audio": cells}), "table.parquet")


def test_console(reader, capsys):
    [block] = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    command, expected = block.split("\n", 1)
    assert main(shlex.split(command)[2:]) == 0
    assert capsys.readouterr().out == expected


def test_examples(reader, monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    examples = doctest.DocTestParser().get_doctest(TEXT, {}, "scale.md", "scale.md", 0)
    assert len(examples.examples) > 10
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert found.failed == 0


def test_every_command_parses():
    lines = re.findall(r"`?(?<=[`\n])vggish-hf (embed [^`\n#]*)", TEXT.replace("\\\n", ""))
    assert len(lines) > 3
    for line in lines:
        make_parser().parse_args(shlex.split(line, comments=True))


@pytest.mark.parametrize("name", ["scale.md", "speed.md"])
def test_nothing_is_left_to_be_filled_in(name):
    assert not re.search(r"^[A-Z]+_[A-Z_0-9]+$", (DOCS / name).read_text(), re.M)


def test_every_link_leads_somewhere():
    for name in ("scale.md", "speed.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / name).read_text()):
            assert (DOCS / target).exists(), target
