"""The shim in real interpreters: what it must do, and what it must not cost."""

import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch

from octet import _torchvision_shim as shim

PTH = Path(shim.__file__).parents[1] / "octet-torchvision-shim.pth"


def trap_is_here() -> bool:
    spec = PathFinder.find_spec("torchvision")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return not torch.version.cuda and not shim.library_loads(list(spec.submodule_search_locations))


needs_trap = pytest.mark.skipif(
    not trap_is_here(),
    reason="torchvision's own library loads beside this torch",
)


def run(*args: str) -> str:
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@needs_trap
def test_torchvision_and_its_transforms_import() -> None:
    assert (
        run("-c", "import torchvision.transforms.v2 as v2; print(v2.__name__)") == "torchvision.transforms.v2"
    )


@needs_trap
def test_without_the_shim_the_import_dies() -> None:
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '_Finder' not in repr(f)]"
    done = subprocess.run(
        [sys.executable, "-c", code + "\nimport torchvision"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "torchvision::nms does not exist" in done.stderr


@needs_trap
def test_a_child_of_a_child_is_covered() -> None:
    child = "import torchvision; print(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert run("-c", code) == "1"


def test_interpreter_start_loads_nothing_heavy() -> None:
    code = "import sys; print(sorted({'torch', 'numpy', 'importlib.util', 'pathlib'} & set(sys.modules)))"
    assert run("-c", code) == "[]"


def test_looking_torchvision_up_does_not_import_torch() -> None:
    code = "import sys, importlib.util as u; u.find_spec('torchvision'); print('torch' in sys.modules)"
    assert run("-c", code) == "False"


def test_the_line_survives_without_octet() -> None:
    line = PTH.read_text()
    assert len(line.splitlines()) == 1
    assert run("-S", "-I", "-c", line + "print('alive')") == "alive"


def test_install_twice_is_install_once() -> None:
    shim.install()
    shim.install()
    assert sys.meta_path.count(shim._Finder) == 1
