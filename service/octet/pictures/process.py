"""A process that decodes pictures, as its server has it."""

import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys

from PIL import Image

from octet.errors import UnavailableError
from octet.pictures.decode import DecodeError, upright
from octet.pictures.plan import Plan
from octet.pictures.wire import LENGTHS, MEMORY, PICTURE, READY, REFUSED, STRIP, receive

_START_SECONDS = 60.0
_RGB_BYTES = 3


class DecoderProcess:
    """Decodes one picture after the other, in a process of its own. `decode` blocks; `kill` ends it at once.

    It is to be created by the thread that lives as long as the server: the kernel ends the process with it.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "octet.pictures.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(
                [*command, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._ready = False
        self._killed = False

    @property
    def alive(self) -> bool:
        """Whether it can decode more, as far as is known."""
        return not self._killed and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def decode(self, file: bytes, plan: Plan, *, seconds: float) -> Image.Image:
        """Decodes a file.

        Args:
            file: a picture file.
            plan: what `octet.pictures.decode.decode` takes.
            seconds: of processor time that it may take.

        Returns:
            RGB, upright, no smaller than planned.

        Raises:
            DecodeError: the file is to blame.
            UnavailableError: the process was stopped, or has not started.
        """
        try:
            self._start()
            packed = pickle.dumps((plan, seconds))
            self._socket.sendall(LENGTHS.pack(len(packed), len(file)) + packed)
            self._socket.sendall(file)
            return self._receive()
        except (EOFError, OSError):
            stopped = self._killed
            self.kill()
            if stopped or not self._ready:
                raise UnavailableError("pictures cannot be decoded at the moment; try again") from None
            if self._process.wait() == -signal.SIGPROF:
                raise DecodeError(
                    f"takes more than {seconds:g} seconds of processor time to decode; encode it again"
                ) from None
            raise DecodeError("ends its decoder, the file is damaged") from None

    def kill(self) -> None:
        """Ends the process, whatever it does; a `decode` in another thread raises. Idempotent."""
        self._killed = True
        self._process.kill()
        # It is closed already where the other side has gone.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the process and waits for its end; not while `decode` runs. Idempotent."""
        self.kill()
        self._process.wait()
        self._socket.close()

    def _start(self) -> None:
        if not self._ready:
            self._socket.settimeout(_START_SECONDS)
            if receive(self._socket, 1) != READY:
                raise EOFError
            self._socket.settimeout(None)
            self._ready = True

    def _receive(self) -> Image.Image:
        self._expect(PICTURE)
        width, height, orientation = struct.unpack("<2IB", receive(self._socket, 9))
        image = Image.new("RGB", (width, height))
        top = 0
        while top < height:
            self._expect(STRIP)
            (rows,) = struct.unpack("<I", receive(self._socket, 4))
            pixels = receive(self._socket, rows * width * _RGB_BYTES)
            image.paste(Image.frombuffer("RGB", (width, rows), pixels, "raw", "RGB", 0, 1), (0, top))
            top += rows
        return upright(image, orientation)

    def _expect(self, kind: bytes) -> None:
        said = bytes(receive(self._socket, 1))
        if said == REFUSED:
            (length,) = struct.unpack("<I", receive(self._socket, 4))
            raise DecodeError(receive(self._socket, length).decode(errors="replace"))
        if said == MEMORY:
            self.kill()
            raise DecodeError("takes more memory to decode than its header says")
        if said != kind:
            raise EOFError
