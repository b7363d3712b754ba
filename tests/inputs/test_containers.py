"""Clips of their own, in tars and in Parquet files: what is listed, and what is read."""

import io
import os
import pickle
import random
import sys
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import FileServer

from vggish_hf.audio import _worker
from vggish_hf.inputs import MAX_CLIP_BYTES, Clip, readable_id, tars
from vggish_hf.inputs.containers import list_container
from vggish_hf.inputs.stores import NoAudioError, StoredFile

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def content(number, size=2000):
    return random.Random(number).randbytes(size)


def member(name, data=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def write_tar(path, members, kind="pax"):
    with tarfile.open(path, "w", format=FORMATS[kind]) as archive:
        for info, data in members:
            archive.addfile(info, data)
    return stored(path)


def stored(path):
    return StoredFile(os.fspath(path), os.path.basename(path))


def clips_in(file):
    """The clips of a container, and the container itself where it has a problem."""
    contents = list_container(file)
    clips = [Clip(f"{file.name}/{label}", file.path, *m) for label, m in contents.members.items()]
    damaged = [Clip(file.name, file.path, problem=contents.problem)] * bool(contents.problem)
    return clips + damaged


def listed(file):
    """The clips without problems by id, and the problems."""
    clips = clips_in(file)
    problems = [clip.problem for clip in clips if clip.problem is not None]
    return {clip.id: clip for clip in clips if clip.problem is None}, problems


@pytest.mark.parametrize("kind", FORMATS)
def test_members_of_tars(tmp_path, kind):
    long = "/".join(["folder" * 6] * 4 + ["n" * 60 + ".wav"])  # ustar splits it at a slash
    names = ["a.wav", "x/b.FLAC", long, "./c.mp3", "ü.ogg", "empty.wav"]
    data = [b"" if name == "empty.wav" else content(name) for name in names]
    extra = [member("a.json", b"{}"), member("x", type=tarfile.DIRTYPE), member("wav", b"1")]
    pairs = [member(name, part) for name, part in zip(names, data, strict=True)]
    clips, problems = listed(write_tar(tmp_path / "s.tar", [*extra, *pairs], kind))
    assert list(clips) == [f"s.tar/{name.removeprefix('./')}" for name in names]
    assert [clip.load() for clip in clips.values()] == data
    assert not problems


def test_very_long_names(tmp_path):
    name = "n" * 500 + ".wav"
    for kind in ("gnu", "pax"):
        clips, _ = listed(write_tar(tmp_path / "s.tar", [member(name, b"1")], kind))
        assert clips[f"s.tar/{name}"].load() == b"1"


def test_members_of_one_name(tmp_path):
    """As `tar -r` and `tar -u` append them."""
    names = ["a.wav", "b.wav", "./a.wav", "a.wav"]
    members = [member(name, b"%d" % number) for number, name in enumerate(names)]
    clips, problems = listed(write_tar(tmp_path / "s.tar", members))
    ids = ["s.tar/a.wav", "s.tar/b.wav", "s.tar/a.wav#2", "s.tar/a.wav#3"]
    assert {name: clip.load() for name, clip in clips.items()} == dict(
        zip(ids, [b"0", b"1", b"2", b"3"], strict=True)
    )
    assert not problems


def test_hostile_members(tmp_path):
    """Names are ids and nothing else; only plain files that are not hidden are clips."""
    outside = tmp_path / "outside.wav"
    outside.write_bytes(b"secret")
    members = [
        member("/etc/absolute.wav", b"1"),
        member("../../up.wav", b"2"),
        member("link.wav", type=tarfile.SYMTYPE, linkname=str(outside)),
        member("hard.wav", type=tarfile.LNKTYPE, linkname="../../up.wav"),
        member("device.wav", type=tarfile.CHRTYPE),
        member("pipe.wav", type=tarfile.FIFOTYPE),
        member("folder.wav", type=tarfile.DIRTYPE),
        member("._a.wav", b"3"),
        member("__MACOSX/a.wav", b"3"),
        member("x/.hidden/a.wav", b"4"),
        member("../.hidden.wav", b"5"),
        member("last.wav", b"6"),
    ]
    clips, problems = listed(write_tar(tmp_path / "s.tar", members))
    ids = ["s.tar//etc/absolute.wav", "s.tar/../../up.wav", "s.tar/last.wav"]
    assert list(clips) == ids
    assert [clip.load() for clip in clips.values()] == [b"1", b"2", b"6"]
    assert not problems
    hidden = list_container(stored(tmp_path / "s.tar")).hidden
    assert hidden == ["x/.hidden/a.wav", "../.hidden.wav"]
    assert sorted(os.listdir(tmp_path)) == ["outside.wav", "s.tar"]


def test_sparse_members(tmp_path):
    header = tarfile.TarInfo("sparse.wav")
    header.size = 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:410] = b"%011o\0%011o\0" % (0, 512)  # one piece, behind it nothing but a hole
    block[483:495] = b"%011o\0" % (1 << 20)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    pax = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,4"}
    sparse = member("other.wav", b"1234", pax_headers={**pax, "GNU.sparse.size": "99"})
    file = write_tar(tmp_path / "s.tar", [sparse, member("a.wav", b"1")])
    (tmp_path / "s.tar").write_bytes(block + content(0, 512) + (tmp_path / "s.tar").read_bytes())
    with tarfile.open(tmp_path / "s.tar") as archive:
        assert [info.issparse() for info in archive] == [True, True, False]
    clips, problems = listed(file)
    assert list(clips) == ["s.tar/a.wav"]
    assert not problems


@pytest.mark.skipif(sys.platform != "linux", reason="other systems decode names otherwise")
def test_member_names_that_are_no_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    (clip,) = clips_in(write_tar(tmp_path / "s.tar", [member(name, b"1")], "gnu"))
    assert (clip.id, clip.member) == ("s.tar/caf\\xe9.wav", "caf\\xe9.wav")
    assert clip.id.encode()
    assert clip.load() == b"1"


class TestDamage:
    @pytest.fixture
    def archive(self, tmp_path):
        return write_tar(tmp_path / "s.tar", [member(f"{i}.wav", content(i)) for i in range(9)])

    def test_cut_short(self, archive):
        whole = listed(archive)[0]
        cut = whole["s.tar/5.wav"].offset + 100
        os.truncate(archive.path, cut)
        clips, problems = listed(archive)
        assert list(clips) == list(whole)[: len(clips)]
        assert [clips[f"s.tar/{i}.wav"].load() for i in range(5)] == [content(i) for i in range(5)]
        (problem,) = problems
        assert problem.startswith(
            "'s.tar' cannot be read: ReadError: Not a complete, uncompressed tar"
        )
        with pytest.raises(OSError, match=r"'s.tar/5.wav' is cut short: 100 of 2000 bytes came"):
            whole["s.tar/5.wav"].load()

    def test_in_the_middle(self, archive):
        offset = listed(archive)[0]["s.tar/5.wav"].offset - 512
        with open(archive.path, "r+b") as file:
            file.seek(offset)
            file.write(b"\xff" * 512)
        clips, problems = listed(archive)
        assert list(clips) == [f"s.tar/{i}.wav" for i in range(5)]
        assert len(problems) == 1

    @pytest.mark.parametrize("data", [b"", b"no tar" * 1000])
    def test_no_tar(self, tmp_path, data):
        (tmp_path / "s.tar").write_bytes(data)
        clips, problems = listed(stored(tmp_path / "s.tar"))
        assert not clips
        assert len(problems) == 1

    @pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz"])
    def test_compressed(self, tmp_path, name):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            for number in range(9):
                archive.addfile(*member(f"{number}.wav", content(number)))
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        clips, (problem,) = listed(stored(tmp_path / name))
        assert 0 < len(clips) < 9
        assert next(iter(clips.values())).load() == content(0)
        assert "Not a complete tar, gzipped: Compressed file ended before" in problem

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
    @pytest.mark.parametrize("name", ["s.tar", "s.parquet"])
    def test_not_there_or_no_file(self, tmp_path, name):
        (clip,) = clips_in(stored(tmp_path / name))
        with pytest.raises(ValueError, match=f"No such file: '{name}'"):
            clip.load()
        os.mkfifo(tmp_path / name)
        assert listed(stored(tmp_path / name))[1] == [clip.problem]

    def test_damaged_tables(self, tmp_path):
        (tmp_path / "s.parquet").write_bytes(b"PAR1")
        ((problem,)) = listed(stored(tmp_path / "s.parquet"))[1]
        assert problem.startswith("'s.parquet' cannot be read: ArrowInvalid: ")


def test_a_forged_size(tmp_path):
    """A header that claims a terabyte is an error, and takes no memory."""
    info, _ = member("a.wav")
    info.size = 1 << 40
    (tmp_path / "s.tar").write_bytes(info.tobuf() + content(0))
    clips, problems = listed(stored(tmp_path / "s.tar"))
    assert len(problems) == 1
    with pytest.raises(
        ValueError, match=r"at most 1073741824 bytes, 's.tar/a.wav' has 1099511627776"
    ):
        clips["s.tar/a.wav"].load()
    with pytest.raises(OSError, match="is cut short: 2000 of 1099511627776 bytes"):
        clips["s.tar/a.wav"].load(1 << 41)


def test_a_process_that_decodes_has_room_for_the_largest_clip():
    """Twice, as it came through the pipe and as a file, and for what decodes it."""
    assert 2 * MAX_CLIP_BYTES + (1 << 30) <= _worker._MAX_MEMORY_BYTES


def test_containers_without_audio(tmp_path):
    with pytest.raises(NoAudioError, match=r"No audio found in 's.tar'"):
        list_container(write_tar(tmp_path / "s.tar", [member("a.json", b"{}")]))
    pq.write_table(pa.table({"id": [1]}), tmp_path / "s.parquet")
    with pytest.raises(NoAudioError, match=r"Expected one column of audio: .* has id: int64"):
        list_container(stored(tmp_path / "s.parquet"))


def test_rows(tmp_path):
    pq.write_table(pa.table({"id": ["x", "y"], "wav": [b"1", b"22"]}), tmp_path / "s.parquet")
    clips = clips_in(stored(tmp_path / "s.parquet"))
    path = str(tmp_path / "s.parquet")
    assert clips == [Clip("s.parquet/x", path, "x", 0), Clip("s.parquet/y", path, "y", 1)]
    assert [clip.load() for clip in clips] == [b"1", b"22"]
    with pytest.raises(ValueError, match=r"at most 1 bytes, 's.parquet/y, row 1' has 2"):
        clips[1].load(max_bytes=1)


def test_a_member_of_a_file_that_is_no_container():
    with pytest.raises(ValueError, match=r"'a/b' is in a file of another kind"):
        Clip("a/b", "a.wav", "b", 0, 1).load()


def test_local_files_are_not_read():
    assert Clip("a.wav", "gone/a.wav").load() == "gone/a.wav"


@pytest.fixture
def clips(tmp_path):
    """A tar and a Parquet file of thirty clips each, and what they hold."""
    data = [content(number) for number in range(30)]
    tar = write_tar(tmp_path / "s.tar", [member(f"{i}.wav", part) for i, part in enumerate(data)])
    pq.write_table(pa.table({"wav": data}), tmp_path / "s.parquet", row_group_size=7)
    return clips_in(tar) + clips_in(stored(tmp_path / "s.parquet")), data * 2


@pytest.mark.slow
def test_threads_and_processes(clips):
    clips, data = clips
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(Clip.load, clips)) == data
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert list(pool.map(Clip.load, clips, chunksize=20)) == data


def test_they_are_small_and_plain(clips):
    for clip in clips[0]:
        assert pickle.loads(pickle.dumps(clip)) == clip
        assert {type(getattr(clip, name)) for name in Clip.__slots__} <= {str, int, type(None)}


def test_a_member_on_the_web_takes_no_more_than_it_has(tmp_path):
    data = [content(number, 3 << 20) for number in range(4)]
    write_tar(tmp_path / "s.tar", [member(f"{i}.wav", part) for i, part in enumerate(data)])
    with FileServer({"s.tar": (tmp_path / "s.tar").read_bytes()}) as server:
        url = f"{server.url}/s.tar"
        clips = clips_in(StoredFile(url, url))
        assert [clip.id for clip in clips] == [f"{url}/{i}.wav" for i in range(4)]
        assert server.sent < 6 << 20  # of twelve: a MiB for each header, and the end
        server.sent = 0
        assert clips[2].load() == data[2]
        assert server.sent == 3 << 20
        server.has_ranges = False
        assert "cannot be read" in clips_in(StoredFile(url, url))[-1].problem


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_ids_are_text():
    assert readable_id("Ünï/cödé.wav") == "Ünï/cödé.wav"
    assert readable_id(os.fsdecode(b"\xff.wav")) == "\\xff.wav"


LITTER = ("._a.wav", "__MACOSX/x/a.wav", "x/.ipynb_checkpoints/a.wav", "x/Thumbs.db", ".DS_Store")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip", "parquet"])
def test_litter_in_all_kinds(tmp_path, ending):
    path = tmp_path / f"s.{ending}"
    files = dict.fromkeys((*LITTER, "x/a.wav"), b"1")
    if ending == "parquet":
        pq.write_table(pa.table({"path": list(files), "wav": list(files.values())}), path)
    elif ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w") as archive:
            for name, data in files.items():
                archive.addfile(*member(name, data))
    contents = list_container(stored(path))
    assert list(contents.members) == ["x/a.wav"]
    assert (contents.hidden, contents.problem) == ([], None)


def test_a_name_that_an_earlier_copy_was_given(tmp_path):
    ids = ["a", "a", "a#2", "a", "a#2"]
    pq.write_table(pa.table({"id": ids, "wav": [b"1"] * 5}), tmp_path / "s.parquet")
    assert list(list_container(stored(tmp_path / "s.parquet")).members) == [
        *("a", "a#2", "a#2#2", "a#3", "a#2#3"),
    ]


def test_threads_read_a_gzipped_tar_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_BLOCK_BYTES", 3000)
    monkeypatch.setattr(tars, "_RECENT_BLOCKS", 3)
    data = [content(number) for number in range(60)]
    with tarfile.open(tmp_path / "s.tgz", "w:gz") as archive:
        for number, part in enumerate(data):
            archive.addfile(*member(f"{number}.wav", part))
    clips = clips_in(stored(tmp_path / "s.tgz"))
    order = random.Random(0).sample(range(60), 60)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: clips[i].load(), order)) == [data[i] for i in order]
    with pytest.raises(ValueError, match="at most 10 bytes"):
        clips[0].load(10)


def test_a_gzipped_tar_on_the_web(tmp_path):
    with tarfile.open(tmp_path / "s.tgz", "w:gz") as archive:
        for number in range(3):
            archive.addfile(*member(f"{number}.wav", content(number)))
    with FileServer({"s.tgz": (tmp_path / "s.tgz").read_bytes()}) as server:
        clips = clips_in(StoredFile(f"{server.url}/s.tgz", "s.tgz"))
        assert [clip.load() for clip in clips] == [content(number) for number in range(3)]


def packed(kind):
    data = {"zip": b"PK\x05\x06" + bytes(18), "html": b"\n<!DOCTYPE html><html>"}
    if kind in data:
        return data[kind]
    if kind in ("gz", "xz", "bz2", ""):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
            archive.addfile(*member("a.wav", content(0)))
        return file.getvalue()
    return pq_bytes()


def pq_bytes():
    file = io.BytesIO()
    pq.write_table(pa.table({"wav": [b"1"]}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("s.tar", "zip", "is a zip without members; name it .zip"),
        ("s.tar", "gz", "is compressed by gzip; name it .tar.gz"),
        ("s.tar", "xz", "is compressed by xz; unpack it first"),
        ("s.tar", "bz2", "is compressed by bzip2; unpack it first"),
        ("s.tar", "parquet", "is a Parquet file; name it .parquet"),
        ("s.tar.gz", "xz", "is compressed by xz; unpack it first"),
        ("s.tgz", "", "is an uncompressed tar; name it .tar"),
        ("s.zip", "", "is an uncompressed tar; name it .tar"),
        ("s.zip", "html", "is a web page; download the file itself"),
        ("s.parquet", "gz", "is compressed by gzip; name it .tar.gz"),
    ],
)
def test_what_is_named_as_another_kind(tmp_path, name, kind, message):
    (tmp_path / name).write_bytes(packed(kind))
    _, (problem,) = listed(stored(tmp_path / name))
    ending = name[1:]
    assert problem == f"Expected a {ending} file, {name!r} {message}"
