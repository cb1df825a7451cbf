"""Whether Octet's kernels are wanted, whether they can be used here, and what they are called in reports."""

import os

from octet.errors import StartupError

SWITCH = "OCTET_KERNELS"


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
    """Why the kernels cannot run on `device` ("cpu" or "cuda"); None when they can."""
    import torch

    try:
        import octet.ops  # noqa: F401  (registers torch.ops.octet)

        # An operator that has a schema need not have a kernel for the device.
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(
            "octet::per_token_quant_fp8", device.upper()
        )
    except Exception as error:  # whatever goes wrong in a foreign library's loading must not stop vLLM
        return f"the compiled extension cannot be loaded: {str(error).strip().splitlines()[0]}"
    return None if has_kernel else f"the extension was built without kernels for {device}"


def variant(device: str) -> str:
    """The name of the kernels that run on `device`, such as octet/avx512_bf16."""
    if device == "cpu":
        import octet.ops

        return f"octet/{octet.ops.isa()}"
    return f"octet/{device}"
