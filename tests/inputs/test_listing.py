"""What names, folders, globs, lists, archives and URLs mean."""

import glob
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import FileServer
from folders import TESTS

from vggish_hf.audio import load_audio
from vggish_hf.inputs import Clip, find_clips

WAV = TESTS / "data" / "audio_cases" / "harritaylor__test.wav"
OUTSIDE, EMPTY = "a link that leads out of its folder", "an archive without audio"
OTHER = "an archive of a kind that is not read"


@pytest.fixture
def files(tmp_path):
    for name in ("b.wav", "a.MP3", "notes.md", "sub/c.flac", "sub/deeper/d.m4a"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


@pytest.fixture
def find():
    """The paths of the clips."""
    return lambda arguments: paths(find_clips(arguments))


@pytest.fixture
def skipped():
    """What was passed over, with a handler that is called with it."""
    return []


def paths(clips):
    assert all(clip.member is None and clip.problem is None for clip in clips)
    return [clip.path for clip in clips]


def tar_bytes(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    return file.getvalue()


def parquet_bytes(columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


TAR = tar_bytes(["x/1.wav", "x/1.json", "2.flac"])
TABLE = parquet_bytes({"id": ["one", "two"], "flac": [b"one", b"two"]})


def test_folders_globs_lists_and_names(files, find):
    names = [str(files / name) for name in ("a.MP3", "b.wav", "sub/c.flac", "sub/deeper/d.m4a")]
    assert find([str(files)]) == names
    assert find([str(files / "**" / "*.flac"), str(files / "?.wav")]) == names[2:0:-1]
    (files / "list.txt").write_text(f"gone.wav\n\n  {names[1]}\n", encoding="utf-8")
    assert find([str(files / "list.txt"), names[1], "x"]) == ["gone.wav", names[1], "x"]


def test_links_to_folders_are_not_followed(files, find):
    (files / "sub" / "around").symlink_to(files)
    assert len(find([str(files)])) == 4


GLOBS = ["**/*.wav", "./**/x/*.wav", "**", "x/**/*.wav", "*/**/x/**/a.*", "**/.h/*.wav", "[xy]/**"]
GLOBS += ["**/**/a.wav", "x/*/a.wav", "**/y/**/", "x//**//a.wav", "**/.*", "**/*a.wav", "**/?.wav"]


@pytest.mark.parametrize("pattern", GLOBS)
def test_globs_find_what_pythons_do(pattern, find, tmp_path, monkeypatch):
    for name in ("a.wav", "x/a.wav", "x/y/a.wav", "x/y/x/b.wav", "y/x/a.wav", "y/.h/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x" / ".a.wav").touch()
    monkeypatch.chdir(tmp_path)
    found = set(find([pattern]))
    assert {os.path.normpath(path) for path in found} == {
        os.path.normpath(path)
        for path in glob.glob(pattern.rstrip("/"), recursive=True)
        if os.path.isfile(path)
    }
    assert all(path.startswith("./") == pattern.startswith("./") for path in found)


def test_lists_with_a_byte_order_mark(files, find):
    (files / "list.txt").write_bytes("a.wav\r\nü.wav\r\n".encode("utf-8-sig"))
    assert find([str(files / "list.txt")]) == ["a.wav", "ü.wav"]


def test_arguments_that_name_nothing(files, find):
    (files / "empty").mkdir()
    for argument in (files / "empty", files / "*.ogg"):
        with pytest.raises(ValueError, match=r"No audio files found in "):
            find([str(files / "b.wav"), str(argument)])
    (files / "list.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="Not a list of paths in UTF-8"):
        find([str(files / "list.txt")])


@pytest.mark.slow
def test_twenty_thousand_files(tmp_path):
    for folder in range(20):
        (tmp_path / f"{folder:02}").mkdir()
        for number in range(1000):
            (tmp_path / f"{folder:02}" / f"{number:03}.wav").touch()
    clips = find_clips([str(tmp_path), f"{tmp_path}/*/*.wav"])
    names = [str(path) for path in sorted(tmp_path.glob("*/*"))]
    assert paths(clips) == [clip.id for clip in clips] == names
    assert len(names) == 20_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_utf_8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    Path(name).touch()
    (clip,) = find_clips([str(tmp_path)])
    assert clip == Clip(f"{tmp_path}/\\xff.wav", name)
    assert os.path.isfile(clip.load())


class TestLinks:
    @pytest.fixture
    def linked(self, files):
        outside = files.parent / "outside"
        outside.mkdir()
        (outside / "e.wav").touch()
        (files / "again.wav").symlink_to(files / "b.wav")
        (files / "near.wav").symlink_to("../in/sub/c.flac")
        (files / "out.wav").symlink_to(outside / "e.wav")
        (files / "dangling.wav").symlink_to(files / "gone.wav")
        (files / "sub" / "folder").symlink_to(outside)
        (files / "sub" / "within").symlink_to(files / "sub" / "deeper")
        (files / "sub" / "around").symlink_to(files)
        return files

    def test_those_that_stay_inside_are_read(self, linked, skipped):
        clips = find_clips([str(linked)], on_skip=lambda *skip: skipped.append(skip))
        names = [os.path.relpath(path, linked) for path in paths(clips)]
        inside = ["again.wav", "b.wav", "dangling.wav", "near.wav"]
        assert names == ["a.MP3", *inside, "sub/c.flac", "sub/deeper/d.m4a"]
        outside = [str(linked / name) for name in ("out.wav", "sub/folder")]
        assert sorted(skipped) == [(name, OUTSIDE) for name in outside]

    def test_a_folder_beside_it_with_a_longer_name(self, files):
        (files.parent / "inside").mkdir()
        (files.parent / "inside" / "e.wav").touch()
        (files / "out.wav").symlink_to(files.parent / "inside" / "e.wav")
        assert len(find_clips([str(files)])) == 4

    def test_all_are_followed_where_that_is_wished(self, linked, skipped):
        clips = find_clips(
            [str(linked)], follow_symlinks=True, on_skip=lambda *skip: skipped.append(skip)
        )
        names = [os.path.relpath(path, linked) for path in paths(clips)]
        assert {"out.wav", "sub/folder/e.wav"} <= set(names)
        assert len(names) == len(set(names)) == 9  # and the links that lead around, not for ever
        assert not skipped

    def test_those_that_are_named_are_followed(self, linked, skipped):
        arguments = [str(linked / name) for name in ("out.wav", "sub/folder", "sub/folder/*.wav")]
        clips = find_clips(arguments, on_skip=lambda *skip: skipped.append(skip))
        assert paths(clips) == [str(linked / name) for name in ("out.wav", "sub/folder/e.wav")]
        assert not skipped

    @pytest.mark.parametrize("glob", ["**/*", "**"])
    def test_any_folders_of_a_glob_are_those_of_a_folder(self, linked, skipped, glob):
        clips = find_clips([str(linked / glob)], on_skip=lambda *skip: skipped.append(skip))
        names = {os.path.relpath(path, linked) for path in paths(clips)}
        inside = {"again.wav", "b.wav", "near.wav", "a.MP3", "notes.md"}  # and none that dangle
        assert names == {*inside, "sub/c.flac", "sub/deeper/d.m4a"}
        outside = [str(linked / name) for name in ("out.wav", "sub/folder")]
        assert sorted(skipped) == [(name, OUTSIDE) for name in outside]

    def test_globs_without_any_folders(self, linked, skipped):
        patterns = [str(linked / "*.wav"), str(linked / "*" / "*" / "?.*")]
        clips = find_clips(patterns, on_skip=lambda *skip: skipped.append(skip))
        names = [os.path.relpath(path, linked) for path in paths(clips)]
        assert names == ["again.wav", "b.wav", "near.wav", "sub/deeper/d.m4a"]
        outside = [str(linked / name) for name in ("out.wav", "sub/folder")]
        assert skipped == [(name, OUTSIDE) for name in outside]

    def test_globs_follow_all_where_that_is_wished(self, linked, skipped):
        patterns = [str(linked / "**" / "*.wav"), str(linked / "s*" / "*" / "*.wav")]
        clips = find_clips(
            patterns, follow_symlinks=True, on_skip=lambda *skip: skipped.append(skip)
        )
        names = {os.path.relpath(path, linked) for path in paths(clips)}
        assert names >= {"out.wav", "sub/folder/e.wav", "sub/around/b.wav"}
        assert len(names) < 15
        assert not skipped

    @pytest.mark.parametrize("follow", [False, True])
    def test_links_around_do_not_explode(self, files, follow):
        for name in ("one", "two", "three"):
            (files / name).symlink_to(".")
        assert len(find_clips([str(files / "**" / "*.wav")], follow_symlinks=follow)) == 1


class TestContainers:
    def test_in_a_folder_and_by_name(self, files, skipped):
        (files / "shard.tar").write_bytes(TAR)
        (files / "sub" / "rows.PARQUET").write_bytes(TABLE)
        (files / "embeddings.parquet").write_bytes(parquet_bytes({"id": ["a"]}))
        (files / "texts.tar").write_bytes(tar_bytes(["a.txt"]))
        clips = find_clips([str(files)], on_skip=lambda *skip: skipped.append(skip))
        names = ["a.MP3", "b.wav", "shard.tar/x/1.wav", "shard.tar/2.flac", "sub/c.flac"]
        names += ["sub/rows.PARQUET/one", "sub/rows.PARQUET/two", "sub/deeper/d.m4a"]
        assert [clip.id for clip in clips] == [f"{files}/{name}" for name in names]
        contents = [clip.load() for clip in clips if clip.member]
        assert contents == [b"x/1.wav", b"2.flac", b"one", b"two"]
        passed_over = [(str(files / f), EMPTY) for f in ("embeddings.parquet", "texts.tar")]
        assert skipped == passed_over
        (files / "list.txt").write_text(f"file://{files}/shard.tar\n", encoding="utf-8")
        named = [str(files / name) for name in ("sub/*.PARQUET", "list.txt", "shard.tar")]
        assert [clip.id for clip in find_clips(named)] == [
            f"{files}/{name}" for name in (*names[5:7], *names[2:4])
        ]

    def test_damage_costs_no_other_clip(self, files):
        (files / "cut.tar").write_bytes(TAR[:1000])
        (files / "cut.parquet").write_bytes(TABLE[:100])
        clips = find_clips([str(files)])
        problems = [clip for clip in clips if clip.problem is not None]
        assert [clip.id for clip in problems] == [f"{files}/cut.parquet", f"{files}/cut.tar"]
        assert len(clips) == 4 + 2 + 1  # the tar's first member is whole
        with pytest.raises(ValueError, match=r"cut\.parquet' cannot be read"):
            problems[0].load()

    def test_compressed_archives(self, files, skipped):
        for name, mode in (("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar.xz", "w:xz")):
            with tarfile.open(files / name, mode) as archive:
                archive.addfile(tarfile.TarInfo("a.wav"))
        (files / "s.rar").touch()
        store = fsspec.filesystem("memory")
        store.put(str(files), "/z", recursive=True)
        for folder in (str(files), "memory:///z"):
            clips = find_clips(folder, on_skip=lambda *skip: skipped.append(skip))
            ids = {clip.id for clip in clips}
            assert {f"{folder}/s.tar.gz/a.wav", f"{folder}/s.tgz/a.wav"} <= ids
            assert len(clips) == 6
            assert skipped == [(f"{folder}/{name}", OTHER) for name in ("s.rar", "s.tar.xz")]
            skipped.clear()
            (clip,) = find_clips(f"{folder}/s.tar.xz")
            with pytest.raises(ValueError, match=r"got the \.tar\.xz file .*; unpack it first"):
                clip.load()
        store.store.clear()

    def test_without_audio(self, files):
        table = files / "e.parquet"
        table.write_bytes(parquet_bytes({"id": ["a"], "score": [1]}))
        (clip,) = find_clips([str(table)])
        with pytest.raises(ValueError, match=r"has id: string, score: int64"):
            clip.load()
        with pytest.raises(ValueError, match=r"No audio files found in "):
            find_clips([str(files / "b.wav"), self.folder_of(table)])

    @staticmethod
    def folder_of(table):
        folder = table.parent / "tables"
        folder.mkdir()
        table.rename(folder / table.name)
        return str(folder)

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
    def test_folders_that_cannot_be_searched(self, files):
        folder = os.open(files, os.O_RDONLY)
        for _ in range(20):  # deeper than a path may be long
            os.mkdir("n" * 250, dir_fd=folder)
            inner = os.open("n" * 250, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inner
        os.close(folder)
        problem, *_ = clips = find_clips([str(files)])
        assert len(clips) == 5
        assert problem.id.endswith("n" * 250)
        with pytest.raises(ValueError, match=r"Expected a folder: .* File name too long"):
            problem.load()

    def test_folders_named_as_archives(self, files):
        (files / "rows.parquet").mkdir()
        (files / "rows.parquet" / "part-0.parquet").write_bytes(TABLE)
        clips = find_clips([str(files / "rows.parquet")])
        assert [os.path.basename(clip.id) for clip in clips] == ["one", "two"]


LITTER = [
    "._a.wav",
    "__MACOSX/a.wav",
    "sub/__macosx/._b.wav",
    ".ipynb_checkpoints/a-checkpoint.wav",
]
LITTER += [".DS_Store", "sub/Thumbs.db", "._shard.tar"]
HIDDEN = [".hidden.wav", ".cache/c.wav", "sub/.x/y/z.wav", ".s.tar"]


class TestLitterAndHiddenFiles:
    @pytest.fixture
    def littered(self, files):
        for name in (*LITTER, *HIDDEN, ".git/config", ".notes"):
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (files / name).touch()
        return files

    def test_in_a_folder(self, littered, skipped):
        clips = find_clips(littered, on_skip=lambda *skip: skipped.append(skip))
        assert [os.path.relpath(path, littered) for path in paths(clips)] == [
            *("a.MP3", "b.wav", "sub/c.flac", "sub/deeper/d.m4a")
        ]
        files = [(str(littered / name), "a hidden file") for name in (".hidden.wav", ".s.tar")]
        folders = [str(littered / name) for name in (".cache", ".git", "sub/.x")]
        assert sorted(skipped) == sorted(files + [(name, "a hidden folder") for name in folders])

    def test_in_a_store(self, littered, skipped):
        store = fsspec.filesystem("memory")
        store.put(f"{littered}/", "/z/", recursive=True)
        clips = find_clips("memory://z", on_skip=lambda *skip: skipped.append(skip))
        assert len(paths(clips)) == 4
        assert sorted(skipped) == sorted(
            (f"memory:///z/{name}", "a hidden file") for name in HIDDEN
        )
        assert [clip.id for clip in find_clips("memory://z/**/*.wav")] == ["memory:///z/b.wav"]
        assert len(find_clips("memory://z/**/.h*.wav")) == 1
        (clip,) = find_clips("memory://z/__MACOSX/*.wav")
        assert clip.id == "memory:///z/__MACOSX/a.wav"
        store.store.clear()

    def test_in_globs(self, littered):
        for pattern in ("*.wav", "**/*.wav", "*/*.wav"):
            found = [os.path.relpath(path, littered) for path in glob_paths(littered, pattern)]
            assert found == (["b.wav"] if pattern != "*/*.wav" else found)
            assert not any("MACOSX" in name for name in found)

    def test_those_that_are_named(self, littered):
        names = [*LITTER[:4], *HIDDEN[:2]]
        (littered / "list.txt").write_text("\n".join(str(littered / name) for name in names))
        expected = [str(littered / name) for name in names]
        assert paths(find_clips([littered / name for name in names])) == expected
        assert paths(find_clips(littered / "list.txt")) == expected
        for pattern in ("__MACOSX", "**/__MACOSX/*.wav", "__MACOSX/*.wav", "._*.wav", ".ca*/*.wav"):
            assert len(find_clips(littered / pattern)) == 1


def glob_paths(folder, pattern):
    try:
        return paths(find_clips(folder / pattern))
    except ValueError:
        return []


def test_deeply_nested_folders(tmp_path):
    """Deeper than Python's stack."""
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("a.wav", os.O_CREAT, dir_fd=folder))
    os.close(folder)
    deep = "d/" * 1500 + "a.wav"
    for pattern in (tmp_path, tmp_path / "**" / "*.wav"):
        assert paths(find_clips(pattern)) == [f"{tmp_path}/{deep}"]
    (tmp_path / "s.tar").write_bytes(tar_bytes([deep]))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(deep, b"1")
    clips = find_clips([tmp_path / "s.tar", tmp_path / "s.zip"])
    assert [clip.load() for clip in clips] == [deep.encode(), b"1"]
    remove_nested(tmp_path / "d")


def remove_nested(folder):
    """`shutil.rmtree`, by which pytest removes folders, is recursive."""
    subprocess.run(["rm", "-rf", folder], check=True)


class TestIds:
    def test_one_input_or_several(self, files):
        expected = [str(files / "b.wav")]
        for inputs in (expected[0], Path(expected[0]), expected, (Path(expected[0]),)):
            assert paths(find_clips(inputs)) == expected
        assert paths(find_clips(files.glob("b.*"))) == expected
        assert find_clips([]) == []

    def test_one_file_given_twice(self, files, monkeypatch):
        """Once, if it is given in one way; the id is the path as given."""
        monkeypatch.chdir(files)
        assert paths(find_clips(["b.wav", "*.wav", "b.wav", "file://b.wav"])) == ["b.wav"]
        both = ["b.wav", str(files / "b.wav"), "./b.wav"]
        assert [clip.id for clip in find_clips(both)] == both

    def test_names_that_differ_by_case(self, files):
        (files / "B.wav").touch()
        if not (files / "b.wav").samefile(files / "B.wav"):
            names = [os.path.basename(clip.id) for clip in find_clips(files)]
            assert names[:3] == ["B.wav", "a.MP3", "b.wav"]

    def test_one_name_of_two_members(self, files):
        (files / "s.tar").write_bytes(tar_bytes(["a.wav", "./a.wav"]))
        path = str(files / "s.tar")
        clips = find_clips([path, str(files / "b.wav"), path])
        assert [clip.id for clip in clips] == [
            f"{path}/a.wav",
            f"{path}/a.wav#2",
            str(files / "b.wav"),
        ]
        assert [clip.load() for clip in clips[:2]] == [b"a.wav", b"./a.wav"]

    def test_one_id_of_two_archives(self):
        with FileServer({"s.tar": TAR}) as server:
            urls = [f"{server.url}/s.tar?token={part}" for part in (1, 2)]
            with pytest.raises(ValueError, match="different ids") as caught:
                find_clips(urls)
        assert f"two files or URLs have '{server.url}/s.tar/x/1.wav'; rename" in str(caught.value)
        assert "token" not in str(caught.value)

    def test_one_id_of_two_urls(self):
        urls = ["https://host/a.wav?sig=1", "https://me:word@host/a.wav?sig=2"]
        with pytest.raises(ValueError, match=r"have 'https://host/a\.wav'; rename") as caught:
            find_clips(urls)
        assert "word" not in str(caught.value)
        urls = ["https://host/a.wav?part=1", "https://host/a.wav?part=2"]
        assert [clip.id for clip in find_clips(urls)] == urls

    def test_each_clip_once(self, files):
        (files / "s.tar").write_bytes(TAR)
        arguments = [str(files / "s.tar"), str(files), str(files / "s.tar"), f"file://{files}"]
        assert len(find_clips(arguments)) == 6


class TestUrls:
    @pytest.fixture
    def server(self):
        names = {"in/a.wav": WAV.read_bytes(), "in/s.tar": TAR, "in/t.parquet": TABLE}
        with FileServer({**names, "in/notes.md": b""}) as server:
            server.files["list.txt"] = f"{server.url}/in/a.wav?key=1\n".encode()
            yield server

    def test_on_the_web(self, server):
        clips = find_clips([f"{server.url}/in/"])
        names = ["a.wav", "s.tar/x/1.wav", "s.tar/2.flac", "t.parquet/one", "t.parquet/two"]
        assert [clip.id for clip in clips] == [f"{server.url}/in/{name}" for name in names]
        assert [clip.load() for clip in clips[1:]] == [b"x/1.wav", b"2.flac", b"one", b"two"]
        waveform, rate = load_audio(clips[0].load())
        expected, expected_rate = load_audio(WAV)
        assert rate == expected_rate
        assert waveform.equal(expected)

    def test_from_a_slow_server(self, server):
        server.pause = 0.02
        clips = find_clips([f"{server.url}/in/s.tar", f"{server.url}/in/t.parquet"])
        assert [clip.load() for clip in clips] == [b"x/1.wav", b"2.flac", b"one", b"two"]

    def test_lists(self, server, tmp_path):
        (clip,) = find_clips([f"{server.url}/list.txt"])
        assert clip == Clip(f"{server.url}/in/a.wav", f"{server.url}/in/a.wav?key=1")
        (tmp_path / "list.txt").write_text(f"{server.url}/in/s.tar?key=1\n", encoding="utf-8")
        clips = find_clips([str(tmp_path / "list.txt")])
        assert [clip.load() for clip in clips] == [b"x/1.wav", b"2.flac"]
        assert clips[0].id == f"{server.url}/in/s.tar/x/1.wav"

    @pytest.mark.parametrize(
        "line", ["a.wav", "/etc/hostname", "file:///etc/hostname", "local:///etc/hostname"]
    )
    def test_a_list_from_a_url_has_no_local_file(self, server, line):
        server.files["list.txt"] = f"{server.url}/in/a.wav\n{line}\n".encode()
        message = rf"only URLs .*/list\.txt' has '{line}'; download the list"
        with pytest.raises(ValueError, match=message) as caught:
            find_clips([f"{server.url.replace('//', '//me:word@')}/list.txt"])
        assert "word" not in str(caught.value)

    def test_what_is_skipped_is_reported_without_secrets(self, server, skipped):
        server.files["in/e.parquet"] = parquet_bytes({"id": ["a"]})
        url = server.url.replace("//", "//me:word@")
        find_clips(f"{url}/in/", on_skip=lambda *skip: skipped.append(skip))
        assert skipped == [(f"{server.url}/in/e.parquet", EMPTY)]

    def test_what_is_not_there(self, server):
        shards = [f"{server.url}/in/{name}" for name in ("gone.tar", "s.tar", "gone.wav")]
        clips = find_clips(shards)
        assert len(clips) == 4
        for clip in (clips[0], clips[-1]):
            with pytest.raises((OSError, ValueError), match=r"No such file: "):
                clip.load()
        for nothing in (f"{server.url}/in/*.ogg", "memory://nothing/*.wav"):
            with pytest.raises(ValueError, match=r"No audio files found in "):
                find_clips([nothing])

    def test_in_memory(self):
        store = fsspec.filesystem("memory")
        store.pipe({"/m/a.wav": b"a", "/m/s.tar": TAR, "/m/x/t.parquet": TABLE, "/m/b.md": b""})
        clips = find_clips(["memory://m", "memory://m/*.wav"])
        assert [clip.load() for clip in clips] == [b"a", b"x/1.wav", b"2.flac", b"one", b"two"]
        assert clips[0].id == "memory:///m/a.wav"
        store.store.clear()

    def test_a_dataset_on_the_hub(self, hub):
        files = {"README.md": b"", "data/a.wav": b"a", "data/s.tar": TAR, "t.parquet": TABLE}
        commit = hub.add("org/clips", files, repo_type="dataset")
        url = "hf://datasets/org/clips"
        clips = find_clips([url])
        names = ["data/a.wav", "data/s.tar/x/1.wav", "data/s.tar/2.flac"]
        assert [clip.id for clip in clips] == [
            f"{url}/{name}" for name in (*names, "t.parquet/one", "t.parquet/two")
        ]
        hub.add("org/clips", {"data/s.tar": tar_bytes(["other.wav"])}, repo_type="dataset")
        contents = []
        reader = threading.Thread(target=lambda: contents.extend(clip.load() for clip in clips))
        reader.start()
        reader.join()
        assert contents == [b"a", b"x/1.wav", b"2.flac", b"one", b"two"]
        old = find_clips([f"{url}@{commit}/data/s.tar"])
        assert [clip.id for clip in old] == [f"{url}@{commit}/{name}" for name in names[1:]]
        assert [clip.path for clip in old] == [clips[1].path] * 2
        assert [clip.id for clip in find_clips([f"{url}/data/*.tar"])] == [
            f"{url}/data/s.tar/other.wav"
        ]


@pytest.mark.slow
def test_local_files_need_nothing_heavy(files):
    code = f"""
import sys
from vggish_hf.inputs import find_clips
assert len(find_clips([{str(files)!r}])) == 4
print([name for name in ("fsspec", "pyarrow", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
