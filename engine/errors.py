"""The errors of arrow-ferry.

```
FerryError                      .transient says whether trying again can help
├─ ConfigurationError           also a ValueError; found before a byte moves
├─ ConnectionFailed             database or store not reached, or it refused us
├─ ProcessingError
│  ├─ QueryFailed               the server ended the query
│  ├─ SchemaMismatch            the rows are not what was announced
│  ├─ UnrepresentableValue      a value that its Parquet type cannot hold
│  ├─ IntegrityError            sizes, counts or checksums disagree
│  └─ TransferFailed            a store refused or broke off
├─ ResourceError                disk full, memory limit, permission
└─ Interrupted                  Ctrl-C or SIGTERM: not a failure of ours, cleaned up after
```

Every message says what, where (connector, path or column) and what to do. No message holds a cell value or
a secret: texts of libraries and of the server's DETAIL carry both, so they are replaced at the connector's edge
and never chained (`raise … from None`).
"""

from __future__ import annotations

import signal


class FerryError(Exception):
    """Base of all errors that the engine raises on purpose.

    Attributes:
        transient: True when trying the same again later can help.
        exit_code: What the command line ends with.
    """

    exit_code = 1

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class ConfigurationError(FerryError, ValueError):
    """Something that was asked for cannot be done as written; nothing was moved."""

    exit_code = 2


class ConnectionFailed(FerryError):
    """A database or a store was not reached, or refused the credentials."""


class ProcessingError(FerryError):
    """Data was on its way when it went wrong; nothing was published."""


class QueryFailed(ProcessingError):
    """The server ended the query.

    Attributes:
        sqlstate: PostgreSQL's five-character code, or None when the connection broke
            (https://www.postgresql.org/docs/current/errcodes-appendix.html).
    """

    def __init__(self, message: str, *, sqlstate: str | None = None, transient: bool = False) -> None:
        super().__init__(message, transient=transient)
        self.sqlstate = sqlstate


class SchemaMismatch(ProcessingError):
    """The rows that arrived are not what was announced."""


class UnrepresentableValue(ProcessingError):
    """A value that its Parquet type cannot hold; `unrepresentable` decides what to do about it."""


class IntegrityError(ProcessingError):
    """Sizes, counts or checksums disagree."""


class TransferFailed(ProcessingError):
    """A store refused, or broke off, a read or a write."""


class ResourceError(FerryError):
    """Disk full, memory limit, missing permission."""


class Interrupted(BaseException):
    """A signal asked the run to stop. Like `KeyboardInterrupt` no `Exception`, so that nothing swallows it on the way.

    Attributes:
        signal_number: SIGINT or SIGTERM.
        exit_code: 128 + the signal's number, as shells report it.
    """

    def __init__(self, signal_number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
