"""Checkpoints of torch's pickled files: the same result as of safetensors, and nothing executed."""

import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from octet.quantize import pickled, unpickle
from octet.quantize.errors import QuantizeError
from tests.quantize.conftest import GOLDEN, Quantize

SINGLE, SHARDED = GOLDEN / "llama-bfloat16-untied/source", GOLDEN / "gemma3-bfloat16-tied/source"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def as_pickles(source: Path, made: Path, save: Callable[[dict[str, Any], Path], object] = torch.save) -> Path:
    """A copy of a checkpoint whose weights are torch's."""
    shutil.copytree(source, made)
    names = {}
    for path in made.glob("*.safetensors"):
        names[path.name] = path.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        save(OrderedDict(load_file(path)), made / names[path.name])
        path.unlink()
    index = made / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {name: names[file] for name, file in content["weight_map"].items()}
        (made / "pytorch_model.bin.index.json").write_text(json.dumps(content))
        index.unlink()
    return made


@pytest.mark.parametrize("source", [SINGLE, SHARDED], ids=["single", "sharded"])
def test_the_result_is_that_of_safetensors(tmp_path: Path, quantize: Quantize, source: Path) -> None:
    copy = as_pickles(source, tmp_path / "source")
    before = contents(copy)
    quantize(copy, tmp_path / "made", verify=True)
    quantize(source, tmp_path / "expected", verify=True)
    assert contents(copy) == before
    assert contents(tmp_path / "made") == contents(tmp_path / "expected")


def test_tensors_may_lie_in_one_storage_and_be_parameters(tmp_path: Path, quantize: Quantize) -> None:
    """What training leaves: views of a large tensor, one tensor by two names, parameters, half precision."""

    def save(weights: dict[str, torch.Tensor], path: Path) -> None:
        flat = torch.cat([weight.reshape(-1) for weight in weights.values()])
        at, content = 0, {}
        for name, weight in weights.items():
            content[name] = torch.nn.Parameter(flat[at : at + weight.numel()].view(weight.shape))
            at += weight.numel()
        content["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(4.0)
        content["model.layers.1.self_attn.rotary_emb.inv_freq"] = content[
            "model.layers.0.self_attn.rotary_emb.inv_freq"
        ]
        torch.save(content, path)

    quantize(as_pickles(SINGLE, tmp_path / "source", save), tmp_path / "made", verify=True)
    quantize(SINGLE, tmp_path / "expected")
    made, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "expected"))
    for layer in (0, 1):
        assert torch.equal(made.pop(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"), torch.arange(4.0))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name].view(torch.uint8), expected[name].view(torch.uint8)) for name in made)


def test_safetensors_come_first(tmp_path: Path, quantize: Quantize) -> None:
    shutil.copytree(SINGLE, tmp_path / "source")
    (tmp_path / "source/pytorch_model.bin").write_bytes(b"never looked at")
    quantize(tmp_path / "source", tmp_path / "made")


class Executes:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


CALLS = [
    (os.system, ("touch {}",), "posix.system"),
    (eval, ("open({!r}, 'w').close()",), "eval"),
    (open, ("{}", "w"), "io.open"),
    (subprocess.Popen, (["touch", "{}"],), "commands.Popen"),
    (os.rename, ("/proc/self/exe", "{}"), "posix.rename"),
    (torch.load, ("{}",), "torch.serialization.load"),
]


def turned(weights: dict[str, Any], path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.save(weights | {name: weights[name].t()}, path)


def legacy(weights: dict[str, Any], path: Path) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def compressed(weights: dict[str, Any], path: Path) -> None:
    saved = io.BytesIO()
    torch.save(weights, saved)
    with zipfile.ZipFile(saved) as entries, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for entry in entries.namelist():
            made.writestr(entry, entries.read(entry))


def big_endian(weights: dict[str, Any], path: Path) -> None:
    saved = io.BytesIO()
    torch.save(weights, saved)
    with zipfile.ZipFile(saved) as entries, zipfile.ZipFile(path, "w") as made:
        for entry in entries.namelist():
            made.writestr(entry, b"big" if entry.endswith("/byteorder") else entries.read(entry))


def in_another_order(weights: dict[str, Any], path: Path) -> None:
    saved = io.BytesIO()
    torch.save(weights, saved)
    with zipfile.ZipFile(saved) as entries, zipfile.ZipFile(path, "w") as made:
        for entry in reversed(entries.namelist()):
            made.writestr(entry, entries.read(entry))


def nested(weights: dict[str, Any], path: Path) -> None:
    torch.save({"state_dict": weights, "epoch": 3}, path)


def cut_off(weights: dict[str, Any], path: Path) -> None:
    torch.save(weights, path)
    os.truncate(path, path.stat().st_size // 2)


UNUSUAL: list[tuple[Callable[[dict[str, Any], Path], object], str]] = [
    (legacy, "is no file of torch.save's, or one from before torch 1.6: load and save it again"),
    (cut_off, "is no file of torch.save's, or one from before torch 1.6: load and save it again"),
    (lambda w, path: path.write_bytes(b""), "is no file of torch.save's, or one from before"),
    (lambda w, path: path.write_bytes(pickle.dumps({})), "is no file of torch.save's, or one from"),
    (compressed, "is compressed, which torch.save does not do: "),
    (big_endian, "was written on a big-endian machine"),
    (in_another_order, "is not laid out as torch.save does it: the tensor "),
    (nested, "holds more than tensors by name: 'state_dict'"),
    (lambda w, path: torch.save(list(w.values()), path), "holds a list, not tensors by name"),
    (lambda w, path: torch.save(w | {3: torch.zeros(1)}, path), "holds more than tensors by name: '3'"),
    (turned, "holds the tensor model.layers.0.self_attn.q_proj.weight in another order than its own"),
]


def test_what_is_not_tensors_by_name_is_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    """All in one process that reads pickles: what one file asks for does not keep it from the next."""
    weights, trace = load_file(SINGLE / "model.safetensors"), tmp_path / "trace"

    def filled(value: Any) -> Any:
        return [filled(each) for each in value] if isinstance(value, list) else value.format(str(trace))

    expected = []
    for number, (function, arguments, name) in enumerate(CALLS):
        call = Executes(function, *map(filled, arguments))
        torch.save(weights | {"extra": call}, tmp_path / f"{number}.bin")
        expected.append(f"asks for {name}, which no tensor needs: refused, and nothing was executed")
    for number, (save, problem) in enumerate(UNUSUAL, len(CALLS)):
        save(weights, tmp_path / f"{number}.bin")
        expected.append(problem)
    torch.save(weights, tmp_path / f"{len(expected)}.bin")
    files = [(tmp_path / f"{number}.bin").open("rb") for number in range(len(expected) + 1)]
    *found, last = pickled.ask([file.fileno() for file in files])
    for file in files:
        file.close()
    for answer, problem in zip(found, expected, strict=True):
        assert answer.get("error", "").startswith(problem)
    assert {name for name, *_ in last["tensors"]} == weights.keys()
    assert not trace.exists()


def test_a_refusal_is_one_line_that_names_the_file(tmp_path: Path, quantize: Quantize) -> None:
    def save(weights: dict[str, Any], path: Path) -> None:
        torch.save(weights | {"extra": Executes(os.system, "true")}, path)

    source = as_pickles(SINGLE, tmp_path / "source", save)
    with pytest.raises(QuantizeError) as caught:
        quantize(source, tmp_path / "made")
    assert str(caught.value) == (
        f"{source / 'pytorch_model.bin'} asks for posix.system, which no tensor needs: refused, and nothing "
        "was executed"
    )
    assert os.listdir(tmp_path) == ["source"]


def test_a_missing_shard(tmp_path: Path, quantize: Quantize) -> None:
    source = as_pickles(SHARDED, tmp_path / "source")
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(QuantizeError, match=r"lacks 1 of 2 weight files, such as pytorch_model-00002-of-"):
        quantize(source, tmp_path / "made")


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("raise SystemExit(3)", "the process that reads torch's pickles ended with status 3"),
        ("print('[')", "the process that reads torch's pickles ended with status "),
        ("print('[' * 10**6)", "the process that reads torch's pickles ended with status "),
        ("print('{}')", "the process that reads torch's pickles gave no answer that can be used"),
        (
            "import os, time; os.write(1, b'[[]]'); os.close(1); time.sleep(600)",
            None,
        ),
    ],
)
def test_a_process_that_fails_is_one_line_and_one_that_stays_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, problem: str | None
) -> None:
    (tmp_path / "child.py").write_text(program)
    monkeypatch.setattr(pickled, "_CHILD", tmp_path / "child.py")
    if problem is None:
        assert pickled.ask([0]) == [[]]
        return
    with pytest.raises(QuantizeError) as caught:
        pickled.ask([0])
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (["x", "complex64", [2], 0], ": tensor x is of dtype complex64, which is not supported"),
        (["x", "float32", [2, 3], 1], " is not whole: the tensor x lies outside"),
        (["x", "float32", [2], -8], " is not whole: the tensor x lies outside"),
        (["x", "float32", [-1, 2], 0], " is not whole: the tensor x lies outside"),
        (["x", "float32", [1 << 40, 1 << 40], 0], " is not whole: the tensor x lies outside"),
        (["x", "float32", ["2"], 0], " has a pickle whose tensors cannot be understood"),
        ([7, "float32", [2], 0], " has a pickle whose tensors cannot be understood"),
        (["x", [], [2], 0], " has a pickle whose tensors cannot be understood"),
        (["x", "float32"], " has a pickle whose tensors cannot be understood"),
        (None, " has a pickle whose tensors cannot be understood"),
    ],
)
def test_what_the_process_says_is_not_believed(tmp_path: Path, entry: object, problem: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(bytes(24))
    with pytest.raises(QuantizeError) as caught:
        pickled.header(path, {"tensors": [entry]})
    assert str(caught.value) == f"{path}{problem}"


CONFINED = """
import importlib.util, json, os, signal, socket, subprocess, sys, resource
spec = importlib.util.spec_from_file_location("unpickle", sys.argv[1])
unpickle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unpickle)
folder, listener, parent = sys.argv[2], int(sys.argv[3]), os.getppid()
taken = open(folder + "/taken", "w")
unpickle.confine()

def written():
    taken.write("x")
    taken.flush()

def spawned():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)

def raised():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
attempts = {
    "open": lambda: open(folder + "/file", "w"),
    "read": lambda: open("/etc/hostname"),
    "write": written,
    "connect": lambda: socket.create_connection(("127.0.0.1", listener)),
    "pipe": os.pipe,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: subprocess.run(["/bin/true"]),
    "raise the limits": raised,
    "become another": lambda: os.setuid(1),
    "unlink": lambda: os.unlink(folder + "/kept"),
    "signal": lambda: os.kill(parent, 0),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except (OSError, ValueError) as error:
        found[name] = type(error).__name__
os.write(1, json.dumps(found).encode())
"""


def test_the_process_that_reads_pickles_can_do_nothing(tmp_path: Path) -> None:
    """Even if a pickle took it over: what is tried here is tried from within."""
    (tmp_path / "kept").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-I", "-c", CONFINED, unpickle.__file__, str(tmp_path)]
        command.append(str(listener.getsockname()[1]))
        process = subprocess.run(command, capture_output=True, text=True, env=pickled.ENVIRONMENT)
    found = json.loads(process.stdout)
    by_landlock = {"unlink", "execute", "signal"} if _has_landlock() else set()
    by_limits = found.keys() - {"unlink", "execute", "signal"}
    assert {name for name in by_limits | by_landlock if found[name] == "done"} == set()
    assert (tmp_path / "kept").exists() or not by_landlock
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "taken").read_text() == ""


def _has_landlock() -> bool:
    import ctypes

    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) >= 6
