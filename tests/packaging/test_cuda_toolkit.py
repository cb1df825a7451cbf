"""Which nvcc CMake takes, beside which torch; what it says where there is none that fits. Configures, builds
nothing.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """An environment's packages with a torch that has only what CMake reads of it."""
    config = tmp_path / "site-packages" / "torch" / "share" / "cmake" / "Torch"
    config.mkdir(parents=True)
    (config / "TorchConfig.cmake").write_text('set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=1")\n')
    return tmp_path / "site-packages"


def torch_for(site_packages: Path, cuda: str | None) -> None:
    lines = [
        "__version__ = '2.13.0'",
        "debug = False",
        f"cuda: Optional[str] = {cuda!r}",
        "git_version = '12.34'",
    ]
    (site_packages / "torch" / "version.py").write_text("\n".join(lines) + "\n")


def nvcc(folder: Path, release: str | None = None) -> Path:
    """An nvcc that says it is of a release, or this machine's own under another path."""
    folder.mkdir(parents=True)
    path = folder / "nvcc"
    if release is None:
        real = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
        if real is None:
            pytest.skip("there is no nvcc on this machine")
        path.write_text(f'#!/bin/sh\nexec "{real}" "$@"\n')
    else:
        path.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n")
    path.chmod(0o755)
    return path


def configure(site_packages: Path, option: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What CMake says, with no nvcc in the PATH but those that the test put somewhere."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDA_HOME", "CUDA_PATH")}
    compiler = shutil.which("c++")
    assert compiler is not None
    command = [
        *(str(SCRIPTS / "cmake"), "-S", str(ROOT), "-B", str(site_packages.parent / "build"), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={SCRIPTS / 'ninja'}",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DTorch_DIR={site_packages / 'torch/share/cmake/Torch'}",
        f"-DOCTET_CUDA={option}",
        # Nor in the places where distributions install to.
        "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF",
        f"-DOCTET_CUDA_DEFAULT={site_packages.parent / 'none'}",
    ]
    tools = {
        path for name in ("c++", "as", "ld", "sh") if (path := os.path.dirname(shutil.which(name) or ""))
    }
    folder = site_packages.parent / "bin"
    folder.mkdir(exist_ok=True)
    for tool in tools:
        for entry in Path(tool).iterdir():
            link = folder / entry.name
            if not entry.name.startswith("nvcc") and not link.exists():
                link.symlink_to(entry)
    return subprocess.run(
        command,
        env=inherited | {"PATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def said(result: "subprocess.CompletedProcess[str]") -> str:
    """All of it, as one line."""
    return " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize("option", ["AUTO", "ON"])
def test_a_cuda_torch_without_nvcc_is_an_error_that_names_it(site_packages: Path, option: str) -> None:
    torch_for(site_packages, "13.0")
    result = configure(site_packages, option)
    assert result.returncode != 0
    assert "nvcc was not found" in said(result)
    assert "pip install nvidia-cuda-nvcc==13.0.*" in said(result)
    assert "nvidia/cu13/bin" in said(result)


def test_off_leaves_them_out_beside_any_torch(site_packages: Path) -> None:
    torch_for(site_packages, "13.0")
    result = configure(site_packages, "OFF")
    assert result.returncode == 0, result.stderr
    assert "left out: OCTET_CUDA=OFF" in said(result)


def test_a_cpu_torch_without_nvcc_goes_without(site_packages: Path) -> None:
    torch_for(site_packages, None)
    result = configure(site_packages, "AUTO")
    assert result.returncode == 0, result.stderr
    assert "the CUDA kernels are left out: nvcc was not found" in said(result)
    assert configure(site_packages, "ON").returncode != 0


@pytest.mark.parametrize("release", ["12.9", "14.1"])
def test_another_major_version_than_torchs_is_refused(site_packages: Path, release: str) -> None:
    torch_for(site_packages, "13.0")
    compiler = nvcc(site_packages.parent / "toolkit" / "bin", release)
    for option in ("AUTO", "ON"):
        result = configure(site_packages, option, CUDACXX=str(compiler))
        assert result.returncode != 0
        assert f"nvcc is {release}, and torch was built with CUDA 13.0" in said(result)


def test_a_toolkit_that_is_too_old_is_refused(site_packages: Path) -> None:
    torch_for(site_packages, "12.6")
    nvcc(site_packages.parent / "toolkit" / "bin", "12.6")
    result = configure(site_packages, "AUTO", CUDA_HOME=str(site_packages.parent / "toolkit"))
    assert result.returncode != 0
    assert "12.6, and sm_100 and sm_120 need 12.8" in said(result)


def test_nvcc_out_of_pips_packages_is_taken(site_packages: Path) -> None:
    """With a driver and pip alone: vLLM's dependencies bring it. Before whatever is in the PATH."""
    torch_for(site_packages, "13.0")
    compiler = nvcc(site_packages / "nvidia" / "cu13" / "bin")
    nvcc(site_packages.parent / "other", "12.9")
    result = configure(site_packages, "AUTO")
    assert result.returncode == 0, result.stderr
    assert f"building the CUDA kernels with {compiler}" in said(result).replace("/torch/../", "/")


def test_what_the_environment_names_comes_first(site_packages: Path) -> None:
    torch_for(site_packages, "13.0")
    nvcc(site_packages / "nvidia" / "cu13" / "bin")
    named = nvcc(site_packages.parent / "toolkit" / "bin", "12.9")
    result = configure(site_packages, "AUTO", CUDACXX=str(named))
    assert f"{named} is 12.9" in said(result)
