"""The server's log: lines on standard error, each with the id of the call that it belongs to."""

import logging

from octet.rpc import call

_FORMAT = "%(asctime)s %(levelname)s %(name)s%(call)s: %(message)s"


class CallFilter(logging.Filter):
    """Adds `call`: the current call's request id in brackets, or nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        request_id = call.request_id.get()
        record.call = f" [{request_id}]" if request_id else ""
        return True


def configure_logging() -> None:
    """Sends what Octet logs, from INFO up, to standard error. Other libraries' loggers stay as they are."""
    handler = logging.StreamHandler()
    handler.addFilter(CallFilter())
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("octet")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
