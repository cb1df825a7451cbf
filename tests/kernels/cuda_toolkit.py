"""Finds the CUDA toolkit that the tests compile with, and the tool that reads compiled kernels."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


def cuda_include() -> Path:
    """Where the headers of the toolkit are; skips the test where there is none."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        pytest.skip("nvcc was not found, and with it CUDA's headers")
    # The toolkit that nvcc belongs to, which nvcc itself names (it may be a wrapper in some PATH).
    dry_run = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    (top,) = [line.split("=", 1)[1] for line in dry_run.stderr.splitlines() if line.startswith("#$ TOP=")]
    return Path(top) / "include"


def compile_for_host(sources: list[Path], library: Path) -> Path:
    """Compiles device code that is free of host API with the host's compiler, checked by UBSan.

    UBSan finds the accesses that are not aligned, which a GPU would refuse. Products and sums are not
    contracted, since the kernels' own ``fmaf`` say where they are.
    """
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", *checks]
    includes = [f"-I{CSRC}", "-isystem", str(cuda_include())]
    subprocess.run(
        [compiler, *options, "-shared", "-fPIC", *includes, *map(str, sources), "-o", str(library)],
        check=True,
        timeout=280,
    )
    return library


def cuobjdump() -> str:
    """The disassembler: the toolkit's, or the one that comes with triton; skips the test without."""
    triton = importlib.util.find_spec("triton")
    packaged = [] if triton is None or triton.origin is None else [Path(triton.origin).parent]
    folders = ["/usr/local/cuda/bin", *(str(top / "backends/nvidia/bin") for top in packaged)]
    tool = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=":".join(folders))
    if tool is None:
        pytest.skip("cuobjdump was not found")
    return tool
