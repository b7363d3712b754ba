"""Which file is which clip, by its name, in folders, archives and tables."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_sources import IDS, write_folder, write_parquet, write_tar
from hypothesis import given
from hypothesis import strategies as st

from vggish_hf.audioset.clips.index import index_clips
from vggish_hf.audioset.clips.names import ClipError, ClipName, parse_name
from vggish_hf.audioset.segments import Segment

SEGMENTS = {video_id: Segment(video_id, 30.0, 40.0, (0,)) for video_id in IDS}
FILES = {f"{video_id}.wav": video_id.encode() * 100 for video_id in IDS}
ENCODED = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])

video_ids = st.text("-_Y0123456789azAZ", min_size=11, max_size=11)
seconds = st.integers(0, 20_000)


def contents(path):
    """What the clips' files hold, by video id; the reason where one cannot be used."""
    found = {}
    for file in index_clips(SEGMENTS, path).files:
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
        ("_30", (30, None)),
        ("_30.000", (30, None)),
        ("_30000", (30_000, None)),
        ("_30.000,40.000", (30, 40)),
        ("_30-40", (30, 40)),
        ("-30-40", (30, 40)),
        (" 30 40", (30, 40)),
        ("_30s_40s", (30, 40)),
        ("_30000ms_40000ms", (30_000, 40_000)),
    ],
)
@pytest.mark.parametrize("ending", [".wav", ".FLAC", ".m4a", ""])
def test_usual_names(video_id, prefix, suffix, times, ending):
    name = parse_name(f"{prefix}{video_id}{suffix}{ending}", SEGMENTS)
    assert name == ClipName(video_id, times)
    assert name.fits(SEGMENTS[video_id])


@pytest.mark.parametrize("video_id", IDS)
@pytest.mark.parametrize(
    "title", ["Title [{}]", "A [live] é, part 2 [{}]", "[{}]", "Title-{}", "Title - {}", "Title_{}"]
)
def test_names_with_titles(title, video_id):
    """As yt-dlp and youtube-dl write them."""
    for suffix, times in (("", None), ("_30_40", (30, 40)), (" 30", (30, None))):
        name = parse_name(f"{title.format(video_id)}{suffix}.opus", SEGMENTS)
        assert name == ClipName(video_id, times)


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
        "ddddddddddd_30_.wav",
        "[ddddddddddd].f251.webm.part",
        "ddddddddddd Title.wav",
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
        ((30, None), True),
        ((30_000, None), True),
        ((40, None), False),
    ],
)
def test_times_fit_in_seconds_or_milliseconds(times, fits):
    assert ClipName("ddddddddddd", times).fits(SEGMENTS["ddddddddddd"]) is fits


def test_a_file_is_given_by_its_path(tmp_path, monkeypatch):
    write_folder(tmp_path / "x", {"Y-_aaaaaaa_1_30_40.wav": b"RIFF"})
    monkeypatch.chdir(tmp_path)
    (file,) = index_clips(SEGMENTS, "x").files
    assert (file.name, file.segment, file.is_cut) == (
        "Y-_aaaaaaa_1_30_40.wav",
        SEGMENTS["-_aaaaaaa_1"],
        True,
    )
    assert file.load() == tmp_path / "x" / file.name


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_reads_archives(tmp_path, name):
    others = {"README.md": b"", "sub/ddddddddddd.json": b"{}", "eeeeeeeeeee.wav": b"e"}
    inside = {f"audio/sub/{key}": value for key, value in FILES.items()}
    path = write_tar(tmp_path / name, {**others, "__MACOSX/._ddddddddddd.wav": b"", **inside})
    assert contents(path) == {Path(key).stem: value for key, value in FILES.items()}
    assert contents(tmp_path) == contents(path)


def test_reads_tables(tmp_path):
    files = {**{f"{i:011}": b"other" for i in range(10)}, **{k: k.encode() for k in IDS}}
    path = write_parquet(tmp_path / "x.parquet", files)
    assert contents(path) == {k: k.encode() for k in IDS}


def test_a_table_that_has_a_clip_twice(tmp_path):
    audio = pa.array([{"bytes": b"%d" % i, "path": None} for i in range(3)], ENCODED)
    columns = {"video_id": [IDS[0], IDS[1], IDS[0]], "audio": audio}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    index = index_clips(SEGMENTS, tmp_path)
    assert [file.load() for file in index.files] == [b"0", b"1"]
    assert index.left_out[0] == (
        IDS[0],
        f"{tmp_path}/x.parquet/{IDS[0]}#2: a second file of it",
    )


def test_a_path_in_a_table_is_not_followed(tmp_path):
    (tmp_path / "secret.wav").write_bytes(b"secret")
    audio = pa.array([{"bytes": None, "path": str(tmp_path / "secret.wav")}, None], ENCODED)
    pq.write_table(pa.table({"video_id": IDS[:2], "audio": audio}), tmp_path / "x.parquet")
    for reason in contents(tmp_path / "x.parquet").values():
        assert "holds no bytes, and a path in a table is not followed" in reason


def test_members_before_the_damage_are_read(tmp_path):
    path = write_tar(tmp_path / "x.tar", FILES)
    path.write_bytes(path.read_bytes()[: 3 * 2048 + 512 + 700])
    found = list(contents(path).values())
    assert found[:3] == list(FILES.values())[:3]
    assert "cut short" in found[3]
    index = index_clips(SEGMENTS, path)
    assert "cannot be read" in index.left_out[0].reason
