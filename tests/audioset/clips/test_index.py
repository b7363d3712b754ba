import os
import zipfile

import pytest
from clip_sources import IDS, write_folder, write_parquet, write_tar
from file_server import FileServer

from vggish_hf.audioset.clips.index import LeftOut, index_clips, read_left_out, write_left_out
from vggish_hf.audioset.segments import Segment

SEGMENTS = {video_id: Segment(video_id, 30.0, 40.0, (0,)) for video_id in IDS}
MISSING = "there is no file of it, or only one that is named for other times"


def index_of(folder, **options):
    return index_clips(SEGMENTS, folder, **options)


def ids(files):
    return [file.segment.video_id for file in files]


def test_finds_clips_over_sources_of_all_kinds(tmp_path):
    write_folder(tmp_path, {f"c/{IDS[0]}.wav": b"x", "c/other.wav": b"x"})
    write_tar(tmp_path / "a.tar", {f"Y{IDS[1]}_30_40.wav": b"x", "README.md": b""})
    write_parquet(tmp_path / "b.parquet", {IDS[2]: b"x", "eeeeeeeeeee": b"x"})
    write_tar(tmp_path / "empty.tar", {"README.md": b""})
    index = index_of(tmp_path)
    assert index.sources == [
        str(tmp_path / "a.tar"),
        str(tmp_path / "b.parquet"),
        str(tmp_path / "c" / f"{IDS[0]}.wav"),
    ]
    assert index.num_clips == 3
    assert index.left_out == [LeftOut(IDS[3], MISSING)]
    assert ids(index.read()) == [IDS[1], IDS[2], IDS[0]]
    assert [file.is_cut for file in index.read()] == [True, False, False]
    assert ids(index.read([2, 0])) == [IDS[0], IDS[1]]


def test_of_two_files_of_a_clip_the_first_is_used(tmp_path):
    write_folder(tmp_path, {f"{IDS[0]}.wav": b"1", f"Y{IDS[0]}.wav": b"2"})
    write_tar(tmp_path / "x.tar", {f"a/{IDS[1]}.wav": b"1", f"b/{IDS[1]}.wav": b"2"})
    index = index_of(tmp_path)
    assert index.num_clips == 2
    files = {file.segment.video_id: file.load() for file in index.read()}
    assert files == {IDS[0]: tmp_path / f"{IDS[0]}.wav", IDS[1]: b"1"}
    assert index.left_out[:2] == [
        LeftOut(IDS[0], f"{tmp_path}/Y{IDS[0]}.wav: a second file of it"),
        LeftOut(IDS[1], f"{tmp_path}/x.tar/b/{IDS[1]}.wav: a second file of it"),
    ]


def test_a_file_of_other_times_takes_no_place(tmp_path):
    names = [f"{IDS[0]}_0_10.wav", f"{IDS[0]}_30_40.wav", f"{IDS[1]}_0_10.wav"]
    index = index_of(write_folder(tmp_path, dict.fromkeys(names, b"x")))
    assert [file.name for file in index.read()] == [f"{IDS[0]}_30_40.wav"]
    assert index.left_out == [LeftOut(video_id, MISSING) for video_id in IDS[1:]]


def test_a_damaged_archive_fails_and_the_rest_is_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{i}.wav": b"x" * 600 for i in IDS[:2]})
    path.write_bytes(path.read_bytes()[:1536])
    (tmp_path / "b.parquet").write_bytes(b"no table")
    write_folder(tmp_path, {f"{IDS[3]}.wav": b"x"})
    index = index_of(tmp_path)
    assert ids(index.read()) == [IDS[0], IDS[3]]
    assert [entry.video_id for entry in index.left_out] == ["", "", IDS[1], IDS[2]]
    assert "a.tar' cannot be read" in index.left_out[0].reason
    assert "b.parquet' cannot be read" in index.left_out[1].reason


def test_a_source_without_clips_is_refused(tmp_path):
    write_folder(tmp_path, {"song.wav": b"x"})
    with pytest.raises(ValueError, match=f"named for the clips' ids, such as {IDS[0]}, "):
        index_of(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"No files found .*; .*x\.parquet' cannot be read"):
        index_of(tmp_path)


def test_all_may_be_known_to_be_cut(tmp_path):
    index = index_of(write_folder(tmp_path, {f"{IDS[0]}.wav": b"x"}), are_cut=True)
    assert [file.is_cut for file in index.read()] == [True]


def test_the_digest_changes_with_what_decides(tmp_path):
    path = write_folder(tmp_path, {f"{IDS[0]}.wav": b"x"}) / f"{IDS[0]}.wav"
    os.utime(path, ns=(10**18, 10**18))
    digest = index_of(tmp_path).digest()
    assert digest == index_of(tmp_path).digest()
    others = {index_clips({**SEGMENTS, IDS[3]: Segment(IDS[3], 0.0, 1.0, ())}, path).digest()}
    path.write_bytes(b"xy")
    os.utime(path, ns=(10**18, 10**18))
    others.add(index_of(tmp_path).digest())
    path.write_bytes(b"x")
    os.utime(path, ns=(10**18, 10**18 + 1))
    others.add(index_of(tmp_path).digest())
    os.utime(path, ns=(10**18, 10**18))
    path.rename(path.with_suffix(".flac"))
    others.add(index_of(tmp_path).digest())
    assert len(others) == 4
    assert digest not in others


def test_failed_clips_are_read_as_written(tmp_path):
    entries = [LeftOut("-_aaaaaaa_1", 'a "reason", with\nlines'), LeftOut("", "ünï")]
    write_left_out(tmp_path / "x.csv", entries)
    assert read_left_out(tmp_path / "x.csv") == entries


def test_what_matches_nothing_is_counted_and_listed(tmp_path):
    write_folder(tmp_path / "x", {f"{number:02}.wav": b"" for number in range(12)})
    write_folder(tmp_path / "x", {f"{IDS[0]}.wav": b"x", ".hidden.wav": b"", "._a.wav": b""})
    index = index_of(tmp_path / "x")
    assert index.unmatched.count == 12
    assert index.unmatched.examples == [f"{tmp_path}/x/{number:02}.wav" for number in range(10)]
    assert str(index.unmatched).startswith("12 files are named for none of the clips: ")
    assert str(index.unmatched).endswith("/09.wav and 2 more")
    assert index.skipped == [(f"{tmp_path}/x/.hidden.wav", "a hidden file")]
    (tmp_path / "x" / f"{IDS[0]}.wav").unlink()
    with pytest.raises(ValueError, match=r"; skipped: .*hidden\.wav: a hidden file; 12"):
        index_of(tmp_path / "x")


def test_several_inputs_and_a_zip(tmp_path):
    write_folder(tmp_path / "x", {f"{IDS[0]}.wav": b"x"})
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr(f"Title [{IDS[1]}].ogg", b"y")
        archive.writestr(f"dir\\{IDS[2]}.ogg", b"z")
    index = index_clips(SEGMENTS, [tmp_path / "y.zip", tmp_path / "x" / "*.wav"])
    assert ids(index.read()) == [IDS[1], IDS[2], IDS[0]]
    with pytest.raises(FileNotFoundError, match="No such file or folder: 'nowhere'"):
        index_clips(SEGMENTS, [tmp_path / "y.zip", "nowhere"])


def test_clips_of_a_url():
    with FileServer({f"x/{IDS[0]}_30.wav": b"x", "x/%5Bddddddddddd%5D.wav": b"y"}) as server:
        index = index_clips(SEGMENTS, f"{server.url}/x/")
        assert [file.load() for file in index.files][-1] == b"x"
        before = index.digest()
        server.files[f"x/{IDS[0]}_30.wav"] = b"xy"
        assert index_clips(SEGMENTS, f"{server.url}/x/").digest() != before
