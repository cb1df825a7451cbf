"""Load reports by ORCA, the Open Request Cost Aggregation: how busy this server is, with each answer.

gRPC clients with a weighted round robin, Envoy's `client_side_weighted_round_robin` and inference gateways
read them out of the trailer `endpoint-load-metrics-bin`, an xds.data.orca.v3.OrcaLoadReport.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from octet.engine.protocol import Engine
from octet.rpc.admission.listener import Load

TRAILER = "endpoint-load-metrics-bin"

WINDOW_SECONDS = 10.0
"""Rates are means over so long."""

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "xds.data.orca.v3"
_DOUBLES = {"rps_fractional": 6, "eps": 7, "application_utilization": 9}
_MAPS = {"utilization": 5, "named_metrics": 8}


def _make_message() -> type[Any]:
    """The message's class, with the fields that are used here.

    The package that has it, xds-protos, overwrites files of googleapis-common-protos and OpenTelemetry. A
    pool of its own keeps this one apart from any other description of the message in the process.
    """
    file = descriptor_pb2.FileDescriptorProto(name="octet/orca.proto", package=_PACKAGE, syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number in _DOUBLES.items():
        message.field.add(name=name, number=number, type=_Field.TYPE_DOUBLE, label=_Field.LABEL_OPTIONAL)
    for name, number in _MAPS.items():
        entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
        entry.field.add(name="value", number=2, type=_Field.TYPE_DOUBLE, label=_Field.LABEL_OPTIONAL)
        message.field.add(
            name=name,
            number=number,
            type=_Field.TYPE_MESSAGE,
            type_name=f".{_PACKAGE}.OrcaLoadReport.{entry.name}",
            label=_Field.LABEL_REPEATED,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.OrcaLoadReport"))


_FILLER = b"\x18\x00"

OrcaLoadReport = _make_message()


class LoadReporter:
    """Says how busy a server is.

    Args:
        load: what admission holds.
        clock: seconds that never jump.
    """

    def __init__(self, load: Callable[[], Load], clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._engine: Engine | None = None
        self._clock = clock
        self._started = clock()
        self._ended: deque[float] = deque()
        self._failed: deque[float] = deque()

    def attach(self, engine: Engine) -> None:
        """Reports on `engine` from now on."""
        self._engine = engine

    def note_end(self, *, failed: bool) -> None:
        """A call has ended; `failed` if another server might have answered it."""
        now = self._clock()
        self._ended.append(now)
        if failed:
            self._failed.append(now)

    def report(self) -> bytes:
        """The report of this moment, serialized."""
        load, now = self._load(), self._clock()
        report = OrcaLoadReport(
            rps_fractional=self._rate(self._ended, now),
            eps=self._rate(self._failed, now),
            named_metrics={"running_requests": load.running, "waiting_requests": load.waiting},
        )
        if self._engine is not None:
            # The engine says nothing while it has nothing to do.
            usage = self._engine.kv_cache_usage() if load.running else 0.0
            if usage is not None:
                report.utilization["kv_cache"] = report.named_metrics["kv_cache_utilization"] = usage
            # What waits makes the server busier than it can be, and the value larger than 1. The call that
            # the report goes with has left already, but counts: balancers take 0 for no report.
            requests = max(1, load.running_sequences + load.waiting)
            occupied = requests / self._engine.model.max_sequences
            report.application_utilization = max(occupied, usage or 0.0)
        data: bytes = report.SerializeToString()
        # gRPC sends base64 without padding, which Envoy does not decode: the length has to need none. Zeros
        # in a field that is zero anyway (rps, which nobody uses any more) mean nothing.
        return data + _FILLER * (len(data) % 3)

    def _rate(self, times: deque[float], now: float) -> float:
        """Events a second, over the window or, at first, for as long as there are any."""
        while times and times[0] < now - WINDOW_SECONDS:
            times.popleft()
        return len(times) / min(WINDOW_SECONDS, max(1.0, now - self._started))
