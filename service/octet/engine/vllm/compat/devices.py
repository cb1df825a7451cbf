"""What vLLM computes on here, and why that may be nothing."""

import os
from pathlib import Path

# NVIDIA's lowest driver for the major version of CUDA that torch was built with.
_DRIVERS = {"12": "525", "13": "580"}
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_CONTROL = Path("/dev/nvidiactl")


def platform() -> str:
    """What this process's vLLM computes on: "cpu", "cuda", another platform's name, or "" where it sees no
    device.

    ROCm has the device type of CUDA, and none of its kernels.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return "cpu"
    if current_platform.is_cuda():
        return "cuda"
    if current_platform.is_unspecified():
        return ""
    return str(current_platform.device_name or current_platform.device_type)


def capability() -> tuple[int, int] | None:
    """The GPU's compute capability, such as (9, 0); None where there is none. Leaves CUDA uninitialized."""
    from vllm.platforms import current_platform

    found = current_platform.get_device_capability() if current_platform.is_cuda() else None
    return None if found is None else (found.major, found.minor)


def has_cuda_build() -> bool:
    """Whether torch was built for CUDA; imports it."""
    import torch

    return torch.version.cuda is not None


def no_gpu_reason() -> str | None:
    """Why torch's build for CUDA can use no GPU, with what to try, in one line; None where it can.

    Counts devices through the driver's management library, which leaves CUDA uninitialized in this process.
    """
    import torch

    if torch.cuda.device_count() > 0:
        return None
    driver = _DRIVER_VERSION.read_text() if _DRIVER_VERSION.exists() else None
    return explain(os.environ.get("CUDA_VISIBLE_DEVICES"), driver, _CONTROL.exists(), str(torch.version.cuda))


def explain(visible: str | None, driver: str | None, control: bool, cuda: str) -> str:
    """Why there is no GPU, and what to try.

    Args:
        visible: CUDA_VISIBLE_DEVICES, None where it is not set.
        driver: what the kernel says of NVIDIA's driver; None where none is loaded.
        control: whether this container has the driver's control device.
        cuda: the version of CUDA that torch was built with.
    """
    least = _DRIVERS.get(cuda.partition(".")[0])
    needed = f"CUDA {cuda} needs the NVIDIA driver{f' {least} or newer' if least else ''}"
    if driver is None:
        return (
            f"no GPU can be used: no NVIDIA driver is loaded; {needed}: install it and see that nvidia-smi "
            "lists a GPU"
        )
    if not control:
        return (
            "no GPU can be used: the NVIDIA driver is loaded, but no GPU was given to this container; start "
            "it with GPUs (docker run --gpus all, in Kubernetes a limit of nvidia.com/gpu)"
        )
    if visible is not None:
        return (
            f"no GPU can be used: CUDA_VISIBLE_DEVICES={visible!r} leaves none that the NVIDIA driver has; "
            "unset it, or name GPUs that nvidia-smi lists"
        )
    return f"no GPU can be used: the NVIDIA driver is loaded and lists none; {needed}: look at nvidia-smi"
