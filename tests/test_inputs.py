"""What names, folders, globs and lists mean; the command line's tests use them too."""

import os
import sys

import pytest

from vggish_hf.inputs import find_inputs, readable_id


@pytest.fixture
def files(tmp_path):
    for name in ("b.wav", "a.MP3", "notes.md", "sub/c.flac", "sub/deeper/d.m4a"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_globs_lists_and_names(files):
    names = [str(files / name) for name in ("a.MP3", "b.wav", "sub/c.flac", "sub/deeper/d.m4a")]
    assert find_inputs([str(files)]) == names
    assert find_inputs([str(files / "**" / "*.flac"), str(files / "?.wav")]) == names[2:0:-1]
    (files / "list.txt").write_text(f"gone.wav\n\n  {names[1]}\n", encoding="utf-8")
    assert find_inputs([str(files / "list.txt"), names[1], "x"]) == ["gone.wav", names[1], "x"]


def test_links_to_folders_are_not_followed(files):
    (files / "sub" / "around").symlink_to(files)
    assert len(find_inputs([str(files)])) == 4


def test_arguments_that_name_nothing(files):
    (files / "empty").mkdir()
    for argument in (files / "empty", files / "*.ogg"):
        with pytest.raises(ValueError, match=r"Expected audio files, .* names none"):
            find_inputs([str(argument)])
    (files / "list.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="a list of paths in UTF-8"):
        find_inputs([str(files / "list.txt")])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_ids_are_text():
    assert readable_id("Ünï/cödé.wav") == "Ünï/cödé.wav"
    assert readable_id(os.fsdecode(b"\xff.wav")) == "\\xff.wav"
