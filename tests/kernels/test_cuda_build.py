"""What the CUDA library was compiled to: architectures, local memory, instructions."""

import re
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from octet import _C, ops
from tests.kernels.cuda_toolkit import cuobjdump

LIBRARY = Path(_C.__file__).with_name("_C_cuda.so")
ARCHS = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"]
KERNELS = 48  # 4 operators, 3 dtypes, 4 kernels for rows of different lengths

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
    assert set(device_code(LIBRARY.read_bytes())) == {arch.rstrip("a") for arch in claimed}
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
        assert "LDG.E.128" in instructions, name
        assert "STG.E.128" in instructions, name
        assert not {"LDL", "STL"} & opcodes, f"{name} uses local memory"
        assert has_fp8_conversion(instructions, "E4M3") == has_conversion, name
        assert has_fp8_conversion(instructions, "E5M2") == has_conversion, name
        # griddepcontrol.wait and griddepcontrol.launch_dependents.
        assert ({"ACQBULK", "PREEXIT"} <= opcodes) == has_dependent_launch, name


def has_fp8_conversion(instructions: set[str], fmt: str) -> bool:
    """Whether two f32 are rounded and saturated to FP8 by one instruction."""
    return any(i.startswith("F2FP.SATFINITE.") and f".{fmt}." in i and ".F32" in i for i in instructions)
