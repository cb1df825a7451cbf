"""The child process that finds out where the tensors of torch's pickled files lie, and can do nothing else.

    python -I unpickle.py < REQUEST

A request is a line of JSON: the descriptors of the files, open for reading. The answer is a line of JSON: for
each file its tensors, or what is wrong with it. No number of a tensor is read. Before it looks at a file the
process gives up what it would need to do harm:

- torch's unpickler makes tensors and containers only (``weights_only``); what else a file names is an error;
- no descriptor can be opened any more, so no file and no socket (RLIMIT_NOFILE 0), no file written
  (RLIMIT_FSIZE 0), and no privilege is left, by which that could be undone, or is gained again (capset,
  PR_SET_NO_NEW_PRIVS);
- where the kernel has Landlock, no program can be executed and no file reached by name either;
- memory and processor time are bounded.

It imports nothing of octet, and inherits no environment.
"""

import ctypes
import io
import json
import os
import re
import resource
import sys
import zipfile
from typing import Any

import torch

_MEMORY_BYTES = 4 << 30
"""What it may take beside what torch has taken."""

_PROCESSOR_SECONDS = 600

_LENGTHS_OFFSET = 26
"""Where the lengths of its name and of what follows that lie in a record's header, which ends with them."""

_SET_NO_NEW_PRIVS, _SET_DUMPABLE = 38, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446

# Kinds of access to files that the versions of Landlock know.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NEWEST_FILE_RIGHTS = 16


def main() -> None:
    """Reads the request, answers it."""
    descriptors = json.loads(sys.stdin.readline())
    files = [os.fdopen(descriptor, "rb") for descriptor in descriptors]
    _import_everything()
    confine()
    print(json.dumps([_describe(file) for file in files]))


def confine() -> None:
    """Gives up whatever the process could do beside computing, and reading and writing what is open.

    Raises:
        OSError: the kernel does not let it.
        RuntimeError: there is another thread, which could do it.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("more than one thread")
    with open("/proc/self/statm") as sizes:
        taken = int(sizes.read().split()[0]) * resource.getpagesize()
    libc = ctypes.CDLL(None, use_errno=True)
    _succeed(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _succeed(libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0))
    _restrict_by_landlock(libc)
    for limit, most in (
        (resource.RLIMIT_AS, taken + _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _PROCESSOR_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    # Last: with CAP_SYS_RESOURCE the limits could be raised again.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _succeed(libc.capset(header, (ctypes.c_uint32 * 6)()))


def _restrict_by_landlock(libc: ctypes.CDLL) -> None:
    """Forbids all that Landlock knows of; a kernel without it is left as it is."""
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    files = (1 << _FILE_RIGHTS.get(version, _NEWEST_FILE_RIGHTS)) - 1
    handled = [files]
    if version >= 4:
        handled.append(0b11)  # to bind and to connect
    if version >= 6:
        handled.append(0b11)  # abstract sockets and signals out of here
    rules = (ctypes.c_uint64 * len(handled))(*handled)
    ruleset = libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    _succeed(ruleset)
    _succeed(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def _succeed(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _import_everything() -> None:
    """Has torch and zipfile import what they need later, when no module can be opened any more."""
    saved = io.BytesIO()
    torch.save({"weight": torch.nn.Parameter(torch.zeros(1)), "buffer": torch.zeros(1)}, saved)
    saved.seek(0)
    for place in _load(saved).values():
        place.is_contiguous()
    b"a".decode("cp437")  # of names in archives
    _refusal(ValueError("a message"))


def _load(file: Any) -> Any:
    """What a file holds, its tensors without their numbers."""
    return torch.load(file, map_location="meta", weights_only=True)


def _describe(file: Any) -> dict[str, Any]:
    """A file's tensors as ``{"tensors": [[name, dtype, shape, offset in bytes]]}``, or ``{"error": why}``."""
    try:
        if problem := _unusual(file):
            return {"error": problem}
        records = _records(file)
        file.seek(0)
        content = _load(file)
        if not isinstance(content, dict):
            return {"error": f"holds a {type(content).__name__}, not tensors by name"}
        tensors = []
        for name, tensor in content.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                return {"error": f"holds more than tensors by name: {str(name)[:80]!r}"}
            if tensor.layout != torch.strided or not tensor.is_contiguous():
                return {"error": f"holds the tensor {name} in another order than its own: save it contiguous"}
            start = tensor.untyped_storage()._checkpoint_offset
            assert start is not None
            offset = start + tensor.storage_offset() * tensor.element_size()
            end = offset + tensor.numel() * tensor.element_size()
            # torch works offsets out by how it writes files, and does not look where records really are.
            if end > start + records.get(start, 0) and tensor.numel():
                return {"error": f"is not laid out as torch.save does it: the tensor {name} is elsewhere"}
            tensors.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset])
        return {"tensors": tensors}
    except Exception as error:
        return {"error": _refusal(error)}


def _unusual(file: Any) -> str | None:
    """Why the numbers would not lie in the file as they are."""
    if not zipfile.is_zipfile(file):
        return "is no file of torch.save's, or one from before torch 1.6: load and save it again"
    with zipfile.ZipFile(file) as entries:
        for entry in entries.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                return f"is compressed, which torch.save does not do: {entry.filename}"
            if entry.filename.endswith("/byteorder") and entries.read(entry) != b"little":
                return "was written on a big-endian machine"
    return None


def _records(file: Any) -> dict[int, int]:
    """Where the records of the archive start, in bytes, and their lengths."""
    found = {}
    with zipfile.ZipFile(file) as entries:
        for entry in entries.infolist():
            file.seek(entry.header_offset + _LENGTHS_OFFSET)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            found[entry.header_offset + _LENGTHS_OFFSET + 4 + name + extra] = entry.file_size
    return found


def _refusal(error: Exception) -> str:
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"asks for {found[1]}, which no tensor needs: refused, and nothing was executed"
    return f"cannot be read: {text.strip().splitlines()[0] if text.strip() else type(error).__name__}"


if __name__ == "__main__":
    main()
