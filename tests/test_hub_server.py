"""The Hub of the tests, as the real client sees it."""

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    get_session,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import _CACHED_NO_EXIST, http_get

CommitOperation = CommitOperationAdd | CommitOperationDelete
Download = Callable[..., bytes]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def anonymous(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def owner(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def download(anonymous: HfApi, tmp_path: Path) -> Download:
    """Reads one file through a cache of the test's own."""

    def read(repo_id: str, filename: str, api: HfApi = anonymous, **options: Any) -> bytes:
        path = api.hf_hub_download(repo_id, filename, cache_dir=tmp_path / "cache", **options)
        return Path(path).read_bytes()

    return read


def contents(hub: HubServer, method: str = "GET") -> list[str]:
    """The names of the files asked for with this method."""
    return [path.split("/")[-1] for m, path in hub.requests if m == method and "/resolve/" in path]


class TestDownload:
    @pytest.mark.parametrize("path", ["a.bin", "deep/er/a b+ü.bin", "empty"])
    @pytest.mark.parametrize("repo_type", ["model", "dataset"])
    def test_content(self, hub: HubServer, download: Download, repo_type: str, path: str) -> None:
        content = b"" if path == "empty" else bytes(range(256)) * 100
        hub.add("org/name", {path: content}, repo_type=repo_type)
        assert download("org/name", path, repo_type=repo_type) == content

    def test_revisions(self, hub: HubServer, download: Download) -> None:
        first = hub.add("org/name", {"a": b"first", "b": b"stays"})
        second = hub.add("org/name", {"a": b"second"})
        hub.add("org/name", {"a": b"tagged"}, revision="v1.0")
        hub.add("org/name", {"a": b"branched"}, revision="feature/x")
        expected = {
            "main": b"second", "v1.0": b"tagged", "feature/x": b"branched",
            first: b"first", second: b"second",
        }  # fmt: skip
        got = {revision: download("org/name", "a", revision=revision) for revision in expected}
        assert got == expected
        assert hub.files("org/name") == {"a": b"second", "b": b"stays"}
        assert hub.files("org/name", "v1.0") == {"a": b"tagged"}
        assert hub.files("org/name", first) == {"a": b"first", "b": b"stays"}

    @pytest.mark.parametrize(
        ("repo_id", "filename", "revision", "error"),
        [
            ("org/name", "missing", "main", EntryNotFoundError),
            ("org/name", "a", "missing", RevisionNotFoundError),
            ("org/name", "a", "0" * 40, RevisionNotFoundError),
            ("org/missing", "a", "main", RepositoryNotFoundError),
            ("missing", "a", "main", RepositoryNotFoundError),
        ],
    )
    def test_missing(
        self,
        hub: HubServer,
        download: Download,
        repo_id: str,
        filename: str,
        revision: str,
        error: type[Exception],
    ) -> None:
        hub.add("org/name", {"a": b"content"})
        with pytest.raises(error):
            download(repo_id, filename, revision=revision)

    def test_a_missing_file_is_remembered(
        self, hub: HubServer, download: Download, tmp_path: Path
    ) -> None:
        hub.add("org/name", {"a": b"content"})
        with pytest.raises(EntryNotFoundError):
            download("org/name", "missing")
        cached = try_to_load_from_cache("org/name", "missing", cache_dir=tmp_path / "cache")
        assert cached is _CACHED_NO_EXIST

    def test_content_is_fetched_once_a_version(self, hub: HubServer, download: Download) -> None:
        hub.add("org/name", {"a": b"first"})
        download("org/name", "a")
        download("org/name", "a")
        assert contents(hub) == ["a"]
        assert contents(hub, "HEAD") == ["a", "a"]
        hub.add("org/name", {"a": b"second"})
        assert download("org/name", "a") == b"second"
        assert contents(hub) == ["a", "a"]

    def test_a_pinned_commit_asks_nothing_again(self, hub: HubServer, download: Download) -> None:
        commit = hub.add("org/name", {"a": b"content"})
        download("org/name", "a", revision=commit)
        hub.requests.clear()
        assert download("org/name", "a", revision=commit) == b"content"
        assert hub.requests == []

    def test_resumes(self, hub: HubServer, tmp_path: Path) -> None:
        content = bytes(range(256)) * 1000
        hub.add("org/name", {"a": content})
        with (tmp_path / "a").open("w+b") as file:
            # Had the whole file been sent, the client would have overwritten this beginning.
            file.write(b"?" * 1000)
            url = f"{hub.url}/org/name/resolve/main/a"
            http_get(url, file, resume_size=1000, expected_size=len(content))
            file.seek(0)
            assert file.read() == b"?" * 1000 + content[1000:]

    @pytest.mark.parametrize(
        ("wanted", "status", "piece", "content_range"),
        [
            ("0-0", 206, b"0", "bytes 0-0/10"),
            ("3-5", 206, b"345", "bytes 3-5/10"),
            ("8-", 206, b"89", "bytes 8-9/10"),
            ("8-99", 206, b"89", "bytes 8-9/10"),
            ("10-", 416, b"", "bytes */10"),
        ],
    )
    def test_ranges(
        self, hub: HubServer, wanted: str, status: int, piece: bytes, content_range: str
    ) -> None:
        hub.add("org/name", {"a": b"0123456789"})
        url = f"{hub.url}/org/name/resolve/main/a"
        response = get_session().get(url, headers={"Range": f"bytes={wanted}"})
        assert response.status_code == status
        assert response.content == piece
        assert response.headers["Content-Range"] == content_range

    def test_offline_reads_the_cache(self, hub: HubServer, tmp_path: Path) -> None:
        hub.add("org/name", {"config.json": b"{}", "other": b"not fetched"})
        script = """
            from huggingface_hub import hf_hub_download
            print(open(hf_hub_download("org/name", "config.json")).read())
        """
        assert run(script, hub, tmp_path) == "{}"
        hub.requests.clear()
        assert run(script, hub, tmp_path, HF_HUB_OFFLINE="1") == "{}"
        script = """
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import LocalEntryNotFoundError
            try:
                hf_hub_download("org/name", "other")
            except LocalEntryNotFoundError:
                print("not in the cache")
        """
        assert run(script, hub, tmp_path, HF_HUB_OFFLINE="1") == "not in the cache"
        assert hub.requests == []

    def test_nobody_answers_after_the_block(self) -> None:
        with HubServer() as hub:
            hub.add("org/name", {"a": b"content"})
            api = HfApi(endpoint=hub.url, token=False)
            assert api.repo_exists("org/name")
        with pytest.raises(Exception, match="Connection refused"):
            api.repo_exists("org/name")


class TestPrivate:
    def test_the_token_opens(self, hub: HubServer, owner: HfApi, download: Download) -> None:
        hub.add("org/secret", {"a": b"content"}, private=True)
        assert download("org/secret", "a", api=owner) == b"content"
        assert owner.model_info("org/secret").private

    def test_without_it_there_is_no_repository(
        self, hub: HubServer, anonymous: HfApi, download: Download
    ) -> None:
        hub.add("org/secret", {"a": b"content"}, private=True)
        hub.add("org/secret", {"b": b"stays private"})
        with pytest.raises(RepositoryNotFoundError, match="401"):
            download("org/secret", "a")
        with pytest.raises(RepositoryNotFoundError, match="401"):
            anonymous.model_info("org/secret")

    def test_a_wrong_token_opens_nothing(self, hub: HubServer) -> None:
        hub.add("org/name", {"a": b"content"})
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            HfApi(endpoint=hub.url, token="wrong").model_info("org/name")


class TestListing:
    def test_files_of_a_revision(self, hub: HubServer, anonymous: HfApi) -> None:
        old = hub.add("org/name", {"b": b"1"})
        new = hub.add("org/name", {"a/x": b"22", "a/deep/y": b"333"})
        assert anonymous.list_repo_files("org/name", revision=old) == ["b"]
        assert sorted(anonymous.list_repo_files("org/name")) == ["a/deep/y", "a/x", "b"]
        assert anonymous.model_info("org/name").sha == new
        assert anonymous.model_info("org/name", revision=old).sha == old

    def test_folders(self, hub: HubServer, anonymous: HfApi) -> None:
        hub.add("org/name", {"b": b"1", "a/x": b"22", "a/deep/y": b"333"}, repo_type="dataset")

        def listed(folder: str | None) -> dict[str, int | None]:
            tree = anonymous.list_repo_tree("org/name", folder, repo_type="dataset")
            return {entry.path: getattr(entry, "size", None) for entry in tree}

        assert listed(None) == {"a": None, "b": 1}
        assert listed("a") == {"a/deep": None, "a/x": 2}
        assert listed("a/deep") == {"a/deep/y": 3}
        with pytest.raises(EntryNotFoundError):
            listed("missing")

    def test_existence(self, hub: HubServer, anonymous: HfApi) -> None:
        hub.add("org/name", {"a": b""}, repo_type="dataset")
        assert anonymous.repo_exists("org/name", repo_type="dataset")
        assert not anonymous.repo_exists("org/name")
        assert anonymous.file_exists("org/name", "a", repo_type="dataset")
        assert not anonymous.file_exists("org/name", "b", repo_type="dataset")

    def test_a_snapshot(self, hub: HubServer, anonymous: HfApi, tmp_path: Path) -> None:
        files = {f"folder{i % 3}/{i}": bytes([i]) * i for i in range(40)}
        commit = hub.add("org/name", files, revision="v1")
        folder = Path(anonymous.snapshot_download("org/name", revision="v1", cache_dir=tmp_path))
        assert folder.name == commit
        assert read_folder(folder) == files

    def test_a_file_system(self, hub: HubServer) -> None:
        hub.add("org/name", {"data/a.txt": b"content", "b.txt": b""}, repo_type="dataset")
        system = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        assert system.glob("datasets/org/name/**/*.txt") == [
            "datasets/org/name/b.txt",
            "datasets/org/name/data/a.txt",
        ]
        with system.open("datasets/org/name/data/a.txt") as file:
            file.seek(3)
            assert file.read(2) == b"te"


class TestWriting:
    @pytest.mark.parametrize("repo_type", ["model", "dataset"])
    def test_a_folder_goes_there_and_back(
        self, hub: HubServer, owner: HfApi, tmp_path: Path, repo_type: str
    ) -> None:
        files = {
            "README.md": b"---\nlicense: apache-2.0\n---\n",
            "model.safetensors": random.Random(1).randbytes(2_000_000),
            "sub/empty": b"",
        }
        source = tmp_path / "source"
        for path, content in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
        owner.create_repo("org/name", repo_type=repo_type, private=True)
        assert owner.repo_info("org/name", repo_type=repo_type).private
        commit = owner.upload_folder(repo_id="org/name", folder_path=source, repo_type=repo_type)
        assert commit.repo_url.repo_type == repo_type
        assert hub.files("org/name", repo_type=repo_type) == files
        assert hub.files("org/name", commit.oid, repo_type=repo_type) == files
        folder = owner.snapshot_download(
            "org/name", repo_type=repo_type, cache_dir=tmp_path / "cache"
        )
        assert read_folder(Path(folder)) == files

    def test_a_commit_changes_what_it_names(self, hub: HubServer, owner: HfApi) -> None:
        before = {"folder2/stays": b"1", "changes": b"2", "goes": b"3", "folder/goes": b"4"}
        old = hub.add("org/name", before)
        operations: list[CommitOperation] = [
            CommitOperationAdd("changes", b"22"),
            CommitOperationAdd("comes", b"5"),
            CommitOperationDelete("goes"),
            CommitOperationDelete("folder", is_folder=True),
        ]
        owner.create_commit("org/name", operations, commit_message="Change")
        assert hub.files("org/name") == {"folder2/stays": b"1", "changes": b"22", "comes": b"5"}
        assert hub.files("org/name", old) == before

    def test_a_commit_goes_to_its_branch(self, hub: HubServer, owner: HfApi) -> None:
        hub.add("org/name", {"a": b"1"})
        hub.add("org/name", {"b": b"2"}, revision="dev/x")
        upload = partial(owner.upload_file, path_or_fileobj=b"3", path_in_repo="c")
        upload(repo_id="org/name", revision="dev/x")
        assert hub.files("org/name") == {"a": b"1"}
        assert hub.files("org/name", "dev/x") == {"b": b"2", "c": b"3"}
        with pytest.raises(RevisionNotFoundError):
            upload(repo_id="org/name", revision="missing")

    def test_an_equal_file_is_not_committed(self, hub: HubServer, owner: HfApi) -> None:
        commit = hub.add("org/name", {"a": b"1"})
        info = owner.upload_file(path_or_fileobj=b"1", path_in_repo="a", repo_id="org/name")
        assert info.oid == commit
        assert not any("/commit/" in path for _, path in hub.requests)

    def test_a_commit_applies_whole_or_not(self, hub: HubServer, owner: HfApi) -> None:
        hub.add("org/name", {"a": b"1"})
        operations: list[CommitOperation] = [
            CommitOperationAdd("b", b"2"),
            CommitOperationDelete("missing"),
        ]
        with pytest.raises(BadRequestError, match="Cannot apply deletedFile"):
            owner.create_commit("org/name", operations, commit_message="Change")
        assert hub.files("org/name") == {"a": b"1"}

    def test_writing_needs_the_token(self, hub: HubServer, anonymous: HfApi) -> None:
        hub.add("org/name", {"a": b"1"})
        with pytest.raises(HfHubHTTPError, match="401"):
            anonymous.create_repo("org/new")
        with pytest.raises(HfHubHTTPError, match="401"):
            anonymous.upload_file(path_or_fileobj=b"2", path_in_repo="a", repo_id="org/name")
        assert hub.files("org/name") == {"a": b"1"}
        assert not anonymous.repo_exists("org/new")

    def test_creation(self, hub: HubServer, owner: HfApi) -> None:
        assert owner.create_repo("org/name").repo_id == "org/name"
        commit = owner.model_info("org/name").sha
        assert owner.create_repo("org/name", exist_ok=True).repo_id == "org/name"
        assert owner.model_info("org/name").sha == commit
        with pytest.raises(HfHubHTTPError, match="409"):
            owner.create_repo("org/name")
        assert owner.create_repo("mine", repo_type="dataset").repo_id == f"{hub.user}/mine"
        assert hub.files("org/name") == {}

    # The client's own upload by LFS passes its file to httpx in a deprecated way.
    @pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    def test_lfs(self, hub: HubServer, owner: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        hub.add("org/name", {"a.txt": b"1"}, repo_type="dataset")
        hub.lfs = (".parquet",)
        owner.create_commit(
            "org/name",
            [CommitOperationAdd("a.parquet", b"22"), CommitOperationAdd("b.txt", b"3")],
            commit_message="Add",
            repo_type="dataset",
        )
        expected = {"a.txt": b"1", "a.parquet": b"22", "b.txt": b"3"}
        assert hub.files("org/name", repo_type="dataset") == expected
        assert hub.requests.count(("PUT", "/lfs")) == 1

    @pytest.mark.slow
    def test_a_datasets_round_trip(self, hub: HubServer, tmp_path: Path) -> None:
        hub.lfs = (".parquet",)  # `push_to_hub` deletes its files before it commits them
        script = """
            from datasets import Dataset, load_dataset
            Dataset.from_dict({"x": [1, 2, 3]}).push_to_hub("org/name", split="train")
            print(load_dataset("org/name", split="train")["x"][:])
        """
        assert run(script, hub, tmp_path, HF_TOKEN=hub.token) == "[1, 2, 3]"


def test_an_unknown_request_is_named(hub: HubServer, owner: HfApi) -> None:
    hub.add("org/name", {})
    unknown = r"(?s)501.*does not know POST /api/models/org/name/tag/main"
    with pytest.raises(HfHubHTTPError, match=unknown):
        owner.create_tag("org/name", tag="v1.0")


def test_commit_ids_depend_on_the_content_alone(hub: HubServer) -> None:
    with HubServer() as other:
        assert hub.add("org/a", {"x": b"1", "y": b"2"}) == other.add(
            "org/b", {"y": b"2", "x": b"1"}
        )
    assert hub.add("org/a", {"x": b"1"}) != hub.add("org/a", {"x": b"1"})  # the parent counts too


def read_folder(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run(script: str, hub: HubServer, home: Path, **environment: str) -> str:
    """Runs a script in a Python whose Hub client is at home with this server."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
