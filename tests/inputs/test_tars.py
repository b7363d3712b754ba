"""Archives as they are read, one header after the other; hostile and damaged ones."""

import io
import random
import struct
import tarfile

import pytest
from clip_sources import write_tar
from fuzzing import cases

from vggish_hf.inputs.tars import ARCHIVE_ERRORS, check_member, open_archive, read_members

FILES = {"a/one.bin": b"1" * 700, f"{'long' * 40}/two.bin": b"2" * 512, "empty.bin": b""}


def read(path, max_bytes=1 << 20):
    with open_archive(path) as file:
        return {m.name: content_of(file, m, max_bytes) for m in read_members(file) if m.isfile()}


def content_of(file, member, max_bytes=1 << 20):
    check_member(member, max_bytes)
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise tarfile.ReadError("cut short")
    return content


def archive_of(path, **fields):
    """An archive of one member with these fields, behind one that is plain."""
    member = tarfile.TarInfo("plain.bin")
    hostile = tarfile.TarInfo("hostile.bin")
    for name, value in fields.items():
        setattr(hostile, name, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(member)
        archive.addfile(hostile, io.BytesIO(bytes(hostile.size)))
    return path


def with_size(path, size):
    """The same archive with another size in the header of the second member."""
    data = bytearray(path.read_bytes())
    header = data[512:1024]
    # Base 256, which tar has for sizes beyond 8 GiB, and for negative ones.
    header[124:136] = (b"\x80\0\0\0" if size >= 0 else b"\xff" * 4) + struct.pack(">q", size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[512:1024] = header
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_reads_members(tmp_path, name):
    assert read(write_tar(tmp_path / name, FILES)) == FILES


def test_tells_gzip_by_content(tmp_path):
    path = write_tar(tmp_path / "x.tar.gz", FILES)
    assert read(path.rename(tmp_path / "x.tar")) == FILES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../hostile.bin"}, "leads out of the archive"),
        ({"name": "/etc/hostile.bin"}, "leads out of the archive"),
        ({"name": "a/../../hostile.bin"}, "leads out of the archive"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is not a plain file"),
        ({"type": tarfile.LNKTYPE, "linkname": "plain.bin"}, "is not a plain file"),
        ({"type": tarfile.FIFOTYPE}, "is not a plain file"),
        ({"type": tarfile.CHRTYPE}, "is not a plain file"),
        ({"size": 101}, "claims 101 bytes, at most 100 are read"),
    ],
)
def test_refuses_hostile_members(tmp_path, fields, message):
    path = archive_of(tmp_path / "x.tar", **fields)
    with open_archive(path) as file:
        members = read_members(file)
        assert content_of(file, next(members)) == b""
        with pytest.raises(tarfile.ReadError, match=message):
            check_member(next(members), 100)


def test_a_huge_member_costs_nothing(tmp_path):
    path = with_size(archive_of(tmp_path / "x.tar"), 1 << 62)
    with open_archive(path) as file:
        members = read_members(file)
        next(members)
        with pytest.raises(tarfile.ReadError, match=f"claims {1 << 62} bytes"):
            check_member(next(members), 1 << 30)


def test_a_negative_size_does_not_lead_back_for_ever(tmp_path):
    path = with_size(archive_of(tmp_path / "x.tar"), -1024)
    with pytest.raises(tarfile.ReadError, match="claims -1024 bytes"):
        read(path)


@pytest.mark.parametrize("size", [1 << 40, -1024])
def test_headers_of_a_forged_length_cost_nothing(tmp_path, size):
    path = archive_of(tmp_path / "x.tar", type=tarfile.GNUTYPE_LONGNAME)
    with pytest.raises(tarfile.ReadError, match=f"a header claims {size} bytes"):
        read(with_size(path, size))


def test_a_cut_archive_fails(tmp_path):
    path = write_tar(tmp_path / "x.tar", FILES)
    data = path.read_bytes()
    path.write_bytes(data[: 512 + 1024])  # behind the first member
    with pytest.raises(tarfile.ReadError, match="the block that ends it is missing"):
        read(path)
    path.write_bytes(data[: 512 + 300])  # inside it
    with pytest.raises(tarfile.ReadError, match="cut short"):
        read(path)


def test_a_damaged_header_fails(tmp_path):
    path = write_tar(tmp_path / "x.tar", FILES)
    data = bytearray(path.read_bytes())
    data[1536 + 148] ^= 1  # the checksum of the second member
    path.write_bytes(data)
    with pytest.raises(tarfile.ReadError, match="the block that ends it is missing"):
        read(path)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_damage_raises_what_is_announced(tmp_path, name):
    whole = write_tar(tmp_path / name, FILES).read_bytes()
    path = tmp_path / f"damaged-{name}"
    rng = random.Random(0)
    refused = 0
    num_cases = cases(2000, quick=400)
    for _ in range(num_cases):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3, 9])):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at + 1 : at + rng.randrange(2, 600)]
                case 2:
                    data[at:at] = rng.randbytes(9)
                case 3:
                    data[at : at + 8] = rng.choice(
                        [b"\xff" * 8, b"\x80" + b"\xff" * 7, b"77777777"]
                    )
        path.write_bytes(data)
        try:
            read(path)
        except ARCHIVE_ERRORS:
            refused += 1
    assert num_cases // 4 < refused < num_cases
