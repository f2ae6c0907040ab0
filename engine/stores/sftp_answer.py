"""Answers to SFTP requests, which need not be waited for before the next request is sent: over a long way each wait costs more than its request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

import paramiko
from paramiko.sftp import CMD_STATUS

from engine.stores.sftp_errors import StatusError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.stores.sftp_session import Session

T = TypeVar("T")


class Answer(Generic[T]):
    """The answer to one request (`Asks`), here or on its way; one that nobody keeps is dropped when it comes.

    Args:
        session: Where it will come.
        wanted: The kind of answer that is no error.
        read: What is made of it.
        pardoned: The status that means None, and no error.
    """

    def __init__(self, session: Session, wanted: int, read: Callable[[paramiko.Message], T], pardoned: int | None = None) -> None:
        self._session = session
        self._wanted = wanted
        self._read = read
        self._pardoned = pardoned
        self._is_here = False
        self._value: T | None = None
        self._failure: Exception | None = None

    def wait(self) -> None:
        """Wait until it is here, whatever it says."""
        while not self._is_here:
            self._session.take_answer()

    def get(self) -> T:
        """What the server said, None (of which `T` must be one) for the status that is pardoned.

        Raises:
            StatusError: It refused.
            EOFError: There is no more.
        """
        self.wait()
        if self._failure is not None:
            raise self._failure
        return cast("T", self._value)

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        del number
        try:
            self._value = self._taken(kind, message)
        except Exception as failure:  # noqa: BLE001 - it belongs to whoever asked
            self._failure = failure
        self._is_here = True

    def _taken(self, kind: int, message: paramiko.Message) -> T | None:
        try:
            if kind == CMD_STATUS:
                self._session.check_status(message)
        except StatusError as refused:
            if refused.code != self._pardoned:
                raise
            return None
        if kind != self._wanted:
            raise paramiko.SFTPError("an answer of another kind")
        return self._read(message)
