"""The engine's log on a terminal, always on standard error: all of it with `--debug`, else what a command that succeeded has to warn of."""

from __future__ import annotations

import logging
import sys

from engine.cli.stderr import tell


class Log(logging.Handler):
    """What the command line does with records of the logger `engine`.

    Attributes:
        told_error: Whether an error was written already, with its frames.
    """

    def __init__(self, *, debug: bool) -> None:
        super().__init__(logging.INFO if debug else logging.WARNING)
        self.told_error = False
        self._debug = debug
        self._kept: list[str] = []
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it: a command that fails ends with the one line that says why."""
        if self._debug:
            tell(self.format(record) + "\n")
            self.told_error = self.told_error or record.levelno >= logging.ERROR
        else:
            self._kept.append(record.getMessage())

    def tell_kept(self) -> None:
        """Write what was kept."""
        for text in self._kept:
            tell(f"ferry: warning: {text}\n")


def listen(*, debug: bool) -> Log:
    """Attach a `Log` to the engine's logger."""
    log, logger = Log(debug=debug), logging.getLogger("engine")
    logger.addHandler(log)
    if debug:
        logger.setLevel(logging.INFO)
        if sys.stderr.isatty():  # the body of an endpoint's refusal may quote what was sent: it goes to a person, into no file
            logging.getLogger("engine.answers").setLevel(logging.INFO)
    return log
