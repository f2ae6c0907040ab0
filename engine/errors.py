"""The errors of arrow-ferry.

```
FerryError                      .transient says whether trying again can help
├─ ConfigurationError           also a ValueError; found before a byte moves
├─ ConnectionFailed             database or store not reached, or it refused us
├─ ProcessingError
│  ├─ QueryFailed               the server ended the query
│  ├─ SchemaMismatch            the rows are not what was announced
│  ├─ LoadFailed                the database refused the rows of a file, or broke off
│  ├─ UnrepresentableValue      a value that its Parquet type cannot hold
│  ├─ IntegrityError            sizes, counts or checksums disagree
│  ├─ TransferFailed            a store refused or broke off
│  │  ├─ FileChanged            another version stands there than the one that was listed
│  │  ├─ OutcomeUnknown         the answer was lost: nobody can say whether the file was taken
│  │  └─ PartlyFailed           some files of a transfer were not delivered
│  └─ LeaseLost                 the run's claim on its connector ended before the run
├─ ResourceError                disk full, memory limit, permission
└─ Interrupted                  Ctrl-C or SIGTERM: not a failure of ours, cleaned up after
```

Every message says what, where (connector, path or column) and what to do. No message holds a cell value or
a secret: texts of libraries and of the server's DETAIL carry both, so they are replaced at the connector's edge
and never chained (`raise … from None`).
"""

from __future__ import annotations

import signal
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.results import RunResult


class FerryError(Exception):
    """Base of all errors that the engine raises on purpose.

    Attributes:
        transient: True when trying the same again later can help.
        exit_code: What the command line ends with.
    """

    exit_code: int = 1

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


class LoadFailed(ProcessingError):
    """The database refused the rows of a load, or broke off; its transaction left nothing behind.

    Attributes:
        sqlstate: PostgreSQL's five-character code; None when the connection broke, or when nobody but us refused.
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


class FileChanged(TransferFailed):
    """Another version of a file stands there than the one that was listed: it is left for the next run."""


class PartlyFailed(TransferFailed):
    """Some files of a transfer were not delivered, or their sources not deleted.

    Attributes:
        result: What became of each file; None where only the message is told on.
    """

    def __init__(self, message: str, result: RunResult | None = None, *, transient: bool = False) -> None:
        super().__init__(message, transient=transient)
        self.result = result


class OutcomeUnknown(TransferFailed):
    """The whole file was sent and the answer was lost: trying again might deliver it twice, not trying might lose it."""


class LeaseLost(ProcessingError):
    """The run could not keep its lease: another run of the same connector may be at work, so this one published nothing more."""


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


def describe(error: BaseException) -> str:
    """An error's message if it is one of ours; else its kind and place, since the text of a foreign error may hold a cell value or a secret."""
    if isinstance(error, FerryError | Interrupted):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].name} ({frames[-1].filename.rpartition('/')[2]}, line {frames[-1].lineno})" if frames else "an unknown place"
    return f"unexpected {type(error).__name__} in {place}; this is a defect, please report it with its frames"


def frames(error: BaseException) -> str:
    """The whole chain of an error for a log: kinds, our messages, and each frame's file, line and function; no foreign text, no locals.

    The cause comes first, as in Python's own tracebacks, also where `from None` hides it from them.
    """
    lines: list[str] = []
    for one in reversed(list(_chain(error))):
        lines += [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in traceback.extract_tb(one.__traceback__)]
        lines.append(f"{type(one).__module__}.{type(one).__qualname__}" + (f": {one}" if isinstance(one, FerryError | Interrupted) else ""))
    return "\n".join(lines)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
