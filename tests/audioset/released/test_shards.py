import gzip
import io
import os
import random
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from folders import TESTS
from fuzzing import cases
from hypothesis import given
from hypothesis import strategies as st

from vggish_hf.audioset.released.shards import (
    Shard,
    ShardOpener,
    digest_shards,
    find_shards,
    group_shards,
    is_gzipped,
)
from vggish_hf.tf_files.records import RecordError, RecordReader

RELEASED = TESTS / "data" / "audioset"


def write_tar(path, members, mode="w"):
    """Write an archive of contents, or of ready TarInfo without content, by name."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def special(**attributes):
    member = tarfile.TarInfo()
    for name, value in attributes.items():
        setattr(member, name, value)
    return member


def read_all(source):
    """The names and contents of the shards of each split."""
    with ShardOpener() as opener:
        found = {}
        for split, shards in find_shards(source).items():
            found[split] = []
            for shard in shards:
                with opener.open(shard) as file:
                    found[split].append((Path(shard.name).name, file.read()))
    return found


@pytest.fixture(params=["w", "w:gz"], ids=["tar", "tar.gz"])
def archive(request, tmp_path):
    """The released files of the tests, in one archive, in the order of their names."""
    path = tmp_path / "features.tar"
    with tarfile.open(path, request.param) as archive:
        for file in sorted(RELEASED.rglob("*.tfrecord")):
            archive.add(file, f"audioset_v1_embeddings/{file.relative_to(RELEASED)}")
        archive.addfile(special(name="audioset_v1_embeddings/test", type=tarfile.DIRTYPE))
    return path


def test_a_folder():
    found = read_all(RELEASED)
    assert list(found) == ["bal_train", "eval"]
    expected = sorted((RELEASED / "bal_train").iterdir())
    assert found["bal_train"] == [(path.name, path.read_bytes()) for path in expected]
    assert len(found["bal_train"]) == 3


def test_the_folder_of_one_split(monkeypatch):
    expected = {"eval": read_all(RELEASED)["eval"]}
    assert read_all(RELEASED / "eval") == expected
    monkeypatch.chdir(RELEASED / "eval")
    assert read_all(".") == expected


def test_an_archive_has_what_the_folder_has(archive):
    assert read_all(archive) == read_all(RELEASED)
    in_archive, in_folder = find_shards(archive), find_shards(RELEASED)
    for split, shards in in_folder.items():
        assert digest_shards(in_archive[split]) == digest_shards(shards)


def test_records_of_an_archive(archive):
    (shard,) = find_shards(archive)["eval"]
    with ShardOpener() as opener, opener.open(shard) as file:
        assert file.name == f"{archive}/audioset_v1_embeddings/eval/8_.tfrecord"
        assert list(RecordReader(file)) == list(RecordReader(RELEASED / "eval" / "8_.tfrecord"))


def test_only_what_is_gzipped_must_be_read_in_order(archive):
    with open(archive, "rb") as file:
        expected = file.read(2) == b"\x1f\x8b"
    assert [is_gzipped(shard) for shard in find_shards(archive)["bal_train"]] == [expected] * 3
    assert not is_gzipped(find_shards(RELEASED)["eval"][0])


def test_names_that_differ_in_case_alone(tmp_path):
    members = {"eval/5v.tfrecord": b"lower", "eval/5V.tfrecord": b"upper"}
    found = read_all(write_tar(tmp_path / "a.tar", members))
    assert found == {"eval": [("5v.tfrecord", b"lower"), ("5V.tfrecord", b"upper")]}
    assert os.listdir(tmp_path) == ["a.tar"]


def test_what_is_no_shard_is_left_alone(tmp_path):
    members = {
        "eval/00.tfrecord": b"yes",
        "eval/00.txt": b"no",
        "test/00.tfrecord": b"no",
        "00.tfrecord": b"no",
        "eval/deeper/00.tfrecord": b"no",
    }
    assert read_all(write_tar(tmp_path / "a.tar", members)) == {"eval": [("00.tfrecord", b"yes")]}
    for name, content in members.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    assert read_all(tmp_path / "folder") == {"eval": [("00.tfrecord", b"yes")]}


def test_of_two_members_with_one_name_the_later_counts(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, {"eval/a.tfrecord": b"old", "eval/b.tfrecord": b"b"})
    write_tar(path, {"./eval/a.tfrecord": b"new"}, "a")
    assert read_all(path) == {"eval": [("b.tfrecord", b"b"), ("a.tfrecord", b"new")]}


@pytest.mark.parametrize(
    ("name", "member", "message"),
    [
        ("../eval/a.tfrecord", b"", "leads out"),
        ("eval/../../a.tfrecord", b"", "leads out"),
        ("/eval/a.tfrecord", b"", "leads out"),
        ("../elsewhere.txt", b"", "leads out"),
        ("eval/a.tfrecord", special(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a plain"),
        ("eval/a.tfrecord", special(type=tarfile.LNKTYPE, linkname="eval/b"), "not a plain"),
        ("eval/a.tfrecord", special(type=tarfile.CHRTYPE), "not a plain"),
        ("eval/a.tfrecord", special(type=tarfile.FIFOTYPE), "not a plain"),
        ("eval/a.tfrecord", special(size=1 << 62), "claims 4611686018427387904 bytes"),
        ("eval/a.tfrecord", special(size=-512), "claims -512 bytes"),
        ("a", special(type=tarfile.GNUTYPE_LONGNAME, size=1 << 62), "a header claims"),
        ("a", special(type=tarfile.XHDTYPE, size=-512), "a header claims"),
        ("eval/a.tfrecord", special(size=4096), "unexpected end of data"),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_hostile_archive_is_refused(tmp_path, name, member, message, compress):
    header = special(name=name)
    if isinstance(member, tarfile.TarInfo):
        header = member
        header.name = name
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    path = tmp_path / "a.tar"
    path.write_bytes(compress(data))
    with pytest.raises(RecordError, match=message):
        find_shards(path)


def test_a_damaged_archive_is_refused(archive):
    whole = archive.read_bytes()
    end = len(whole) - (0 if whole[:2] == b"\x1f\x8b" else tarfile.RECORDSIZE)
    for size in range(1, end, 997):
        archive.write_bytes(whole[:size])
        with pytest.raises(RecordError, match=f"Expected a folder, .tar or .tar.gz, {archive}: "):
            find_shards(archive)


def test_a_damaged_header_is_no_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"eval/a.tfrecord": b"", "eval/b.tfrecord": b""})
    data = bytearray(path.read_bytes())
    data[tarfile.BLOCKSIZE] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match="the block that ends it is missing"):
        find_shards(path)


@pytest.mark.fuzz
def test_any_damage_raises_an_error_of_ours(archive):
    whole = archive.read_bytes()
    random_ = random.Random(0)
    refused = 0
    num_cases = cases(500, quick=100)
    for _ in range(num_cases):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        archive.write_bytes(data)
        try:
            for shards in find_shards(archive).values():
                with ShardOpener() as opener:
                    for shard in shards:
                        with opener.open(shard) as file:
                            list(RecordReader(file, errors="skip"))
        except ValueError:
            refused += 1
    assert 0 < refused < num_cases


def test_nothing_found(tmp_path):
    with pytest.raises(
        ValueError, match=r"\*.tfrecord found in folders named bal_train, eval, unbal"
    ):
        find_shards(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        find_shards(tmp_path / "missing.tar")


def test_a_broken_link_is_not_skipped(tmp_path):
    shutil.copytree(RELEASED, tmp_path / "data")
    (tmp_path / "data" / "eval" / "link.tfrecord").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"link\.tfrecord"):
        find_shards(tmp_path / "data")


def test_the_digest_tells_changes(tmp_path):
    shutil.copytree(RELEASED, tmp_path / "data")
    path = tmp_path / "data" / "eval" / "8_.tfrecord"

    def digest(split="eval"):
        return digest_shards(find_shards(tmp_path / "data")[split])

    before = digest()
    assert digest() == before
    os.utime(path, (0, 0))
    touched = digest()
    path.write_bytes(path.read_bytes() * 2)
    os.utime(path, (0, 0))
    longer = digest()
    path = path.rename(path.with_name("9_.tfrecord"))
    renamed = digest()
    path.parent.rename(tmp_path / "data" / "unbal_train")
    assert len({before, touched, longer, renamed, digest("unbal_train")}) == 5


@given(st.lists(st.integers(0, 20)), st.integers(0, 30))
def test_groups(sizes, group_bytes):
    shards = [Shard(Path(str(i)), None, 0, size, 0) for i, size in enumerate(sizes)]
    groups = group_shards(shards, group_bytes)
    assert [shard for group in groups for shard in group] == shards
    for group in groups:
        assert len(group) == 1 or sum(shard.size for shard in group) <= group_bytes
    for group, following in pairwise(groups):
        assert sum(shard.size for shard in group) + following[0].size > group_bytes


def test_a_folder_of_archives(tmp_path):
    write_tar(tmp_path / "bal_train.tar", {"5v.tfrecord": b"1", "__MACOSX/._5v.tfrecord": b""})
    write_tar(tmp_path / "eval.tar.gz", {"eval/8_.tfrecord": b"2"}, "w:gz")
    (tmp_path / "._eval.tar").write_bytes(b"")
    shards = find_shards(tmp_path)
    assert {split: [shard.member for shard in found] for split, found in shards.items()} == {
        "bal_train": ["5v.tfrecord"],
        "eval": ["eval/8_.tfrecord"],
    }


def test_litter_beside_the_files(tmp_path):
    (tmp_path / "eval").mkdir()
    for name in ("8_.tfrecord", "._8_.tfrecord"):
        (tmp_path / "eval" / name).touch()
    assert [shard.path.name for shard in find_shards(tmp_path)["eval"]] == ["8_.tfrecord"]
