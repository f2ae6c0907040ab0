"""What a PostgreSQL source can be told (CONFIGURATION: "Keys", "PostgreSQL")."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from engine.libpq import PostgresOptions
from engine.postgres.types import TypePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_READERS = 32
_ALL = "*"
_PRECISION_AND_SCALE = re.compile(r"\s*(\d+)\s*,\s*(-?\d+)\s*")


def _pairs(value: Any) -> Any:
    """`COLUMN=X`, a list of such, or JSON, as command lines and configurations write it → `{column: x}`."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith(("{", "[")) else [value]
    if isinstance(value, list):
        split = [str(item).rpartition("=") for item in value]
        if any(not column for column, _, _ in split):
            raise ValueError("is written COLUMN=VALUE")
        return {column: setting for column, _, setting in split}
    return value


def _numeric(value: Any) -> Any:
    """Precision and scale by column: `10,2` or `[10, 2]`."""
    pairs = _pairs(value)
    if not isinstance(pairs, dict):
        return pairs
    return {column: _bounds(setting) for column, setting in pairs.items()}


def _bounds(setting: Any) -> tuple[int, int]:
    match = _PRECISION_AND_SCALE.fullmatch(setting) if isinstance(setting, str) else None
    precision, scale = (int(match[1]), int(match[2])) if match else setting if isinstance(setting, list | tuple) else (0, 0)
    if not (0 < precision <= 76 and 0 <= scale <= precision):  # noqa: PLR2004 - the digits of an Arrow decimal256
        raise ValueError("is PRECISION,SCALE with 1 to 76 digits and a scale within them")
    return precision, scale


def _unrepresentable(value: Any) -> Any:
    """`stop`, `text`, or columns: `{column: "text"}`; as a set of column names, `*` for all."""
    if value in ("stop", ["stop"]):
        return frozenset()
    if value in ("text", ["text"]):
        return frozenset({_ALL})
    pairs = _pairs(value)
    if not isinstance(pairs, dict):
        return pairs
    if any(setting not in ("text", "stop") for setting in pairs.values()):
        raise ValueError("is 'stop', 'text' or COLUMN=text")
    return frozenset(column for column, setting in pairs.items() if setting == "text")


def _readers(value: Any) -> Any:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number != "auto" and not (isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MOST_READERS):
        raise ValueError(f"is 'auto' or a number from 1 to {MOST_READERS}")
    return number


Readers = Annotated[Literal["auto"] | int, BeforeValidator(_readers)]
Numeric = Annotated[dict[str, tuple[int, int]], BeforeValidator(_numeric)]
Unrepresentable = Annotated[frozenset[str], BeforeValidator(_unrepresentable)]


class PostgresSourceOptions(PostgresOptions):
    """A query, and how its rows become files.

    Attributes:
        filename: Name of the file; its suffix decides the format. `csv_filename` means the same.
        format: `csv` or `parquet`; None means by the suffix.
        compression: CSV: none, gzip, zstd. Parquet: zstd, snappy, gzip, lz4, brotli, none. None means by the suffix, and zstd for Parquet.
        null: How NULL is written in CSV; the default is nothing between two delimiters.
        batch_size: The most rows in one record batch; None leaves batches of about 8 MiB. Sets neither fetch nor row-group size.
        use_server_side_cursor: Accepted and without effect: every read streams.
        chunk_size_mb: MiB of one part of a multipart upload.
        max_file_rows: Rows after which another file is begun.
        max_file_mb: MiB that no file exceeds, unless one row alone does.
        timezone: The session's TimeZone; None leaves what server or role set.
        numeric: Column → (precision, scale) of numerics that have none; `*` is the default for all.
        unrepresentable: Columns written as exact text because their Parquet type cannot hold every value; `*` is all such columns.
        readers: Connections that read a large table at once, when the query is a plain scan of it; `auto` is as many as cores and server have room for.
        reader: What reads: `adbc`, the driver; `copy`, compiled code of our own (the extra `turbo`); `connectorx` (the extra of that name).
    """

    other_routes: ClassVar[frozenset[str]] = frozenset(
        {"schema", "table", "write_disposition", "primary_key", "columns", "schema_contract", "on_bad_row", "max_bad_rows", "on_changed_file"}
    )

    aliases: ClassVar[Mapping[str, str]] = {**PostgresOptions.aliases, "csv_filename": "filename"}

    query: str
    filename: str | None = None
    format: Literal["csv", "parquet"] | None = None
    compression: Literal["none", "gzip", "zstd", "snappy", "lz4", "brotli"] | None = None
    delimiter: str = ","
    header: bool = True
    null: str = ""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    use_server_side_cursor: bool = True
    chunk_size_mb: Annotated[int, Field(ge=5, le=5120)] | None = None
    max_file_rows: Annotated[int, Field(ge=1)] | None = None
    max_file_mb: Annotated[float, Field(gt=0)] | None = None
    timezone: str | None = None
    numeric: Numeric = Field(default_factory=dict)
    unrepresentable: Unrepresentable = frozenset()
    readers: Readers = "auto"
    reader: Literal["adbc", "copy", "connectorx"] = "adbc"

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_file_rows and self.max_file_mb:
            raise ValueError("give max_file_rows or max_file_mb, not both")
        return self

    @property
    def policy(self) -> TypePolicy:
        """What was decided about single columns."""
        return TypePolicy(numeric=self.numeric, as_text=self.unrepresentable)
