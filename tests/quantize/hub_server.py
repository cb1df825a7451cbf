"""A hub on this machine: what huggingface_hub asks of one, over HTTP, and what may go wrong with it."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/?]+)")


class Hub:
    """One model, of which branch `main` is a folder.

    Attributes:
        commit: what `main` is.
        downloads: the files that were asked for from some byte on, in order, with that byte.
        meanwhile: called before a file is sent, with its name.
        cut: for files, after how many bytes their connections end, one after the other.
        gone: files that are not there (any more).
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.port = name, 0
        self.downloads: list[tuple[str, int]] = []
        self.meanwhile: Callable[[str], None] = lambda file: None
        self.cut: dict[str, list[int]] = {}
        self.gone: set[str] = set()
        self._commits: dict[str, Path] = {}
        self.push(folder)

    def push(self, folder: Path) -> None:
        """Makes a folder `main`; what was that stays under its commit."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path in sorted(folder.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        self.commit = digest.hexdigest()
        self._commits[self.commit] = folder

    def find(self, revision: str) -> tuple[str, Path] | None:
        """The commit that a branch or commit means, and its folder."""
        commit = self.commit if revision == "main" else revision
        return (commit, self._commits[commit]) if commit in self._commits else None


@contextmanager
def serve(hub: Hub) -> Iterator[None]:
    """Serves it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            if match := _RESOLVE.fullmatch(self.path):
                self._file(match["name"], match["revision"], match["file"], body)
            elif match := _API.match(self.path):
                self._listing(match["name"], match["what"], match["revision"])
            else:
                self._refuse("EntryNotFound")

        def _listing(self, name: str, what: str, revision: str) -> None:
            found = hub.find(revision)
            if name != hub.name:
                return self._refuse("RepoNotFound")
            if found is None:
                return self._refuse("RevisionNotFound")
            commit, folder = found
            files = [path for path in sorted(folder.iterdir()) if path.name not in hub.gone]
            entries = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _etag(path)}
                for path in files
            ]
            model = {"id": name, "sha": commit, "siblings": [{"rfilename": path.name} for path in files]}
            self._send(200, json.dumps(entries if what == "tree" else model).encode(), {})
            return None

        def _file(self, name: str, revision: str, file: str, body: bool) -> None:
            found = hub.find(revision)
            if name != hub.name or found is None:
                return self._refuse("RevisionNotFound")
            commit, folder = found
            if file in hub.gone or not (folder / file).is_file():
                return self._refuse("EntryNotFound")
            content = (folder / file).read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(folder / file)}"'}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            begin, end = (int(wanted[1]), int(wanted[2] or len(content))) if wanted else (0, len(content))
            part = content[begin : end + 1]
            if body and not (wanted and wanted[2]):
                hub.downloads.append((file, begin))
                hub.meanwhile(file)
                if file in hub.gone:
                    return self._refuse("EntryNotFound")
                if hub.cut.get(file):
                    return self._cut(part, hub.cut[file].pop(0), headers)
            if wanted:
                headers["Content-Range"] = f"bytes {begin}-{begin + len(part) - 1}/{len(content)}"
            self._send(206 if wanted else 200, part, headers, body)
            return None

        def _cut(self, part: bytes, count: int, headers: dict[str, str]) -> None:
            self._send(200, part, headers, body=False)
            self.wfile.write(part[:count])
            self.close_connection = True

        def _refuse(self, code: str) -> None:
            self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": "not there"})

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
