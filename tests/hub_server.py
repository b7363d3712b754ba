"""A Hugging Face Hub in memory, on localhost, for tests that use the real client.

It answers what `huggingface_hub` asks when it downloads, lists, creates and commits. Any other
request gets status 501 and its own name, not a 404 that the client takes for a missing repository.
The client must run without Xet (`HF_HUB_DISABLE_XET=1`) to upload what `HubServer.lfs` names.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, unquote

Files = dict[str, bytes]  # content by path


@dataclass
class Repository:
    """The state of one repository. A commit never changes, so readers need no lock."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)  # commit id by name
    commits: dict[str, Files] = field(default_factory=dict)  # all files by commit id

    def commit(self, branch: str, files: Files) -> str:
        # As in git the id follows from parent and content, so it is the same in every run.
        lines = [self.branches.get(branch, "root")]
        lines += [f"{_blob_id(files[path])} {path}" for path in sorted(files)]
        commit_id = hashlib.sha1("\n".join(lines).encode()).hexdigest()
        self.commits[commit_id] = files
        self.branches[branch] = commit_id
        return commit_id


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """In-memory Hub: repositories with revisions, over real HTTP on localhost.

    `with HubServer() as hub:` serves until the block ends; what it holds stays readable after it.

    Attributes:
        url: The address, for `HF_ENDPOINT` or the client's `endpoint`.
        token: The token that may write, and read private repositories.
        user: The owner of that token, and so of what is created without a namespace.
        requests: (method, path) of every request so far; the path as sent, without the query.
        lfs: Suffixes of the files that clients must upload by LFS; all others come in the commit.
    """

    token = "token-of-the-test-hub"
    user = "tester"

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.lfs: tuple[str, ...] = ()
        self.repositories: dict[tuple[str, str], Repository] = {}  # by type and id
        self.uploads: dict[str, bytes] = {}  # by LFS, under their SHA-256
        self.lock = threading.Lock()  # for whoever commits
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        # With the default interval the end of the block would wait for half a second.
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self,
        repo_id: str,
        files: Files,
        *,
        revision: str = "main",
        repo_type: str = "model",
        private: bool = False,
    ) -> str:
        """Commits files to a branch; makes the repository and the branch where they are missing.

        Args:
            repo_id: Such as `"org/name"`.
            files: Content by path. Other files of the branch stay; a new branch has none.
            revision: The branch. A name such as `"v1.0"` does for a tag.
            repo_type: `"model"` or `"dataset"`.
            private: Hide the repository, from now on, from requests without the token.

        Returns:
            The commit's id, 40 hexadecimal digits, under which this state stays reachable.
        """
        with self.lock:
            repository = self.repositories.setdefault((repo_type, repo_id), Repository())
            repository.private |= private
            before = repository.commits.get(repository.branches.get(revision, ""), {})
            return repository.commit(revision, before | files)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> Files:
        """Returns the content by path of a branch or commit; KeyError where there is none."""
        repository = self.repositories[repo_type, repo_id]
        return dict(repository.commits[repository.branches.get(revision, revision)])


class _Server(ThreadingHTTPServer):
    # The client opens a connection a request, eight at a time; one that finds the default queue of
    # five full is tried again only after a second.
    request_queue_size = 64


class _Refusal(Exception):
    """An answer that the client raises, choosing the exception by status and headers."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, "X-Error-Code": code, **headers}


class _Handler(BaseHTTPRequestHandler):
    """One request. From `resolve` on, each method is the answer of one route.

    Speaks HTTP/1.0, the base class's default: a connection kept open would outlive the server.
    """

    def __init__(self, hub: HubServer, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append((self.command, path))
        token = self.headers.get("Authorization")
        self.trusted = token == f"Bearer {self.hub.token}"
        try:
            if token is not None and not self.trusted:
                raise _Refusal(401, "Invalid credentials in Authorization header")
            for pattern, route in _ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    route(self, **{k: unquote(v) for k, v in match.groupdict("").items()})
                    return
            raise _Refusal(501, f"The test Hub does not know {self.command} {path}")
        except _Refusal as refusal:
            self.send(b"", refusal.headers, refusal.status)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps stderr clean: `HubServer.requests` is the log."""

    def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

    def require_token(self) -> None:
        if not self.trusted:
            raise _Refusal(401, "Invalid username or password.")

    def find(self, repo_type: str, repo_id: str, revision: str) -> tuple[Repository, str, Files]:
        """Returns the repository, and the commit's id and files, or refuses."""
        repository = self.hub.repositories.get((repo_type, repo_id))
        if repository is None or (repository.private and not self.trusted):
            # Without a token, private and missing look alike.
            status = 404 if self.trusted else 401
            raise _Refusal(status, "Repository not found", "RepoNotFound")
        commit_id = repository.branches.get(revision, revision)
        if commit_id not in repository.commits:
            raise _Refusal(404, "Revision not found", "RevisionNotFound")
        return repository, commit_id, repository.commits[commit_id]

    def page(self, repo_type: str, repo_id: str) -> str:
        return f"{self.hub.url}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"

    def resolve(self, repo_type: str, repo_id: str, revision: str, path: str) -> None:
        _, commit_id, files = self.find(repo_type or "model", repo_id, revision)
        headers = {"X-Repo-Commit": commit_id}
        if path not in files:
            # Given the commit, the client remembers that it has no such file.
            raise _Refusal(404, "File not found", "EntryNotFound", **headers)
        content = files[path]
        headers["ETag"] = f'"{_blob_id(content)}"'
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self.send(content, headers)
        start, size = int(part[1]), len(content)
        stop = min(int(part[2] or size) + 1, size)
        if start >= stop:
            raise _Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self.send(content[start:stop], headers, 206)

    def info(self, repo_type: str, repo_id: str, revision: str) -> None:
        repository, commit_id, files = self.find(repo_type, repo_id, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(files)]
        facts = {"id": repo_id, "private": repository.private, "tags": []}
        self.send_json({**facts, "sha": commit_id, "siblings": siblings})

    def tree(self, repo_type: str, repo_id: str, revision: str, folder: str) -> None:
        _, _, files = self.find(repo_type, repo_id, revision)
        root, recursive = PurePosixPath(folder), self.query.get("recursive") == ["true"]
        entries: dict[PurePosixPath, dict[str, Any]] = {}
        for path, content in sorted(files.items()):
            for above in PurePosixPath(path).parents:
                entries[above] = {"type": "directory", "oid": _blob_id(bytes(above))}
            oid, size = _blob_id(content), len(content)
            entries[PurePosixPath(path)] = {"type": "file", "oid": oid, "size": size}
        inside = [
            {"path": str(path), **entry}
            for path, entry in entries.items()
            if root in path.parents and (recursive or path.parent == root)
        ]
        if folder and not inside:
            raise _Refusal(404, "Folder not found", "EntryNotFound")
        self.send_json(inside)

    def create(self) -> None:
        self.require_token()
        wanted = json.loads(self.body)
        repo_type = wanted.get("type", "model")
        repo_id = f"{wanted['organization'] or self.hub.user}/{wanted['name']}"
        exists = (repo_type, repo_id) in self.hub.repositories
        if not exists:
            private = wanted.get("visibility") == "private"
            self.hub.add(repo_id, {}, repo_type=repo_type, private=private)
        # A client told that the repository may exist reads the address from the conflict.
        self.send_json({"url": self.page(repo_type, repo_id)}, 409 if exists else 200)

    def create_branch(self, repo_type: str, repo_id: str, revision: str) -> None:
        self.require_token()
        with self.hub.lock:
            start = json.loads(self.body).get("startingPoint", "main")
            repository, commit_id, _ = self.find(repo_type, repo_id, start)
            if revision in repository.branches:
                raise _Refusal(409, "Branch already exists")
            repository.branches[revision] = commit_id
        self.send_json({})

    def preupload(self, repo_type: str, repo_id: str, revision: str) -> None:
        self.require_token()
        _, _, files = self.find(repo_type, repo_id, revision)
        plans = []
        for path in (entry["path"] for entry in json.loads(self.body)["files"]):
            plan = {"path": path, "uploadMode": "regular", "shouldIgnore": False}
            if path.endswith(self.hub.lfs):
                plan["uploadMode"] = "lfs"
            elif path in files:
                # The client leaves a file out of the commit if its own copy has this id.
                plan["oid"] = _blob_id(files[path])
            plans.append(plan)
        self.send_json({"files": plans})

    def lfs_batch(self, repo_type: str, repo_id: str) -> None:
        self.require_token()
        actions = {"upload": {"href": f"{self.hub.url}/lfs"}}
        objects = json.loads(self.body)["objects"]
        self.send_json({"objects": [{**wanted, "actions": actions} for wanted in objects]})

    def lfs_upload(self) -> None:
        self.hub.uploads[hashlib.sha256(self.body).hexdigest()] = self.body
        self.send(b"", {})

    def commit(self, repo_type: str, repo_id: str, revision: str) -> None:
        self.require_token()
        with self.hub.lock:
            repository, _, before = self.find(repo_type, repo_id, revision)
            files = dict(before)
            for operation in map(json.loads, self.body.splitlines()):
                match operation["key"], operation["value"]:
                    case "header", _:
                        pass
                    case "file", {"path": path, "content": content}:
                        files[path] = base64.b64decode(content)
                    case "lfsFile", {"path": path, "oid": oid} if oid in self.hub.uploads:
                        files[path] = self.hub.uploads[oid]
                    case "deletedFile", {"path": path} if path in files:
                        del files[path]
                    case "deletedFolder", {"path": folder}:
                        inside = folder.rstrip("/") + "/"
                        files = {p: files[p] for p in files if not p.startswith(inside)}
                    case key, _:
                        raise _Refusal(400, f"Cannot apply {key}")
            commit_id = repository.commit(revision, files)
        url = f"{self.page(repo_type, repo_id)}/commit/{commit_id}"
        self.send_json({"commitOid": commit_id, "commitUrl": url})


# An id may lack the namespace; its second segment is given up where the rest of a route needs it.
_REPO = r"/(?P<repo_id>[^/]+(?:/[^/]+)?)"
_PAGE = rf"(?:/(?P<repo_type>dataset)s)?{_REPO}"
_API = rf"/api/(?P<repo_type>model|dataset)s{_REPO}"
# Slashes come escaped in a revision and in the folder of a tree, but plain in the path of a file.
_REVISION = r"/(?P<revision>[^/]+)"

_ROUTES: dict[str, Callable[..., None]] = {
    rf"(?:GET|HEAD) {_PAGE}/resolve{_REVISION}/(?P<path>.+)": _Handler.resolve,
    rf"GET {_API}/tree{_REVISION}(?:/(?P<folder>[^/]+))?": _Handler.tree,
    rf"GET {_API}(?:/revision{_REVISION})?": _Handler.info,
    rf"POST {_API}/branch{_REVISION}": _Handler.create_branch,
    rf"POST {_API}/preupload{_REVISION}": _Handler.preupload,
    rf"POST {_API}/commit{_REVISION}": _Handler.commit,
    rf"POST {_PAGE}\.git/info/lfs/objects/batch": _Handler.lfs_batch,
    r"PUT /lfs": _Handler.lfs_upload,
    r"POST /api/repos/create": _Handler.create,
    r"POST /api/validate-yaml": partial(_Handler.send_json, value={"errors": [], "warnings": []}),
}
