"""What the CUDA library was compiled to: architectures, local memory, instructions and their order."""

import re
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from octet import _C, ops
from octet.engine.vllm import kernels
from tests.kernels.cuda_toolkit import cuobjdump

TORCH_CUDA = "13.0"
"""The CUDA that the pinned torch is built with, where this one is built for CPUs."""
LIBRARY = Path(_C.__file__).with_name("_C_cuda.so")
ARCHS = ["sm_80", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120"]
KERNELS = 87  # for each of 3 dtypes 7 sources of rows, 4 kernels for rows of different lengths; rotated heads

built = pytest.mark.skipif(not ops.cuda_archs(), reason="octet was built without CUDA")


def device_code(library: bytes) -> Iterator[str]:
    """Architectures in a library's fat binaries: "sm_90" of machine code, "compute_90" of PTX.

    A fat binary is a header (magic, version, header size, payload size) and entries that each begin
    with kind, version, header size, payload size; the architecture is at byte 28.
    """
    position = library.find(b"\x50\xed\x55\xba")
    while position >= 0:
        header_size, size = struct.unpack_from("<HQ", library, position + 6)
        entry = position + header_size
        end = entry + size
        while entry < end:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", library, entry)
            (arch,) = struct.unpack_from("<I", library, entry + 28)
            yield f"{ {1: 'compute', 2: 'sm'}[kind] }_{arch}"
            entry += entry_header + payload
        position = library.find(b"\x50\xed\x55\xba", end)


def disassembled(*options: str) -> str:
    """What cuobjdump says of the library, names of functions as the compiler wrote them."""
    command = [cuobjdump(), *options, str(LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout


@built
def test_the_library_holds_code_for_every_architecture_that_is_claimed() -> None:
    claimed = ops.cuda_archs()
    assert claimed == [*ARCHS, "compute_90"]
    assert set(device_code(LIBRARY.read_bytes())) == set(claimed)
    assert ops.build_info()["cuda_compiler"].startswith("nvcc ")


@pytest.mark.skipif(bool(ops.cuda_archs()), reason="octet was built with CUDA")
def test_a_build_without_cuda_has_no_library() -> None:
    assert not LIBRARY.exists()
    assert ops.build_info()["cuda_compiler"] == ""


@built
def test_no_kernel_spills_registers_on_any_architecture() -> None:
    """Spilled registers would lie in local memory, of which the stack is a part."""
    kernels: dict[str, int] = defaultdict(int)
    arch = function = ""
    for line in disassembled("-res-usage").splitlines():
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            function = match[1]
        elif match := re.match(r"\s*REG:\d+ STACK:(\d+) .*LOCAL:(\d+)", line):
            assert (match[1], match[2]) == ("0", "0"), f"{function} on {arch} uses local memory"
            kernels[arch] += 1
    assert kernels == dict.fromkeys(ARCHS, KERNELS)


@built
@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_consist_of_the_instructions_that_they_are_written_for(arch: str) -> None:
    kernels = disassembled("-sass", "-arch", arch).split("Function : ")[1:]
    assert len(kernels) == KERNELS
    has_conversion = arch != "sm_80"
    has_dependent_launch = arch not in ("sm_80", "sm_89")
    for kernel in kernels:
        name = kernel.split(maxsplit=1)[0]
        instructions = set(re.findall(r"\s([A-Z][A-Z0-9]+(?:\.[A-Z0-9_]+)*)[ ;]", kernel))
        opcodes = {instruction.split(".")[0] for instruction in instructions}
        takes_vectors = "norm_and_rotate_heads" not in name  # a head is short
        assert ("LDG.E.128" in instructions) == takes_vectors, name
        assert ("STG.E.128" in instructions) == takes_vectors, name
        assert not {"LDL", "STL"} & opcodes, f"{name} uses local memory"
        converts = has_conversion and takes_vectors and "GemmaRmsNormRow" not in name
        assert has_fp8_conversion(instructions, "E4M3") == converts, name
        assert has_fp8_conversion(instructions, "E5M2") == converts, name
        # griddepcontrol.wait and griddepcontrol.launch_dependents.
        assert ({"ACQBULK", "PREEXIT"} <= opcodes) == has_dependent_launch, name


def has_fp8_conversion(instructions: set[str], fmt: str) -> bool:
    """Whether two f32 are rounded and saturated to FP8 by one instruction."""
    return any(i.startswith("F2FP.SATFINITE.") and f".{fmt}." in i and ".F32" in i for i in instructions)


GPUS = {
    "A100": (8, 0),
    "A10, L4's elder": (8, 6),
    "Orin": (8, 7),
    "L4, L40S": (8, 9),
    "H100, H200, GH200": (9, 0),
    "B200, GB200": (10, 0),
    "B300, GB300": (10, 3),
    "Thor": (11, 0),
    "RTX 5090, RTX PRO 6000": (12, 0),
    "GB10": (12, 1),
}


@pytest.mark.parametrize("gpu", GPUS)
def test_every_gpu_since_ampere_has_machine_code(gpu: str) -> None:
    machine_code = [arch for arch in ARCHS if arch.startswith("sm_")]
    assert kernels.runs_on(machine_code, GPUS[gpu])


def test_newer_gpus_compile_the_ptx_and_older_ones_get_nothing() -> None:
    assert kernels.runs_on(["compute_90"], (13, 0))
    assert not kernels.runs_on(ARCHS, (13, 0))
    assert not kernels.runs_on([*ARCHS, "compute_90"], (7, 5))
    assert not kernels.runs_on(["sm_90a", "sm_100a", "sm_120a"], (10, 3))
    assert not kernels.runs_on(["sm_89"], (8, 6))


@built
def test_drivers_of_torchs_cuda_take_the_ptx() -> None:
    """PTX of a newer compiler is refused by a driver that is as old as torch's CUDA."""
    cuda = Version(TORCH_CUDA if torch.version.cuda is None else torch.version.cuda)
    compiler = Version(ops.build_info()["cuda_compiler"].removeprefix("nvcc "))
    if compiler > cuda:
        pytest.skip(f"this build's compiler, {compiler}, is newer than torch's CUDA, {cuda}")
    versions = set(re.findall(r"^\.version (\d+\.\d+)", disassembled("-ptx"), re.MULTILINE))
    assert versions
    # PTX 9.0 came with CUDA 13.0, 8.7 with 12.8; the difference of major versions is four.
    assert all(Version(version) <= Version(f"{cuda.major - 4}.{cuda.minor}") for version in versions)


def longest_run_of_loads(kernel: str) -> int:
    """The most 16-byte loads of global memory that no instruction on loaded values comes between."""
    loaded: set[str] = set()
    run = longest = 0
    for line in kernel.splitlines():
        match = re.search(r"\s(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)\s+([^;]*);", line)
        if match is None:
            continue
        opcode, operands = match[1], match[2]
        if opcode.startswith("LDG.E.128"):
            register = int(re.match(r"R(\d+)", operands)[1])  # type: ignore[index]
            loaded |= {f"R{register + i}" for i in range(4)}
            run += 1
            longest = max(longest, run)
            continue
        if loaded & set(re.findall(r"\bR\d+\b", operands.partition(",")[2])):
            run, loaded = 0, set()
    return longest


@built
@pytest.mark.parametrize(
    ("source", "kernel", "loads"),
    [
        # Two 16-byte loads for each chunk of a row and of each weight.
        ("PlainRow", "BlockGroupELi1", 2),
        ("PlainRow", "BlockGroupELi2", 4),
        ("GatedRow", "BlockGroupELi1", 4),
        ("GatedRow", "BlockGroupELi2", 8),
        ("GemmaRmsNormRow", "WarpGroupELi2", 8),
        ("RmsNormQuantRowINS0_8BFloat16ELb0", "BlockGroupELi1", 6),
        ("RmsNormQuantRowINS0_8BFloat16ELb0", "BlockGroupELi2", 12),
        ("RmsNormQuantRowINS0_8BFloat16ELb1", "BlockGroupELi1", 8),
        ("RmsNormQuantRowINS0_8BFloat16ELb1", "BlockGroupELi2", 16),
    ],
)
def test_all_loads_are_under_way_before_the_first_is_used(source: str, kernel: str, loads: int) -> None:
    found = [
        text
        for text in disassembled("-sass", "-arch", "sm_90").split("Function : ")[1:]
        if source in text.split(maxsplit=1)[0]
        and kernel in text.split(maxsplit=1)[0]
        and "BFloat16" in text.split(maxsplit=1)[0]
    ]
    assert found
    for text in found:
        assert longest_run_of_loads(text) >= loads, text.split(maxsplit=1)[0]
