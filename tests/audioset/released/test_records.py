import csv
import dataclasses
import itertools
import random
import struct
import tarfile

import numpy as np
import pytest
from folders import SHARED, TESTS
from fuzzing import cases
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vggish_hf.audioset.released.records import (
    AudioSetRecord,
    _parse_audioset,
    _parse_plain,
    encode_audioset,
    parse_audioset,
)
from vggish_hf.audioset.released.youtube8m import parse_youtube8m_frames, parse_youtube8m_video
from vggish_hf.tf_files.features import (
    encode_entry,
    encode_feature,
    encode_sequence_example,
    row_framing,
    uniform_rows,
)
from vggish_hf.tf_files.protobuf import FIXED32, encode_field, encode_varint
from vggish_hf.tf_files.records import RecordError, RecordReader

DATA = TESTS / "data" / "audioset"
AUDIOSET = SHARED / "data" / "audioset"
needs_shared = pytest.mark.skipif(
    not AUDIOSET.is_dir(), reason="needs the released embeddings in ../shared/data/audioset"
)

RECORDS = [data for path in sorted(DATA.glob("*/*.tfrecord")) for data in RecordReader(path)]

# {"clip": b"ab", "labels": [0, 127, 128, 526, -1], "times": [0, 7.8]}, {"rows": [b"x", b"yz"]},
# as TensorFlow 2.21 writes it.
TENSORFLOW = (
    b"\nG\n\x0e\n\x04clip\x12\x06\n\x04\n\x02ab\n\x1e\n\x06labels\x12\x14\x1a\x12\n\x10\x00\x7f\x80"
    b"\x01\x8e\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\n\x15\n\x05times\x12\x0c\x12\n\n\x08\x00"
    b"\x00\x00\x00\x9a\x99\xf9@\x12\x19\n\x17\n\x04rows\x12\x0f\n\x05\n\x03\n\x01x\n\x06\n\x04\n"
    b"\x02yz"
)

EMBEDDING = np.arange(3 * 128, dtype=np.uint8).reshape(3, 128)
RECORD = AudioSetRecord("abcdefghijk", 0.5, 3.5, (0, 137, 526), EMBEDDING)
FEATURES = {
    "video_id": encode_feature(b"abcdefghijk"),
    "start_time_seconds": encode_feature([0.5]),
    "end_time_seconds": encode_feature([3.5]),
    "labels": encode_feature([0, 137, 526]),
}
ROWS = b"".join(encode_field(1, encode_feature(row.tobytes())) for row in EMBEDDING)


def message(features=FEATURES, rows=ROWS) -> bytes:
    """A record made of messages that are encoded already."""
    entries = b"".join(encode_entry(name, value) for name, value in features.items())
    return encode_field(1, entries) + encode_field(2, encode_entry("audio_embedding", rows))


def comparable(record: AudioSetRecord) -> tuple[str, bytes]:
    # repr, because NaN is a valid time and equals nothing.
    times_and_labels = (record.start_time_seconds, record.end_time_seconds, record.labels)
    return repr((record.video_id, *times_and_labels)), record.embedding.tobytes()


def assert_same(actual: AudioSetRecord, expected: AudioSetRecord) -> None:
    assert comparable(actual) == comparable(expected)


# Against TensorFlow and the release.


def test_encodes_as_tensorflow_does():
    context = {"clip": b"ab", "labels": [0, 127, 128, 526, -1], "times": [0, 7.8]}
    assert encode_sequence_example(context, {"rows": [b"x", b"yz"]}) == TENSORFLOW


def test_first_bundled_record():
    record = parse_audioset(RECORDS[0])
    assert record.video_id == "EmrrGDnB788"
    assert record.start_time_seconds == np.float32(7.8)
    assert record.end_time_seconds == np.float32(17.8)
    assert record.labels == (92,)
    assert record.embedding.shape == (10, 128)
    assert record.embedding.dtype == np.uint8
    assert record.embedding[0, :3].tolist() == [160, 47, 109]
    assert record.embedding.flags.writeable, "torch.from_numpy wants it so"


def test_bundled_records_cover_both_ways_to_parse():
    assert {_parse_plain(data) is None for data in RECORDS} == {False, True}


@pytest.mark.parametrize("data", RECORDS, ids=lambda data: parse_audioset(data).video_id)
def test_bundled_record(data):
    record = parse_audioset(data)
    assert_same(record, _parse_audioset(data))
    encoded = encode_audioset(record)
    assert_same(parse_audioset(encoded), record)
    assert len(encoded) == len(data)
    # Released records differ in the order of their context only, and some have ours.
    if data.find(b"video_id") < data.find(b"start") < data.find(b"labels") < data.find(b"end_"):
        assert encoded == data


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize(
    ("archive", "segments", "count"),
    [
        ("bal_train.tar", "balanced_train_segments.csv", 22_160),
        ("eval_quarter.tar", "eval_segments.csv", 5_044),
    ],
)
def test_all_released_records(archive, segments, count):
    with open(AUDIOSET / "class_labels_indices.csv", newline="") as file:
        index_of = {row["mid"]: int(row["index"]) for row in csv.DictReader(file)}
    with open(AUDIOSET / segments, newline="") as file:
        lines = itertools.islice(csv.reader(file, skipinitialspace=True), 3, None)
        truth = {
            video_id: (float(start), float(end), {index_of[mid] for mid in mids.split(",")})
            for video_id, start, end, mids in lines
        }
    seen = set()
    with tarfile.open(AUDIOSET / archive) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            for data in RecordReader(tar.extractfile(member)):
                record = parse_audioset(data)
                assert_same(record, _parse_audioset(data))
                start, end, labels = truth[record.video_id]
                assert record.start_time_seconds == np.float32(start)
                # Some clips at the end of a video are a second shorter than the CSV says.
                assert record.end_time_seconds in (np.float32(end), end - 1)
                assert set(record.labels) == labels
                assert len(record.labels) == len(labels)
                seconds = len(record.embedding)
                assert 1 <= seconds <= 10
                assert seconds == round(record.end_time_seconds - record.start_time_seconds)
                seen.add(record.video_id)
    assert len(seen) == count


# Round trips.


@given(
    st.builds(
        AudioSetRecord,
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.floats(width=32),
        st.floats(width=32),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30).map(tuple),
        hnp.arrays(np.uint8, st.tuples(st.integers(0, 12), st.just(128))),
    )
)
def test_round_trip(record):
    data = encode_audioset(record)
    assert_same(parse_audioset(data), record)
    assert_same(_parse_audioset(data), record)


def test_times_are_stored_in_float32():
    record = dataclasses.replace(RECORD, start_time_seconds=7.8)
    assert parse_audioset(encode_audioset(record)).start_time_seconds == np.float32(7.8)


# Every valid form of one record.


@pytest.mark.parametrize("order", list(itertools.permutations(FEATURES)), ids=" ".join)
def test_any_order(order):
    data = message({name: FEATURES[name] for name in order})
    assert _parse_plain(data) is not None
    assert_same(parse_audioset(data), RECORD)


def int64_list(*values: int | bytes) -> dict[str, bytes]:
    return FEATURES | {"labels": encode_field(3, b"".join(encode_field(1, v) for v in values))}


LABELS_FIRST = {"labels": FEATURES["labels"], **FEATURES}
ENTRIES = b"".join(encode_entry(name, value) for name, value in LABELS_FIRST.items())
LONG_ENTRIES = encode_entry("labels", encode_feature([9] * 5)) + ENTRIES
LISTS = encode_field(2, encode_entry("audio_embedding", ROWS))
UNKNOWN = encode_field(15, 7) + encode_varint(16 << 3 | FIXED32) + b"\xff" * 4
HALVES = [dict(list(FEATURES.items())[:2]), dict(list(FEATURES.items())[2:])]
FORMS = {
    "labels not packed": message(int64_list(0, 137, 526)),
    "labels partly packed": message(int64_list(0, encode_varint(137) + encode_varint(526))),
    "137 in four bytes": message(int64_list(b"\x00\x89\x81\x80\x00", 526)),
    "labels in two lists": message(
        FEATURES | {"labels": encode_feature([0, 137]) + encode_feature([526])}
    ),
    "last kind of labels counts": message(
        FEATURES | {"labels": encode_feature([9]) + encode_feature(b"9") + FEATURES["labels"]}
    ),
    "last labels count": encode_field(1, encode_entry("labels", encode_feature([9]))) + message(),
    "float not packed": message(
        FEATURES
        | {
            "start_time_seconds": encode_field(
                2, encode_varint(1 << 3 | FIXED32) + struct.pack("<f", 0.5)
            )
        }
    ),
    "unknown features": message({"title": encode_feature(b"\xff"), "x": b"\xff"} | FEATURES)
    + encode_field(2, encode_entry("rgb", b"\xff")),
    "unknown fields": UNKNOWN
    + message({name: value + UNKNOWN for name, value in FEATURES.items()}, UNKNOWN + ROWS)
    + UNKNOWN,
    "two contexts": message(HALVES[0], ROWS) + message(HALVES[1], ROWS),
    "lists before context": encode_field(2, encode_entry("audio_embedding", ROWS))
    + encode_sequence_example({}, {})
    + message(FEATURES, ROWS),
    "last key counts": message(FEATURES, b"")
    + encode_field(
        2,
        encode_field(
            1,
            encode_field(1, b"other") + encode_field(1, b"audio_embedding") + encode_field(2, ROWS),
        ),
    ),
    "row behind the lists": message() + encode_field(1, encode_feature(bytes(128))),
    "value before key": message(FEATURES, b"")
    + encode_field(2, encode_field(1, encode_field(2, ROWS) + encode_field(1, b"audio_embedding"))),
}


@pytest.mark.parametrize("data", list(FORMS.values()), ids=list(FORMS))
def test_valid_form(data):
    assert_same(parse_audioset(data), RECORD)


def test_without_labels():
    rest = {name: value for name, value in FEATURES.items() if name != "labels"}
    assert parse_audioset(message(rest)).labels == ()
    assert parse_audioset(message(rest | {"labels": b""})).labels == ()


# What is wrong.


@pytest.mark.parametrize("name", ["video_id", "start_time_seconds", "end_time_seconds"])
def test_missing_feature(name):
    rest = {other: value for other, value in FEATURES.items() if other != name}
    with pytest.raises(RecordError, match=f"Expected a feature `{name}`, found only .'"):
        parse_audioset(message(rest))


def test_missing_embedding():
    with pytest.raises(RecordError, match=r"Expected a feature `audio_embedding`, found only \[\]"):
        parse_audioset(encode_field(1, ENTRIES))


@pytest.mark.parametrize("position", range(len(row_framing(128))))
def test_every_byte_of_a_rows_framing_counts(position):
    assert uniform_rows(ROWS, 128).tolist() == EMBEDDING.tolist()
    rows = bytearray(ROWS)
    rows[len(ROWS) // 3 + position] ^= 1
    assert uniform_rows(rows, 128) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"Expected a feature `video_id`, found only \[\]"),
        (message({**FEATURES, "video_id": b""}), "`video_id` to hold one string, got 0"),
        (message(FEATURES | {"video_id": encode_feature([1])}), "hold bytes values, got int64"),
        (message(FEATURES | {"video_id": encode_feature(b"\xff")}), r"UTF-8, got b'\\xff'"),
        (message(FEATURES | {"video_id": encode_feature(b"\xff" * 11)}), "`video_id` in UTF-8"),
        (message(FEATURES | {"labels": encode_feature([0.5])}), "hold int64 values, got float"),
        (message(FEATURES | {"end_time_seconds": encode_feature([1])}), "float values, got int64"),
        (
            message(FEATURES | {"end_time_seconds": encode_feature([1.0, 2.0])}),
            "`end_time_seconds` to hold 1 floats, got 8 bytes",
        ),
        (
            message(FEATURES | {"labels": encode_field(3, encode_field(1, b"\x80"))}),
            "ends inside a number",
        ),
        (
            message(FEATURES | {"labels": encode_field(3, encode_field(1, b"\x80" * 10 + b"\0"))}),
            "more than ten bytes",
        ),
        (message(rows=ROWS[:-1]), "claims 134 bytes, only 133 remain"),
        (
            message(rows=ROWS + encode_field(1, encode_feature(b"short"))),
            r"string of 128 bytes, got \[5\] in row 3",
        ),
        (message(rows=encode_field(1, b"")), r"string of 128 bytes, got \[\] in row 0"),
        (message(rows=encode_field(1, encode_feature([1]))), "hold bytes values, got int64"),
        (encode_field(1, ENTRIES[:-4]) + LISTS, "claims 28 bytes, only 24 remain"),
        (b"\n" + bytes([len(LONG_ENTRIES)]) + LONG_ENTRIES + LISTS, "field 1 claims"),
        (message()[:-1], "claims"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_invalid_record(data, reason):
    with pytest.raises(RecordError, match=reason):
        parse_audioset(data)


@pytest.mark.parametrize(
    "embedding",
    [EMBEDDING.astype(np.float32), EMBEDDING[:, :64], EMBEDDING[0], EMBEDDING[None]],
    ids=["float", "narrow", "one row", "batch"],
)
def test_record_of_another_embedding(embedding):
    with pytest.raises(ValueError, match=r"uint8 of shape \(seconds, 128\), got"):
        dataclasses.replace(RECORD, embedding=embedding)


@pytest.mark.parametrize("values", [["text"], [[1]], [2**63], 5, [None], [1j]])
def test_context_of_another_type(values):
    with pytest.raises(ValueError, match="bytes, or a flat sequence"):
        encode_sequence_example({"name": values}, {})


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, mostly of the framing: flip, cut out, put in, double, merge."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        position = rng.randrange(min(len(mutant), rng.choice([180, 180, 2000])))
        other = position + rng.choice([1, 4, 29, 32])
        kind = rng.randrange(6)
        if kind < 2:
            mutant[position] = rng.choice([rng.randrange(256), mutant[position] ^ 1])
        elif kind == 2:
            del mutant[position:other]
        elif kind == 3:
            mutant[position:position] = rng.randbytes(other - position)
        elif kind == 4:
            mutant[position:position] = mutant[position:other]
        else:
            mutant += rng.choice([mutant[:position], RECORDS[0]])
        if not mutant:
            break
    return bytes(mutant)


def outcome(parse, data: bytes):
    try:
        return comparable(parse(data))
    except RecordError:
        return RecordError


@pytest.mark.fuzz
def test_mutated_records_parse_alike_or_raise_record_error():
    rng = random.Random(20170305)
    plain = failed = 0
    num_cases = cases(20_000, quick=4_000)
    for _ in range(num_cases):
        data = mutated(rng.choice(RECORDS), rng)
        general = outcome(_parse_audioset, data)
        assert outcome(parse_audioset, data) == general
        failed += general is RecordError
        plain += general is not RecordError and _parse_plain(data) is not None
    assert plain > num_cases // 20, "the fast way was hardly met"
    assert 0.1 * num_cases < failed < 0.9 * num_cases


# YouTube-8M.

RGB = np.arange(2 * 1024).astype(np.uint8).reshape(2, 1024)
AUDIO = EMBEDDING[:2]


def test_youtube8m_frames():
    data = encode_sequence_example(
        {"id": b"eXbF", "labels": [3, 3861]},
        {"rgb": [row.tobytes() for row in RGB], "audio": [row.tobytes() for row in AUDIO]},
    )
    video = parse_youtube8m_frames(data)
    assert (video.id, video.labels) == ("eXbF", (3, 3861))
    np.testing.assert_array_equal(video.rgb, RGB)
    np.testing.assert_array_equal(video.audio, AUDIO)
    with pytest.raises(RecordError, match=r"Expected a feature `video_id`, found only \['id', 'la"):
        parse_audioset(data)


@pytest.mark.parametrize("lists", [{"rgb": []}, {"rgb": [bytes(1024)], "audio": [bytes(127)]}])
def test_invalid_youtube8m_frames(lists):
    with pytest.raises(RecordError, match="`audio`"):
        parse_youtube8m_frames(encode_sequence_example({"id": b"eXbF"}, lists))


def test_youtube8m_video():
    mean_rgb = np.linspace(-1, 1, 1024, dtype=np.float32)
    mean_audio = np.linspace(-2, 2, 128, dtype=np.float32)
    # An Example is encoded as a SequenceExample without lists, but for these two bytes.
    data = encode_sequence_example(
        {"id": b"eXbF", "labels": [], "mean_rgb": mean_rgb, "mean_audio": mean_audio}, {}
    ).removesuffix(encode_field(2, b""))
    video = parse_youtube8m_video(data)
    assert (video.id, video.labels) == ("eXbF", ())
    np.testing.assert_array_equal(video.mean_rgb, mean_rgb)
    np.testing.assert_array_equal(video.mean_audio, mean_audio)


@pytest.mark.parametrize("parse", [parse_youtube8m_frames, parse_youtube8m_video])
def test_youtube8m_of_no_message(parse):
    with pytest.raises(RecordError, match="Expected a protocol-buffer message, but field 1 claims"):
        parse(b"\n\x7f")


def test_invalid_youtube8m_video():
    data = encode_sequence_example({"id": b"eXbF", "mean_rgb": [0.5] * 128}, {})
    with pytest.raises(RecordError, match="`mean_rgb` to hold 1024 floats, got 512 bytes"):
        parse_youtube8m_video(data)
