"""A small hub on this machine: it serves repositories over HTTP as the real one does.

    with serving({"owner/name": {"data/train.txt": b"..."}}) as hub:
        ... HF_ENDPOINT=hub.url ...

Repositories of data sets and of models are one here. Whoever has the token WRITER may create them
and commit to them. It can misbehave: cut connections in the middle of a file, or require a login.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

BRANCH = "main"
WRITER = "hf_writer"


@dataclass
class Hub:
    """What the server offers, and the requests it got."""

    repos: dict[str, dict[str, bytes]]  # files by path, by repository
    url: str = ""
    gated: bool = False  # files are shown to people who logged in
    cuts: int = 0  # this many downloads break off in the middle; the rest go through
    wall: bool = False  # no download ever gets beyond the middle
    short: bool = False  # downloads end at the middle as if that were all
    requests: list[str] = field(default_factory=list)  # "GET /path", in order
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256

    def commit(self, repo: str) -> str:
        """The commit at the head of the branch: it changes with the files."""
        sums = sorted((name, etag(body)) for name, body in self.repos[repo].items())
        return hashlib.sha1(repr(sums).encode()).hexdigest()


def etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@contextmanager
def serving(repos: dict[str, dict[str, bytes]], **faults) -> Iterator[Hub]:
    """Serve repositories on a free port of this machine until the block ends."""
    hub = Hub(repos, **faults)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_) -> None:
        pass

    def parts(self) -> list[str]:
        """What is between the slashes of the path."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path.strip("/").split("/")

    def answer(self) -> None:
        """/api/datasets/<repo>[/revision/<rev> or /tree/<rev>] and /datasets/<repo>/resolve/...

        Those of models are /api/models/<repo> and /<repo>/resolve/...
        """
        parts = self.parts()
        api = parts[0] == "api"
        first = 2 if api else int(parts[0] == "datasets")
        repo, rest = "/".join(parts[first : first + 2]), parts[first + 2 :]
        if repo not in self.hub.repos:
            return self.refuse(401, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else BRANCH
        if revision not in (BRANCH, self.hub.commit(repo)):
            return self.refuse(404, "RevisionNotFound")
        if api:
            return self.send_tree(repo) if rest[:1] == ["tree"] else self.send_info(repo)
        if self.hub.gated:
            return self.refuse(401, "GatedRepo")
        body = self.hub.repos[repo].get("/".join(rest[2:]))
        if body is None:
            return self.refuse(404, "EntryNotFound")
        return self.send_file(repo, body)

    def do_PUT(self) -> None:
        """/<sha256>: a large file."""
        (oid,) = self.parts()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert etag(body) == oid
        self.hub.stored[oid] = body
        self.send_json({})

    def do_POST(self) -> None:
        """Create a repository, ask how and where to upload files, and commit them."""
        parts = self.parts()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if parts[-1] == "validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token != WRITER:
            return self.refuse(403 if token else 401, "Forbidden")
        if parts[-1] == "create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            status = 409 if repo in self.hub.repos else 200
            self.hub.repos.setdefault(repo, {})
            return self.send_json({"url": f"{self.hub.url}/{repo}"}, status)
        if parts[-1] == "batch":
            objects = json.loads(body)["objects"]
            for file in objects:
                file["actions"] = {"upload": {"href": f"{self.hub.url}/{file['oid']}"}}
            return self.send_json({"objects": objects})
        if parts[-2] == "preupload":
            large = (".safetensors", ".gguf")
            modes = {
                file["path"]: "lfs" if file["path"].endswith(large) else "regular"
                for file in json.loads(body)["files"]
            }
            files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]
            return self.send_json({"files": files})
        repo = "/".join(parts[2:4])
        for line in map(json.loads, body.splitlines()):
            file = line["value"]
            if line["key"] == "file":
                self.hub.repos[repo][file["path"]] = base64.b64decode(file["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[repo][file["path"]] = self.hub.stored[file["oid"]]
        commit = self.hub.commit(repo)
        return self.send_json({"commitUrl": f"{self.hub.url}/{repo}", "commitOid": commit})

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_info(self, repo: str) -> None:
        info = {"id": repo, "sha": self.hub.commit(repo), "private": False, "tags": []}
        info |= {"siblings": [{"rfilename": name} for name in self.hub.repos[repo]]}
        self.send_json(info | {"downloads": 0, "likes": 0})

    def send_tree(self, repo: str) -> None:
        files = self.hub.repos[repo].items()
        self.send_json(
            [{"type": "file", "path": n, "size": len(b), "oid": etag(b)} for n, b in files]
        )

    def send_json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, repo: str, body: bytes) -> None:
        begin, end = 0, len(body)
        if wanted := self.headers.get("Range"):
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{end}")
        self.send_header("ETag", f'"{etag(body)}"')
        self.send_header("X-Repo-Commit", self.hub.commit(repo))
        self.send_header("Accept-Ranges", "bytes")
        if self.hub.short and self.command == "GET":
            end = end // 2
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.wall or self.hub.cuts:
            self.hub.cuts = max(0, self.hub.cuts - 1)
            end = end // 2
            self.close_connection = True
        self.wfile.write(body[begin:end])
