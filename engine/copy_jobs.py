"""A merged configuration of a copy → a validated job, with nothing opened yet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ConfigurationError
from engine.load_jobs import ReadOptions
from engine.routes import copy as route
from engine.routes.copy import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.load_protocols import RowDestination
    from engine.protocols import Journal, RowSource
    from engine.results import Progress, RunResult

DISPOSITIONS = ("append", "replace", "merge")


@dataclass(frozen=True, slots=True)
class CopyJob:
    """A copy that is known to be possible as far as can be known without opening anything.

    Attributes:
        disposition: What becomes of the table's rows.
        mark: Which copy this is.
    """

    source: RowSource
    store: RowDestination
    disposition: str
    mark: Mark = field(default_factory=Mark.single)
    dry_run: bool = False

    def source_root(self) -> None:
        """A database is asked for rows: it has no files to be told apart."""

    def marked(self, owner: str, run: str, reruns: frozenset[str]) -> CopyJob:
        """The same as one of its owner's runs. Only an append must know whether an earlier one committed: the others give the same rows again."""
        return replace(self, mark=Mark(owner, run, reruns if self.disposition == "append" else frozenset()))

    def run(self, on_progress: Callable[[Progress], None] | None = None, *, journal: Journal | None = None) -> RunResult:
        """Do it; see `engine.routes.copy.copy`."""
        return route.copy(self.source, self.store, self.mark, dry_run=self.dry_run, journal=journal, on_progress=on_progress)


def copy_job(
    source_type: str, source_config: Mapping[str, Any], destination_config: Mapping[str, Any], *, table: str | None = None, where: str = ""
) -> CopyJob:
    """Validate both ends of a copy.

    Args:
        source_type: A type code for PostgreSQL.
        source_config: Its merged configuration, with `query`.
        destination_config: Of the PostgreSQL destination. Keys that speak of files have no effect.
        table: The table where the destination names none.
        where: What messages about an end begin with.

    Raises:
        ConfigurationError: All that is wrong with one end, at once; no `write_disposition`, which has no default here.
    """
    kind = registry.kind_of(source_type, source_config, where=f"{where}source")
    source = registry.row_source(kind, registry.row_source_options(kind, source_config, where=f"{where}source"))
    disposition = destination_config.get("write_disposition")
    if disposition is None:
        raise ConfigurationError(
            f"{where}destination: 'write_disposition' is missing: a copy has no default; say what becomes of the table's rows, {', '.join(DISPOSITIONS)}"
        )
    ours = ReadOptions.known_keys() | {"on_changed_file"}
    named = {} if table is None else {"table": table}
    config = {**named, **{key: value for key, value in destination_config.items() if key not in ours}, "on_changed_file": "append"}  # no run is another's file
    target = registry.loader_options(registry.POSTGRES, config, where=f"{where}destination", beside=ours)
    return CopyJob(source, registry.loader(registry.POSTGRES, target), target.write_disposition)
