import random
import struct
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_sources import IDS, write_folder, write_parquet, write_tar
from hypothesis import given
from hypothesis import strategies as st

from vggish_hf.audioset.clips import names
from vggish_hf.audioset.clips.names import (
    ClipError,
    ClipName,
    list_sources,
    parse_name,
    read_clip_files,
)
from vggish_hf.audioset.segments import Segment

SEGMENTS = {video_id: Segment(video_id, 30.0, 40.0, (0,)) for video_id in IDS}
FILES = {f"{video_id}.wav": video_id.encode() * 100 for video_id in IDS}
ENCODED = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])

video_ids = st.text("-_Y0123456789azAZ", min_size=11, max_size=11)
seconds = st.integers(0, 20_000)


def contents(path, segments=SEGMENTS):
    """What the clips' files hold, by video id; the reason where one cannot be used."""
    found = {}
    for file in read_clip_files(path, segments):
        try:
            found[file.segment.video_id] = file.load()
        except ClipError as error:
            found[file.segment.video_id] = str(error)
    return found


@pytest.mark.parametrize("video_id", IDS)
@pytest.mark.parametrize("prefix", ["", "Y"])
@pytest.mark.parametrize(
    ("suffix", "times"),
    [
        ("", None),
        ("_30_40", (30, 40)),
        ("_30.000_40.000", (30, 40)),
        ("_000030_000040", (30, 40)),
        ("_30000_40000", (30_000, 40_000)),
    ],
)
@pytest.mark.parametrize("ending", [".wav", ".FLAC", ".m4a", ""])
def test_usual_names(video_id, prefix, suffix, times, ending):
    name = parse_name(f"{prefix}{video_id}{suffix}{ending}", SEGMENTS)
    assert name == ClipName(video_id, times)
    assert name.fits(SEGMENTS[video_id])


@given(video_ids, st.sampled_from(["", "Y"]), seconds, seconds, st.booleans())
def test_every_id_is_found_in_its_names(video_id, prefix, start, end, timed):
    stem = f"{prefix}{video_id}" + (f"_{start}_{end}" if timed else "")
    times = (start, end) if timed else None
    assert parse_name(f"{stem}.opus", {video_id}) == ClipName(video_id, times)


@given(st.text("-_Y01.aw/\\", max_size=30), video_ids)
def test_no_other_name_is_taken(name, video_id):
    found = parse_name(name, {video_id})
    assert found is None or video_id in name


@pytest.mark.parametrize(
    "name",
    [
        "ddddddddddd.txt",
        "ddddddddddd_30.wav",
        "ddddddddddd_30_40_50.wav",
        "xddddddddddd.wav",
        "../ddddddddddd.wav",
        "ddddddddddd.wav.wav",
        "ddddddddddd\n.wav",
        "ddddddddddd_٣٠_٤٠.wav",
        "eeeeeeeeeee.wav",
        "",
    ],
)
def test_other_names(name):
    assert parse_name(name, SEGMENTS) is None


def test_a_name_has_the_reading_that_the_csv_knows():
    # An id of eleven characters that ends as times do, and one behind a Y.
    for known in ("abcdefg_1_2", "Yabcdefg_1_", "Yabcdefghij"):
        stem = f"{known}_1_2"
        assert parse_name(f"{stem}.wav", {known}) == ClipName(known, (1, 2))
        assert parse_name(f"{known}.wav", {known}) == ClipName(known, None)
    assert parse_name("Yabcdefghijk.wav", {"Yabcdefghij", "abcdefghijk"}).video_id == "abcdefghijk"


@pytest.mark.parametrize(
    ("times", "fits"),
    [
        ((30, 40), True),
        ((30_000, 40_000), True),
        ((30, 39), True),  # the release has ends that are a second earlier
        ((30.4, 40.4), True),
        ((0, 10), False),
        ((30, 42), False),
        ((30, 40_000), False),
        ((3_000, 4_000), False),
    ],
)
def test_times_fit_in_seconds_or_milliseconds(times, fits):
    assert ClipName("ddddddddddd", times).fits(SEGMENTS["ddddddddddd"]) is fits


def test_list_sources(tmp_path):
    names = ["b/x.tar", "a.wav", "b/c.MP3", "d.parquet", "e.tar.gz", "f.tgz", "g.m4a"]
    write_folder(tmp_path, dict.fromkeys([*names, "README.md", "b/labels.csv"], b""))
    assert list_sources(tmp_path) == sorted(tmp_path / name for name in names)
    assert list_sources(tmp_path / "b/x.tar") == [tmp_path / "b/x.tar"]


@pytest.mark.parametrize("name", ["nothing", "readme.md"])
def test_list_sources_needs_a_folder_or_an_archive(tmp_path, name):
    (tmp_path / "readme.md").touch()
    with pytest.raises(FileNotFoundError, match=f"Expected a folder, or one of .tar.*{name}"):
        list_sources(tmp_path / name)
    with pytest.raises(ValueError, match="Expected audio files or archives"):
        list_sources(tmp_path)


def test_a_file_is_given_by_its_path(tmp_path):
    write_folder(tmp_path, {"Y-_aaaaaaa_1_30_40.wav": b"RIFF"})
    (path,) = list_sources(tmp_path)
    (file,) = read_clip_files(path, SEGMENTS)
    assert (file.name, file.segment, file.is_cut) == (path.name, SEGMENTS["-_aaaaaaa_1"], True)
    assert file.load() == path


def test_a_file_of_other_times_is_another_clip(tmp_path):
    path = tmp_path / "ddddddddddd_0_10.wav"
    assert list(read_clip_files(path, SEGMENTS)) == []


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_reads_archives(tmp_path, name):
    others = {"README.md": b"", "sub/ddddddddddd.json": b"{}", "eeeeeeeeeee.wav": b"e"}
    inside = {f"audio/sub/{key}": value for key, value in FILES.items()}
    path = write_tar(tmp_path / name, {**others, **inside})
    assert contents(path) == {Path(key).stem: value for key, value in FILES.items()}


def test_members_that_lead_out_of_an_archive_are_refused(tmp_path):
    files = {"../ddddddddddd.wav": b"x", "-_aaaaaaa_1.wav": b"y"}
    found = contents(write_tar(tmp_path / "x.tar", files))
    assert found == {
        "ddddddddddd": "ddddddddddd.wav: the member '../ddddddddddd.wav' leads out of the archive",
        "-_aaaaaaa_1": b"y",
    }
    assert not list(tmp_path.parent.glob("*.wav"))


def test_links_are_refused(tmp_path):
    (tmp_path / "secret.wav").write_bytes(b"secret")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind, video_id in zip((tarfile.SYMTYPE, tarfile.LNKTYPE), IDS, strict=False):
            member = tarfile.TarInfo(f"{video_id}.wav")
            member.type, member.linkname = kind, str(tmp_path / "secret.wav")
            archive.addfile(member)
    found = contents(tmp_path / "x.tar")
    assert set(found) == set(IDS[:2])
    assert all("is no plain file" in reason for reason in found.values())


def test_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "MAX_CLIP_BYTES", 1000)
    files = {IDS[0]: bytes(1000), IDS[1]: bytes(1001)}
    found = contents(write_parquet(tmp_path / "x.parquet", files))
    assert found == {
        IDS[0]: bytes(1000),
        IDS[1]: f"{IDS[1]}.wav: it has 1001 bytes, at most 1000 are read",
    }
    found = contents(write_tar(tmp_path / "x.tar", {f"{k}.wav": v for k, v in files.items()}))
    assert found[IDS[0]] == bytes(1000)
    assert found[IDS[1]].endswith("claims 1001 bytes, at most 1000 are read")


def test_reads_tables(tmp_path):
    files = {**{f"{i:011}": b"other" for i in range(10)}, **{k: k.encode() for k in IDS}}
    assert contents(write_parquet(tmp_path / "x.parquet", files)) == {k: k.encode() for k in IDS}


def test_a_table_is_read_where_it_is_asked_for(tmp_path):
    # Twenty rows of a group, in batches of eight.
    ids = [f"{i:011}" for i in range(20)]
    table = pa.table({"video_id": ids, "audio": [{"bytes": i.encode()} for i in ids]})
    pq.write_table(table, tmp_path / "x.parquet")
    segments = {i: Segment(i, 0.0, 10.0, ()) for i in ids}
    asked = [ids[0], ids[1], ids[9], ids[19]]
    found = [
        file.load()
        for file in read_clip_files(tmp_path / "x.parquet", segments)
        if file.segment.video_id in asked
    ]
    assert found == [i.encode() for i in asked]


def test_a_path_in_a_table_is_not_followed(tmp_path):
    (tmp_path / "secret.wav").write_bytes(b"secret")
    audio = pa.array([{"bytes": None, "path": str(tmp_path / "secret.wav")}, None], ENCODED)
    pq.write_table(pa.table({"video_id": IDS[:2], "audio": audio}), tmp_path / "x.parquet")
    reason = "the table holds no bytes of it, and a path in a table is not followed"
    assert contents(tmp_path / "x.parquet") == {
        IDS[0]: f"{IDS[0]}.wav: {reason}",
        IDS[1]: f"{IDS[1]}: {reason}",
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/anything.flac", "ddddddddddd.flac"),
        ("../../etc/passwd.MP3", "ddddddddddd.MP3"),
        ("../../etc/passwd", "ddddddddddd"),
        ("x.wav/..", "ddddddddddd"),
        (None, "ddddddddddd"),
    ],
)
def test_of_a_path_in_a_table_the_ending_is_kept(tmp_path, path, name):
    audio = pa.array([{"bytes": b"x", "path": path}], ENCODED)
    table = pa.table({"video_id": ["ddddddddddd"], "audio": audio})
    pq.write_table(table, tmp_path / "x.parquet")
    files = read_clip_files(tmp_path / "x.parquet", SEGMENTS)
    file = next(files)
    assert (file.name, file.load()) == (name, b"x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"no table", "x.parquet cannot be read to its end: "),
        ("x.tar", b"no archive" * 99, "x.tar cannot be read to its end: "),
        ("x.tar.gz", b"\x1f\x8b no gzip", "x.tar.gz cannot be read to its end: "),
        ("x.tar", b"", "x.tar cannot be read to its end: "),
    ],
)
def test_damaged_archives_are_told(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError, match=message):
        list(read_clip_files(tmp_path / name, SEGMENTS))


@pytest.mark.parametrize(
    "columns",
    [
        {"id": ["ddddddddddd"], "audio": [{"bytes": b"x"}]},
        {"video_id": ["ddddddddddd"], "audio": [b"x"]},
        {"video_id": ["ddddddddddd"], "audio": [{"array": [0.5]}]},
        {"video_id": ["ddddddddddd"], "audio": [{"bytes": [82, 73]}]},
        {"video_id": ["ddddddddddd"]},
    ],
)
def test_other_tables_are_told(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ClipError, match="expected the columns `video_id` and `audio` with `bytes`"):
        list(read_clip_files(tmp_path / "x.parquet", SEGMENTS))


def test_members_before_the_damage_are_read(tmp_path):
    path = write_tar(tmp_path / "x.tar", FILES)
    path.write_bytes(path.read_bytes()[: 3 * 2048 + 512 + 700])
    files = read_clip_files(path, SEGMENTS)
    assert [next(files).load() for _ in range(3)] == list(FILES.values())[:3]
    with pytest.raises(ClipError, match="cut short"):
        next(files).load()
    with pytest.raises(ClipError, match="cannot be read to its end"):
        next(files)


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz", "x.parquet"])
def test_damage_raises_our_errors_alone(tmp_path, kind):
    path = tmp_path / kind
    if kind == "x.parquet":
        write_parquet(path, {Path(name).stem: content for name, content in FILES.items()})
    else:
        write_tar(path, FILES)
    whole = path.read_bytes()
    rng = random.Random(0)
    read = refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3, 9])):
            at = rng.randrange(len(data))
            data[at : at + 8] = rng.choice(
                [rng.randbytes(8), b"\xff" * 8, struct.pack("<Q", 1 << 63), b"", b"7" * 12]
            )
        path.write_bytes(data)
        files = read_clip_files(path, SEGMENTS)
        while True:
            try:
                file = next(files, None)
                if file is None:
                    break
                file.load()
                read += 1
            except ClipError:
                refused += 1
    assert read > 100
    assert refused > 100
