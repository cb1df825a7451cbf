"""WebP pictures, scaled by their decoder, which Pillow's own plugin does not offer.

Pillow decodes every WebP file as an animation, onto two canvases of the full size, and copies the result
twice: 24 bytes a pixel. libwebp itself decodes a row after the other into a picture of the size that is asked
for. It is the library that Pillow's plugin is linked with.
"""

import ctypes
from functools import cache

from PIL import Image, _webp

_ABI_VERSION = 0x0200
"""Of libwebp's decoder; its first byte is the one that has to agree."""

_MODE_RGBA = 1


class _Features(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("width", "height", "has_alpha", "has_animation", "format")),
        ("pad", ctypes.c_uint32 * 5),
    ]


class _RgbaBuffer(ctypes.Structure):
    _fields_ = [("rgba", ctypes.c_void_p), ("stride", ctypes.c_int), ("size", ctypes.c_size_t)]


class _YuvaBuffer(ctypes.Structure):
    _fields_ = [
        ("planes", ctypes.c_void_p * 4),
        ("strides", ctypes.c_int * 4),
        ("sizes", ctypes.c_size_t * 4),
    ]


class _Pixels(ctypes.Union):
    _fields_ = [("rgba", _RgbaBuffer), ("yuva", _YuvaBuffer)]


class _Output(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("colorspace", "width", "height", "is_external_memory")),
        ("pixels", _Pixels),
        ("pad", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
    ]


class _Options(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("bypass_filtering", "no_fancy_upsampling", "use_cropping")),
        *((name, ctypes.c_int) for name in ("crop_left", "crop_top", "crop_width", "crop_height")),
        *((name, ctypes.c_int) for name in ("use_scaling", "scaled_width", "scaled_height", "use_threads")),
        *((name, ctypes.c_int) for name in ("dithering_strength", "flip", "alpha_dithering_strength")),
        ("pad", ctypes.c_uint32 * 5),
    ]


class _Config(ctypes.Structure):
    _fields_ = [("input", _Features), ("output", _Output), ("options", _Options)]


def decode_webp(file: bytes, expected: tuple[int, int], size: tuple[int, int] | None = None) -> Image.Image:
    """Decodes a still WebP file, RGBA.

    Args:
        file: the file.
        expected: its width and height.
        size: width and height to scale it to; None for its own.

    Raises:
        ValueError: it is damaged, cut short, or of another size.
        OSError: libwebp cannot be had.
    """
    library = _library()
    config = _Config()
    if not library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI_VERSION):
        raise OSError("this libwebp is not one that is known here")
    if library.WebPGetFeaturesInternal(file, len(file), ctypes.byref(config.input), _ABI_VERSION):
        raise ValueError("not a WebP picture")
    if (config.input.width, config.input.height) != expected:
        raise ValueError("the picture has another size than its file says")
    width, height = size or expected
    if size is not None:
        config.options.use_scaling = 1
        config.options.scaled_width, config.options.scaled_height = size
    pixels = bytearray(4 * width * height)
    config.output.colorspace = _MODE_RGBA
    config.output.is_external_memory = 1
    config.output.pixels.rgba.rgba = ctypes.addressof((ctypes.c_char * len(pixels)).from_buffer(pixels))
    config.output.pixels.rgba.stride = 4 * width
    config.output.pixels.rgba.size = len(pixels)
    if status := library.WebPDecode(file, len(file), ctypes.byref(config)):
        raise ValueError(f"libwebp's status {status}")
    return Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1)


@cache
def _library() -> ctypes.CDLL:
    """libwebp, found through the plugin that is linked with it."""
    library = ctypes.CDLL(_webp.__file__)
    config = ctypes.POINTER(_Config)
    file = (ctypes.c_char_p, ctypes.c_size_t)
    try:
        library.WebPInitDecoderConfigInternal.argtypes = (config, ctypes.c_int)
        library.WebPGetFeaturesInternal.argtypes = (*file, ctypes.POINTER(_Features), ctypes.c_int)
        library.WebPDecode.argtypes = (*file, config)
    except AttributeError as error:
        raise OSError("Pillow's WebP plugin is not linked with a libwebp") from error
    return library
