"""Zips of audio files: what is listed, what is read, and what hostile ones cost."""

import io
import os
import random
import struct
import tracemalloc
import zipfile

import pytest
from file_server import FileServer
from fuzzing import cases

from vggish_hf.inputs import find_clips, zips
from vggish_hf.inputs.clip import MAX_CLIP_BYTES

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def content(number, size=2000):
    return random.Random(number).randbytes(size)


def zip_bytes(files, method=DEFLATED, *, streamed=False):
    class Stream(io.RawIOBase):
        """Where nothing can be sought: sizes and checksums come after each member."""

        def writable(self):
            return True

        def write(self, data):
            file.write(data)
            return len(data)

    file = io.BytesIO()
    with zipfile.ZipFile(Stream() if streamed else file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def clips_in(path, data):
    path.write_bytes(data)
    return find_clips(path)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_members(tmp_path, method, streamed):
    names = ["a.wav", "x/b.FLAC", "ü.ogg", "./c.mp3", "empty.wav"]
    files = {name: b"" if name == "empty.wav" else content(name) for name in names}
    others = {"a.json": b"{}", "x.wav/": b"", ".hidden.wav": b"1"}
    data = zip_bytes({**others, **files}, method, streamed=streamed)
    clips = clips_in(tmp_path / "s.zip", data)
    assert [clip.id for clip in clips] == [
        f"{tmp_path}/s.zip/{name.removeprefix('./')}" for name in names
    ]
    assert [clip.load() for clip in clips] == list(files.values())
    assert os.listdir(tmp_path) == ["s.zip"]
    assert {type(value) for value in (clips[0].member, clips[0].offset, clips[0].size)} == {
        str,
        int,
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_and_names_that_lead_out(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, name in enumerate(["a.wav", "../../up.wav", "a.wav", "/etc/x.wav"]):
            archive.writestr(zipfile.ZipInfo(name), b"%d" % number)
    clips = clips_in(tmp_path / "s.zip", file.getvalue())
    names = ["a.wav", "../../up.wav", "a.wav#2", "/etc/x.wav"]
    assert {clip.id: clip.load() for clip in clips} == {
        f"{tmp_path}/s.zip/{name}": b"%d" % number for number, name in enumerate(names)
    }


def test_a_link_is_no_clip(tmp_path):
    link = zipfile.ZipInfo("link.wav")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.wav", b"1")
    assert [clip.load() for clip in clips_in(tmp_path / "s.zip", file.getvalue())] == [b"1"]


def test_on_the_web(tmp_path):
    files = {f"{number}.wav": content(number, 1 << 20) for number in range(4)}
    with FileServer({"s.zip": zip_bytes(files, STORED)}) as server:
        clips = find_clips(f"{server.url}/s.zip?token=1")
        assert [clip.id for clip in clips] == [f"{server.url}/s.zip/{name}" for name in files]
        server.sent = 0
        assert clips[2].load() == files["2.wav"]
        assert server.sent < 2 << 20


def patched(data, *, flags=None, method=None, size=None):
    """The same zip with other values in both headers of its only member."""
    data = bytearray(data)
    for start, flags_at, method_at, size_at in (
        (data.index(b"PK\x03\x04"), 6, 8, 22),
        (data.index(b"PK\x01\x02"), 8, 10, 24),
    ):
        for at, kind, value in (
            (flags_at, "<H", flags),
            (method_at, "<H", method),
            (size_at, "<L", size),
        ):
            if value is not None:
                struct.pack_into(kind, data, start + at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flags": 1}, "is encrypted; unpack the zip"),
        ({"method": 12}, "stored or deflated, .* by another method, number 12; unpack the zip"),
        ({"method": 93}, "number 93"),
        ({"size": 100}, "unpacks to more than the 100 bytes that the zip declares"),
        ({"size": 3000}, "cut short: 2000 of 3000 bytes came"),
    ],
)
def test_members_that_cannot_be_read(tmp_path, changes, message):
    data = patched(zip_bytes({"a.wav": content(0)}), **changes)
    (clip,) = clips_in(tmp_path / "s.zip", data)
    with pytest.raises((ValueError, OSError), match=message):
        clip.load()


def test_one_bad_member_costs_no_other(tmp_path):
    data = bytearray(zip_bytes({"a.wav": content(0), "b.wav": content(1)}, STORED))
    data[data.index(content(0))] ^= 1
    first, second = clips_in(tmp_path / "s.zip", bytes(data))
    with pytest.raises(OSError, match=r"a\.wav' cannot be read: .* its checksum is another one"):
        first.load()
    assert second.load() == content(1)


def test_what_unpacks_to_a_lot_takes_no_memory(tmp_path):
    data = zip_bytes({"a.wav": bytes(64 << 20)})
    assert len(data) < 1 << 18
    clips = clips_in(tmp_path / "s.zip", data)
    clips += clips_in(tmp_path / "lie.zip", patched(data, size=1000))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"at most 1048576 bytes, .* has 67108864"):
        clips[0].load(1 << 20)
    with pytest.raises(OSError, match="unpacks to more than the 1000 bytes"):
        clips[1].load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    (forged,) = clips_in(tmp_path / "forged.zip", patched(data, size=0xFFFFFFF0))
    with pytest.raises(ValueError, match=f"at most {MAX_CLIP_BYTES} bytes"):
        forged.load()


def test_members_that_share_bytes(tmp_path):
    """As in the zips that unpack to petabytes."""
    data = bytearray(zip_bytes({"a.wav": content(0), "b.wav": content(1)}))
    entries = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", entries + 1)
    struct.pack_into("<L", data, second + 42, 10)
    first, second = clips_in(tmp_path / "s.zip", bytes(data))
    assert first.load() == content(0)
    with pytest.raises((ValueError, OSError), match=r"b\.wav' overlaps another|Overlap"):
        second.load()


def test_a_list_of_members_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "_MAX_DIRECTORY_BYTES", 1 << 17)
    data = zip_bytes({f"{number}.wav": b"" for number in range(3000)}, STORED)
    (clip,) = clips_in(tmp_path / "s.zip", data)
    assert "its list of members has" in clip.problem


@pytest.mark.parametrize("cut", [10, 1000, -1])
def test_damaged_zips(tmp_path, cut):
    (tmp_path / "a.wav").touch()
    (tmp_path / "s.zip").write_bytes(zip_bytes({"a.wav": content(0)})[:cut])
    whole, damaged = find_clips(tmp_path)
    assert whole.problem is None
    assert damaged.problem.startswith(f"'{tmp_path}/s.zip' cannot be read: BadZipFile: ")


@pytest.mark.fuzz
def test_damage_raises_what_is_announced(tmp_path):
    files = {f"{number}.wav": content(number, 300) for number in range(4)}
    whole = zip_bytes(files)
    rng = random.Random(0)
    read = refused = 0
    num_cases = cases(400, quick=80)
    for _ in range(num_cases):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            at = rng.randrange(len(data))
            data[at : at + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, b"", bytes(4)])
        (tmp_path / "s.zip").write_bytes(data)
        try:
            clips = find_clips(tmp_path / "s.zip")
        except ValueError:  # as its names have other endings
            refused += 1
            continue
        for clip in clips:
            try:
                read += clip.load(1 << 20) in files.values()
            except (OSError, ValueError):
                refused += 1
    assert read > num_cases // 2
    assert refused > num_cases // 4
