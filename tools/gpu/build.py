"""Builds the CUDA kernels and their operators into one library, without CMake, for the GPU of this
machine.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LEAST_NVCC = (12, 8)
# CMake's flags for the same files are in CMakeLists.txt.
_NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden")
_CXX_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden")


class BuildError(Exception):
    """The message says in one line what is missing, or what the compiler said."""


def find_nvcc() -> tuple[Path, tuple[int, int]]:
    """The toolkit's compiler and its version.

    Raises:
        BuildError: there is none, or it is too old.
    """
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    candidates = [os.environ.get("CUDACXX"), *(f"{home}/bin/nvcc" for home in homes if home)]
    candidates += [_packaged_nvcc(), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            said = subprocess.run(
                [candidate, "--version"], capture_output=True, text=True, check=False
            ).stdout
            release = said.partition("release ")[2].partition(",")[0]
            version = tuple(int(part) for part in release.split("."))
            if len(version) != 2:
                raise BuildError(f"{candidate} --version says no release")
            if version < _LEAST_NVCC:
                raise BuildError(f"{candidate} is {release}, and 12.8 or newer is needed")
            return Path(candidate), (version[0], version[1])
    raise BuildError("there is no nvcc: set CUDA_HOME to a CUDA toolkit")


def toolkit_of(nvcc: Path) -> Path:
    """The toolkit's folder as the compiler tells it: what is on the path may be a link or a script elsewhere.

    Raises:
        BuildError: the compiler does not tell.
    """
    plan = subprocess.run([nvcc, "--dryrun", "any.cu"], capture_output=True, text=True, check=False).stderr
    for line in plan.splitlines():
        if line.startswith("#$ TOP="):
            return Path(line.partition("=")[2]).resolve()
    raise BuildError(f"{nvcc} --dryrun does not say where its toolkit is")


def _packaged_nvcc() -> str | None:
    """The nvcc that pip installed beside torch."""
    import torch

    major = str(torch.version.cuda or "").partition(".")[0]
    path = Path(torch.__file__).parents[1] / "nvidia" / f"cu{major}" / "bin" / "nvcc"
    return str(path) if path.exists() else None


def architecture() -> str:
    """Of the current GPU, such as "sm_90".

    Raises:
        BuildError: torch finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise BuildError("torch finds no GPU on this machine; see nvidia-smi")
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def build(folder: Path, arch: str, defines: tuple[str, ...] = ()) -> Path:
    """Compiles csrc/cuda with its operators; seconds on many cores, a minute or two on few.

    Args:
        folder: for the objects and the library, which is made anew.
        arch: such as "sm_90".
        defines: values for constants of csrc/cuda/tuning.h, such as "OCTET_TUNE_BLOCK_THREADS=1024".

    Returns:
        The library, for torch.ops.load_library.

    Raises:
        BuildError: with the compiler's first error.
    """
    import torch
    from torch.utils import cpp_extension

    nvcc, _ = find_nvcc()
    folder.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "c++")
    toolkit = toolkit_of(nvcc)
    virtual = arch.replace("sm_", "compute_")
    shared = [f"-I{ROOT / 'csrc'}", *(f"-D{define}" for define in defines)]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    torch_includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    commands = {}
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        target = folder / f"{source.stem}.o"
        generate = f"--generate-code=arch={virtual},code={arch}"
        commands[target] = [str(nvcc), *_NVCC_FLAGS, generate, f"-ccbin={compiler}", *shared]
        commands[target] += ["-c", str(source), "-o", str(target)]
    for name in ("cuda_ops", "schemas"):
        target = folder / f"{name}.o"
        commands[target] = [
            compiler,
            *_CXX_FLAGS,
            abi,
            *shared,
            f"-isystem{toolkit / 'include'}",
            *torch_includes,
        ]
        commands[target] += ["-c", str(ROOT / "csrc" / f"{name}.cpp"), "-o", str(target)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands.values()))

    library = folder / "octet_cuda.so"
    lib = Path(torch.__file__).parent / "lib"
    runtime = [f"-L{path}" for path in (toolkit / "lib64", toolkit / "lib") if path.exists()]
    link = [compiler, "-shared", *map(str, commands), f"-L{lib}", "-lc10", "-ltorch_cpu", *runtime]
    _run([*link, "-lcudart_static", "-ldl", "-lrt", "-lpthread", "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in (result.stderr + result.stdout).splitlines() if "error" in line.lower()]
        raise BuildError(f"{Path(command[0]).name}: {lines[0] if lines else result.stderr.strip()[-300:]}")
