"""Points at which a load kills itself (`tests.campaign.points`, for files that become rows)."""

from __future__ import annotations

from tests.campaign.points import Point, nth
from tests.test_reaper import at

SESSION = "engine.postgres.session.Session"
LOAD = "engine.postgres.file_load.Load"

ROWS = (
    Point("with the files listed", at("engine.routes.load", "chosen", after=True)),
    Point("with the private folder made", at("engine.postgres.destination", "scratch", after=True)),
    Point("before the bookkeeping is made", at("engine.postgres.bookkeeping.Bookkeeping", "ensure")),
    Point("with the bookkeeping made", at("engine.postgres.bookkeeping.Bookkeeping", "ensure", after=True)),
    Point("with the table planned or made", at(LOAD, "_make_table", after=True)),
    Point("with the first file claimed", at("engine.postgres.load_ledger.LoadLedger", "claim", after=True)),
    Point("with the second file claimed", nth(2, "engine.postgres.load_ledger.LoadLedger", "claim", after=True)),
    Point("in the middle of the rows", nth(3, "engine.postgres.loading._FileRows", "_cast")),
    Point("with the rows sent", at("engine.postgres.file_load.FileLoad", "write", after=True)),
    Point("before the table is described", at(LOAD, "_describe_table")),
    Point("before the first commit", at(SESSION, "commit")),
    Point("after the first commit", at(SESSION, "commit", after=True)),
    Point("before the second commit", nth(2, SESSION, "commit")),
    Point("after the second commit", nth(2, SESSION, "commit", after=True)),
)
MERGE = (
    Point("before a merge", at("engine.postgres.file_load", "merge")),
    Point("after a merge", at("engine.postgres.file_load", "merge", after=True)),
)
DELETES = {
    "folder": (
        Point("before a source is deleted", at("engine.stores.local.LocalStore", "delete")),
        Point("after a source is deleted", at("engine.stores.local.LocalStore", "delete", after=True)),
        Point("between two deletions", nth(2, "engine.stores.local.LocalStore", "delete")),
    ),
    "s3": (
        Point("before a source is deleted", at("engine.stores.s3.S3Store", "delete")),
        Point("after a source is deleted", at("engine.stores.s3.S3Store", "delete", after=True)),
        Point("between two deletions", nth(2, "engine.stores.s3.S3Store", "delete")),
    ),
    "sftp": (
        Point("before a source is deleted", at("engine.stores.sftp.SftpStore", "delete")),
        Point("after a source is deleted", at("engine.stores.sftp.SftpStore", "delete", after=True)),
        Point("between two deletions", nth(2, "engine.stores.sftp.SftpStore", "delete")),
    ),
}
ARCHIVE = (
    Point("before a file is archived", at("engine.routes.archive.Archive", "take")),
    Point("after a file is archived", at("engine.routes.archive.Archive", "take", after=True)),
    Point("between two that are archived", nth(2, "engine.routes.archive.Archive", "take")),
)
MOVES = {
    "folder": (
        Point("with both names", at("os", "unlink", "str(args[0]).endswith('.csv')")),
        Point("with the new name alone", at("os", "unlink", "str(args[0]).endswith('.csv')", after=True)),
    ),
    "s3": (
        Point("before the copy", at("engine.stores.s3_copy.ServerCopy", "publish")),
        Point("with the copy and the source", at("engine.stores.s3.S3Store", "delete")),
        Point("with the copy alone", at("engine.stores.s3.S3Store", "delete", after=True)),
    ),
    "sftp": (
        Point("before the rename", at("engine.stores.sftp_session.Session", "plain_rename")),
        Point("after the rename", at("engine.stores.sftp_session.Session", "plain_rename", after=True)),
    ),
}


def of_load(place: str, disposition: str, fate: str) -> tuple[Point, ...]:
    """Those that such a load comes to."""
    found = ROWS + (MERGE if disposition == "merge" else ())
    found = tuple(point for point in found if disposition != "replace" or "second commit" not in point.name)
    if fate == "delete":
        return found + DELETES[place]
    return found + (ARCHIVE + MOVES[place] if fate == "archive" else ())
