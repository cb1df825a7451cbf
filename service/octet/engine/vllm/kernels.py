"""Whether Octet's kernels are wanted, whether they can be used here, and what they are called in reports."""

import os
from collections.abc import Mapping, Sequence

from octet.errors import StartupError

SWITCH = "OCTET_KERNELS"

# What takes vLLM's place where it has a kernel for the device; the first is what Octet cannot do without.
QUANTIZATION = "per_token_quant_fp8"
FUSED = (
    "gemma_rms_norm_quant_fp8",
    "gemma_norm_add_norm_quant_fp8",
    "gelu_tanh_and_mul_quant_fp8",
    "silu_and_mul_quant_fp8",
    "gemma_rms_norm",
    "rms_norm_quant_fp8",
    "qk_norm_rope",
)
BF16_LINEAR = "bf16_linear"
OPERATORS = (QUANTIZATION, "fp8_linear", *FUSED, BF16_LINEAR)

DEVICES = ("cpu", "cuda")
"""What there are kernels for; everywhere else Octet stays out."""


def wanted() -> bool:
    """Whether the environment leaves the kernels on.

    Raises:
        StartupError: when the switch holds neither "on" nor "off".
    """
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise StartupError(f"{SWITCH}={value!r} is neither 'on' nor 'off'")
    return value == "on"


def unavailable_reason(device: str) -> str | None:
    """Why the kernels cannot run on `device`, a name of vLLM's; None when they can."""
    if device not in DEVICES:
        return f"there are kernels for {' and '.join(DEVICES)}, and none for {device or 'no device'}"
    try:
        import octet.ops  # noqa: F401  (registers torch.ops.octet)
    except Exception as error:  # whatever goes wrong in a foreign library's loading must not stop vLLM
        return f"the compiled extension cannot be loaded: {str(error).strip().splitlines()[0]}"
    if QUANTIZATION not in operators(device):
        how = "; install octet-serve again where nvcc is found (OCTET_CUDA=ON)" if device == "cuda" else ""
        return f"the extension was built without kernels for {device}{how}"
    if device == "cuda":
        return _unsuitable_gpu()
    return None


def runs_on(archs: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code for these architectures runs on a GPU of this compute capability.

    Machine code ("sm_86") does within its major version from its minor one on, PTX ("compute_90") on whatever
    is not older, and what is made for one architecture alone ("sm_90a") nowhere else.
    """
    for arch in archs:
        kind, _, number = arch.partition("_")
        built = divmod(int(number.rstrip("a")), 10)
        if built == capability:
            return True
        if (
            built < capability
            and not number.endswith("a")
            and (kind == "compute" or built[0] == capability[0])
        ):
            return True
    return False


def _unsuitable_gpu() -> str | None:
    import octet.ops
    from octet.engine.vllm import compat

    capability = compat.devices.capability()
    archs = octet.ops.cuda_archs()
    if capability is None or runs_on(archs, capability):
        return None
    return f"the kernels were built for {', '.join(archs)}, and this GPU is {capability[0]}.{capability[1]}"


def operators(device: str) -> tuple[str, ...]:
    """Those of OPERATORS that run on `device`.

    An extension that was built from an older tree lacks some, and what has a schema need not have a kernel
    for the device.
    """
    if device not in DEVICES:
        return ()
    import torch

    key = device.upper()
    known = [name for name in OPERATORS if hasattr(torch.ops.octet, name)]
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(name for name in known if has_kernel(f"octet::{name}", key))


def in_place(device: str) -> tuple[str, ...]:
    """Those of `operators` that take vLLM's place: the product with bf16 weights only where it is faster."""
    return tuple(name for name in operators(device) if name != BF16_LINEAR or multiplies_bf16())


def multiplies_narrow() -> bool:
    """Whether this CPU has instructions for products in bf16."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    names = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    return any(bool(capabilities.get(name)) for name in names)


def multiplies_bf16() -> bool:
    """Whether Octet multiplies by bf16 weights: on CPUs without instructions for it, where that is faster.

    The portable kernel is for tests.
    """
    import octet.ops

    return BF16_LINEAR in operators("cpu") and not multiplies_narrow() and octet.ops.isa() != "scalar"


def describe(device: str) -> str:
    """The kernels that take vLLM's place on `device`, as the log names them."""
    name = variant(device)
    return " ".join(f"{operator}={name}" for operator in in_place(device))


def summarize(reports: Sequence[Mapping[str, int]]) -> tuple[str, ...]:
    """What the workers report (`WorkerExtension.octet_active_kernels`), for people to read.

    Args:
        reports: by rank, how many layers run each kernel.

    Returns:
        A line for each kernel, in alphabetical order; where ranks differ, a line for each that has it.
    """
    lines = []
    for name in sorted({name for report in reports for name in report}):
        counts = [report.get(name, 0) for report in reports]
        if len(reports) == 1:
            lines.append(f"{name} in {counts[0]} layers")
        elif len(set(counts)) == 1:
            lines.append(f"{name} in {counts[0]} layers of each of {len(counts)} ranks")
        else:
            lines += [
                f"{name} in {count} layers of rank {rank}" for rank, count in enumerate(counts) if count
            ]
    return tuple(lines)


def variant(device: str) -> str:
    """The name of the kernels that run on `device`, such as octet/avx512_bf16."""
    if device == "cpu":
        import octet.ops

        return f"octet/{octet.ops.isa()}"
    return f"octet/{device}"
