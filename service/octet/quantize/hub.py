"""Models of the hub: whole, in huggingface_hub's cache, or their weight files one after the other."""

import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from octet.quantize.errors import QuantizeError, reason_of
from octet.quantize.files import Phase
from octet.quantize.safetensors_file import LENGTH_BYTES, Header, parse_header, read_header

_FIRST_BYTES = 1 << 20
"""Asked for of a file: nearly every header is shorter."""

_MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""

_LAST_CHUNK_SECONDS = 10
"""How long a download that is given up may take to notice."""


def download_snapshot(
    repository: str,
    revision: str | None,
    allowed: Sequence[str] | None = None,
    ignored: Sequence[str] = (),
) -> Path:
    """Downloads a model's files into huggingface_hub's cache, with its token, or finds them there.

    Args:
        repository: the model's id.
        revision: branch, tag or commit.
        allowed: patterns of the files to have; None for all.
        ignored: patterns of files not to have all the same.

    Returns:
        The folder, whose name is the commit.

    Raises:
        QuantizeError: there is no such model, or it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """For somebody who looks at it."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options |= {} if sys.stderr.isatty() else {"disable": True}
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

    try:
        directory = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=None if allowed is None else list(allowed),
            ignore_patterns=list(ignored),
            tqdm_class=Bar,
        )
        return Path(directory)
    except HFValidationError as error:
        raise QuantizeError(f"{repository} is neither a directory nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise QuantizeError(
            f"{repository} is not in the local cache, and the hub cannot be reached"
        ) from error
    except HfHubHTTPError as error:
        raise QuantizeError(f"{repository} cannot be downloaded: {_first_line(error)}") from error
    except OSError as error:
        raise QuantizeError(f"{repository} cannot be downloaded: {reason_of(error)}") from error


class StreamedFiles:
    """Weight files of a model of the hub, downloaded one ahead and dropped when they were read.

    Attributes:
        names: their names, in order.
    """

    def __init__(self, repository: str, commit: str, names: Sequence[str], folder: Path) -> None:
        """Has nothing downloaded but the files' headers.

        Args:
            repository: the model's id.
            commit: of which all files are.
            names: of the files.
            folder: where they lie meanwhile.

        Raises:
            QuantizeError: a file is not there, or cannot be had.
        """
        self._repository, self._commit, self._folder = repository, commit, folder
        self.names = tuple(names)
        self._headers = {name: self._read_header(name) for name in names}

    def header(self, name: str) -> Header:
        """What a file's header says."""
        return self._headers[name]

    def path(self, name: str) -> Path:
        """Where a file lies while it is its turn."""
        return self._folder / name

    def identity(self, name: str) -> str:
        """The model, its commit, and the file."""
        return f"{self._repository}@{self._commit}/{name}"

    def room(self) -> int:
        """Two files: one that is read, and the next one."""
        return sum(sorted(header.file_size for header in self._headers.values())[-2:])

    def arriving(self, names: Sequence[str], phase: Phase) -> Generator[Path, None, None]:
        """Downloads a file while the one before is read. What was downloaded stays when that is given up."""
        progress = phase("downloading", sum(self._headers[name].file_size for name in names))
        given_up = threading.Event()
        downloads = [_Download(self._fetch, name, progress, given_up) for name in names]
        try:
            for download in downloads[:1]:
                download.start()
            for number, download in enumerate(downloads):
                path = download.result()
                for following in downloads[number + 1 : number + 2]:
                    following.start()
                yield path
                path.unlink()
        finally:
            given_up.set()
            for download in downloads:
                download.join()

    def _fetch(self, name: str, progress: Callable[[int], None], given_up: threading.Event) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils.tqdm import tqdm

        class Bar(tqdm):
            """Tells of what arrives, and ends the download where nobody waits for it."""

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]

            def update(self, count: float | None = 1) -> bool | None:
                if given_up.is_set():
                    raise InterruptedError("given up")
                progress(int(count or 0))
                return None

        try:
            path = Path(
                hf_hub_download(
                    self._repository,
                    name,
                    revision=self._commit,
                    local_dir=self._folder,
                    tqdm_class=Bar,
                )
            )
        except Exception as error:  # huggingface_hub's, those of its HTTP library, and the system's.
            raise self._failure(name, error) from error
        if read_header(path) != self._headers[name]:
            path.unlink()
            raise QuantizeError(f"{self.identity(name)} is not what it was when its header was read")
        return path

    def _read_header(self, name: str) -> Header:
        where = self.identity(name)
        try:
            data, size = self._read_start(name, _FIRST_BYTES)
            length = int.from_bytes(data[:LENGTH_BYTES], "little")
            if not LENGTH_BYTES <= LENGTH_BYTES + length <= min(size, _MOST_HEADER_BYTES):
                raise QuantizeError(f"{where} is no whole safetensors file: its header is damaged")
            if len(data) < LENGTH_BYTES + length:
                data, _ = self._read_start(name, LENGTH_BYTES + length)
        except QuantizeError:
            raise
        except Exception as error:
            raise self._failure(name, error) from error
        return parse_header(where, data[LENGTH_BYTES : LENGTH_BYTES + length], size)

    def _read_start(self, name: str, count: int) -> tuple[bytes, int]:
        """A file's first `count` bytes, or all of it, and its length."""
        from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import hf_raise_for_status

        url = hf_hub_url(self._repository, name, revision=self._commit)
        size = get_hf_file_metadata(url).size
        if size is None:
            raise OSError("the hub does not say how long it is")
        headers = build_hf_headers() | {"Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        data = bytearray()
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) >= count:
                    break  # The hub may send all of it.
        if len(data) < min(count, size):
            raise OSError("the connection ended early")
        return bytes(data[:count]), size

    def _failure(self, name: str, error: Exception) -> QuantizeError:
        return QuantizeError(f"{self.identity(name)} cannot be downloaded: {_first_line(error)}")


class _Download(threading.Thread):
    """One file on its way, in a thread of its own that no exit of the process waits for."""

    def __init__(
        self,
        fetch: Callable[[str, Callable[[int], None], threading.Event], Path],
        name: str,
        progress: Callable[[int], None],
        given_up: threading.Event,
    ) -> None:
        super().__init__(name="octet-download", daemon=True)
        self._work: Callable[[], Path] = lambda: fetch(name, progress, given_up)
        self._future: Future[Path] = Future()

    def run(self) -> None:
        """Downloads it."""
        try:
            self._future.set_result(self._work())
        except BaseException as error:
            self._future.set_exception(error)

    def result(self) -> Path:
        """Where it is; waits for it, and raises what went wrong."""
        return self._future.result()

    def join(self, timeout: float | None = _LAST_CHUNK_SECONDS) -> None:
        """Waits for the end of one that was started."""
        if self.ident is not None:
            super().join(timeout)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)
