"""The wheel holds everything, and works in an environment that has only the engine."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", out, ROOT],
        check=True,
    )
    (path,) = out.glob("octet_serve-*.whl")
    return path


def test_wheel_holds_code_kernels_stubs_and_checkpoint(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert f"octet/_C{suffix}" in names
    assert f"octet/_C_weights{suffix}" in names
    assert "octet/v1/chat_service_pb2.py" in names
    assert "octet/v1/chat_service_pb2.pyi" in names
    assert "octet/v1/chat_service_pb2_grpc.py" in names
    assert "octet/demo/model.safetensors" in names
    assert "octet/demo/chat_template.jinja" in names
    for name in ("octet-torchvision-shim.pth", "octet-lifeline.pth"):
        assert any(path.endswith(f"/{name}") for path in names)
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]


def test_wheel_registers_the_command_and_the_plugin(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    text = archive.read(name).decode()
    assert "octet = octet.__main__:main" in text
    assert "octet = octet.engine.vllm.plugin:register" in text


def test_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """A new environment that sees this one's libraries, but not its editable install of Octet."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith("octet"):
            (libraries / entry.name).symlink_to(entry)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], env=environment, check=True)
    environment["PYTHONPATH"] = str(libraries)

    shown = subprocess.run(
        [python, "-m", "octet", "doctor", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    report = json.loads(shown.stdout)
    assert report["kernels"]["isa"], shown.stderr
    where = subprocess.run(
        [python, "-c", "import octet; print(octet.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in where.stdout
