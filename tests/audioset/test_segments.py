import re

import pytest
from folders import TESTS

from vggish_hf.audioset import AudioSetLabels, RecordReader, parse_audioset
from vggish_hf.audioset.segments import Segment, read_segments, split_of

RELEASED = TESTS / "data" / "audioset"

HEAD = (
    "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
)
LINE = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'


@pytest.fixture
def read(tmp_path):
    def run(text):
        path = tmp_path / "eval_segments.csv"
        path.write_text(text, encoding="utf-8")
        return read_segments(path)

    return run


def test_reads_what_audioset_publishes(shared):
    segments = read_segments(shared / "data" / "audioset" / "balanced_train_segments.csv")
    assert len(segments) == 22_160
    first = next(iter(segments.values()))
    assert first == Segment("--PJHxphWEs", 30.0, 40.0, (0, 451))
    # The header of the CSV counts these.
    assert sum(len(segment.labels) for segment in segments.values()) == 52_882
    assert len({label for segment in segments.values() for label in segment.labels}) == 527
    assert {name[0] for name in segments} >= {"-", "_"}
    # The records of the release, which somebody else made of the same clips.
    records = [
        parse_audioset(data)
        for path in RELEASED.glob("bal_train/*.tfrecord")
        for data in RecordReader(path)
    ]
    for record in records:
        segment = segments[record.video_id]
        assert sorted(segment.labels) == sorted(record.labels)
        assert segment.start_time_seconds == pytest.approx(record.start_time_seconds, abs=1e-4)
        assert segment.end_time_seconds == pytest.approx(record.end_time_seconds, abs=1.001)
    assert len(records) > 10


def test_reads_lines_in_order(read):
    segments = read(
        HEAD
        + '_-aaaaaaaa_, 0.000, 9.000, "/m/09x0r"\n\n'
        + '--bbbbbbb_9,0,7.8,""\n'  # no label, and no spaces, which other tools leave out
        + LINE
    )
    assert list(segments) == ["_-aaaaaaaa_", "--bbbbbbb_9", "--PJHxphWEs"]
    assert segments["--bbbbbbb_9"] == Segment("--bbbbbbb_9", 0.0, 7.8, ())
    assert segments["--PJHxphWEs"].duration == 10.0
    table = AudioSetLabels()
    names = [table.find(label).name for label in segments["--PJHxphWEs"].labels]
    assert names == ["Speech", "Gush"]


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_lines_may_end_as_on_windows(read, mark):
    assert list(read(mark + HEAD.replace("\n", "\r\n") + LINE.replace("\n", "\r\n")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--PJHxphWEs, 30.000, 40.000, /m/09x0r", "Expected YTID, start, end"),
        ("--PJHxphWE, 30.000, 40.000, '/m/09x0r'", "Expected YTID, start, end"),
        ('PJHxph/../s, 30.000, 40.000, "/m/09x0r"', "Expected YTID, start, end"),
        ('--PJHxphWEs, nan, 40.000, "/m/09x0r"', "Expected YTID, start, end"),
        ('--PJHxphWEs, 30.000, "/m/09x0r"', "Expected YTID, start, end"),
        (f'--PJHxphWEs, 1, 2, "{"x" * 999}', "got .{101}\\.\\.\\.'$"),
        ('--PJHxphWEs, 40.000, 40.000, "/m/09x0r"', "ends after its start, got 40.0 to 40.0"),
        (f'--PJHxphWEs, 40, {"9" * 400}, "/m/09x0r"', "ends after its start, got 40.0 to inf"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/09x0rr"', "Expected the mid .* got '/m/09x0rr'"),
    ],
)
def test_errors_name_file_and_line(read, line, message):
    with pytest.raises(ValueError, match=f"eval_segments.csv, line 5: .*{message}"):
        read(HEAD + LINE.replace("P", "Q") + line + "\n" + LINE)


def test_refuses_a_video_twice(read):
    with pytest.raises(ValueError, match="line 5: Expected each video once, got '--PJHxphWEs'"):
        read(HEAD + LINE + LINE)


def test_refuses_a_file_without_clips(read):
    with pytest.raises(ValueError, match="No clips found in the segments CSV"):
        read(HEAD)


def test_split_of():
    assert split_of("a/unbalanced_train_segments.csv") == "unbal_train"
    with pytest.raises(ValueError, match=re.escape("got 'mine.csv'; say which split it is")):
        split_of("mine.csv")


@pytest.mark.parametrize("video_id", ["../etc/abcd", "abc", "abcdefghijkl", "äbcdefghijk", ""])
def test_a_segment_has_an_id_of_youtube(video_id):
    with pytest.raises(ValueError, match="Expected a YouTube id"):
        Segment(video_id, 0.0, 1.0, ())


@pytest.mark.parametrize("times", [(-1.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_segment_has_times(times):
    with pytest.raises(ValueError, match="ends after its start"):
        Segment("abcdefghijk", *times, ())
