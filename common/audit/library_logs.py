"""Log lines of Flower and of what it stands on: in the form of melfed's own, and only those that tell something."""

import logging

from melfed.common.audit.log import configure_logging

_EACH_TIME = ("EXPERIMENTAL: SuperExec authentication is experimental",)
"""How lines begin that Flower writes at every start, and that nobody can act on."""


def log_plainly(level: int = logging.INFO) -> None:
    """Log to standard error, Flower's lines in the same form as melfed's; call it after Flower was imported.

    Args:
        level: of Flower's lines.
    """
    from uvicorn.config import LOGGING_CONFIG

    configure_logging()
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.propagate = True
    flower.setLevel(level)
    flower.addFilter(_tells_something)
    # What uvicorn configures where nobody says otherwise, as Flower's SuperNode does not: lines without a time.
    LOGGING_CONFIG.clear()
    LOGGING_CONFIG.update({"version": 1, "disable_existing_loggers": False})


def _tells_something(record: logging.LogRecord) -> bool:
    text = record.getMessage().strip()  # empty: Flower parts paragraphs so
    return bool(text) and not text.startswith(_EACH_TIME)
