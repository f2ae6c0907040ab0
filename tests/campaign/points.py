"""Points at which a run kills itself, as code that is put into its process before it begins (`tests.test_reaper.at`)."""

from __future__ import annotations

from dataclasses import dataclass

from tests.test_reaper import at

MAIN = "main.bin"
LARGE = 30_000_000
MIDDLE = 12_000_000
LEDGER = "engine.control.leases.Ledger"


@dataclass(frozen=True)
class Point:
    """One point.

    Attributes:
        code: Kills its process there.
        sizes: Of the file that is meant; empty: any.
        moves: Whether only a move comes there.
        in_reaper: The reaper is killed there, after the run was while it wrote.
    """

    name: str
    code: str
    sizes: tuple[int, ...] = ()
    moves: bool = False
    in_reaper: bool = False


def nth(number: int, owner: str, function: str, condition: str = "True", *, after: bool = False) -> str:
    """At the call of that number of those that meet the condition."""
    return "seen = []\n" + at(owner, function, f"({condition}) and (seen.append(1) or len(seen) == {number})", after=after)


def noted(state: str, *, after: bool) -> str:
    return at(LEDGER, "record", f"args[1].endswith({MAIN!r}) and args[2] == {state!r}", after=after)


def operation(name: str, number: int = 1, *, after: bool = False) -> str:
    """An operation of boto3, by whomever it is called."""
    return nth(number, "botocore.client.BaseClient", "_make_api_call", f"args[1] == {name!r}", after=after)


RUN = (
    Point("after the record, before the lease", at("engine.control.leases", "acquire")),
    Point("with the lease, before anything", at("engine.control.leases", "acquire", after=True)),
    Point("with the plan made", at("engine.routes.transfer", "plan", after=True)),
    Point("before the note of a publication", noted("publishing", after=False)),
    Point("after the note of a publication", noted("publishing", after=True)),
    Point("before the note of a delivery", noted("written", after=False)),
    Point("after the note of a delivery", noted("written", after=True)),
    Point("before the note of a deletion", noted("removing source", after=False), moves=True),
    Point("after the note of a deletion", noted("removing source", after=True), moves=True),
    Point("before the note that it is moved", noted("moved", after=False), moves=True),
    Point("after the note that it is moved", noted("moved", after=True), moves=True),
    Point("before the lease is given back", at("engine.control.leases.Lease", "__exit__")),
    Point("before the record is ended", at("engine.control.runs", "update_run_record")),
    Point("after the record is ended", at("engine.control.runs", "update_run_record", after=True)),
)
FOLDER = (
    Point("folder: before the temporary file", at("engine.stores.local_writer.LocalWriter", "_open")),
    Point("folder: with the temporary file", at("engine.stores.local_writer.LocalWriter", "_open", after=True)),
    Point("folder: at the second write", nth(2, "engine.stores.local_writer.LocalWriter", "write"), (MIDDLE, LARGE)),
    Point("folder: before the sync", at("os", "fsync")),
    Point("folder: before the rename", at("engine.stores.local_writer.LocalWriter", "_publish")),
    Point("folder: after the rename", at("engine.stores.local_writer.LocalWriter", "_publish", after=True)),
)
S3 = (
    Point("s3: before an object is put", at("engine.stores.s3_upload.S3Writer", "_put"), (0, 1, MIDDLE)),
    Point("s3: after an object is put", at("engine.stores.s3_upload.S3Writer", "_put", after=True), (0, 1, MIDDLE)),
    Point("s3: before a multipart upload", operation("CreateMultipartUpload"), (LARGE,)),
    Point("s3: after a multipart upload has begun", operation("CreateMultipartUpload", after=True), (LARGE,)),
    Point("s3: before the second part", operation("UploadPart", 2), (LARGE,)),
    Point("s3: after the first part", operation("UploadPart", after=True), (LARGE,)),
    Point("s3: before the upload is completed", operation("CompleteMultipartUpload"), (LARGE,)),
    Point("s3: after the upload is completed", operation("CompleteMultipartUpload", after=True), (LARGE,)),
)
S3_COPY = (
    Point("copy: before the server copies", at("engine.stores.s3_copy.ServerCopy", "publish"), (1, MIDDLE, LARGE)),
    Point("copy: after the server has copied", at("engine.stores.s3_copy.ServerCopy", "publish", after=True), (1, MIDDLE, LARGE)),
)
KERNEL_COPY = (
    Point("copy: before the kernel copies", at("engine.stores.local_writer.LocalWriter", "copy_from"), (1, MIDDLE, LARGE)),
    Point("copy: after the kernel has copied", at("engine.stores.local_writer.LocalWriter", "copy_from", after=True), (1, MIDDLE, LARGE)),
)
SFTP = (
    Point("sftp: before the temporary file", at("engine.stores.sftp_upload.SftpWriter", "__enter__")),
    Point("sftp: with the temporary file", at("engine.stores.sftp_upload.SftpWriter", "__enter__", after=True)),
    Point("sftp: at the 5th write", nth(5, "engine.stores.sftp_upload.SftpWriter", "_send"), (MIDDLE, LARGE)),
    Point("sftp: at the 40th write", nth(40, "engine.stores.sftp_upload.SftpWriter", "_send"), (MIDDLE, LARGE)),
    Point("sftp: before CLOSE", at("engine.stores.sftp_lane.Lane", "close")),
    Point("sftp: before the rename", at("engine.stores.sftp_publish.Publication", "_replace")),
    Point("sftp: after the rename", at("engine.stores.sftp_publish.Publication", "_replace", after=True)),
)
REST = (
    Point("rest: in the middle of the body", nth(4, "engine.stores.rest_body.FileBody", "read"), (MIDDLE, LARGE)),
    Point("rest: before the last bytes", noted("publishing", after=True), (MIDDLE,)),
    Point("rest: all sent, no answer read", at("http.client.HTTPConnection", "getresponse")),
    Point("rest: stored, the answer read", at("requests.Session", "request", after=True)),
)
READS = {
    "folder": (Point("folder: before the source is deleted", at("engine.stores.local.LocalStore", "delete"), moves=True),),
    "s3": (
        Point("s3: before the source is deleted", at("engine.stores.s3.S3Store", "delete"), moves=True),
        Point("s3: after the source is deleted", at("engine.stores.s3.S3Store", "delete", after=True), moves=True),
    ),
    "sftp": (
        Point("sftp: at the third read", nth(3, "engine.stores.sftp_read.ReadAhead", "read"), (MIDDLE, LARGE)),
        Point("sftp: before the source is deleted", at("engine.stores.sftp_session.Session", "remove_file"), moves=True),
        Point("sftp: after the source is deleted", at("engine.stores.sftp_session.Session", "remove_file", after=True), moves=True),
    ),
}
REAPER = (
    Point("reaper: records closed, nothing swept", at("engine.control.leases", "close_expired", after=True), in_reaper=True),
    Point("reaper: a file claimed", at("engine.control.leases", "claim_unfinished", after=True), in_reaper=True),
    Point("reaper: swept, not noted", at("engine.control.leases", "mark_swept"), in_reaper=True),
)
AS_LARGE = Point("never", "", (LARGE,))
WRITES = {"folder": FOLDER, "s3": S3, "sftp": SFTP, "put": REST, "post": REST}


def of_route(source: str, destination: str) -> tuple[Point, ...]:
    """Those that a run from here to there comes to."""
    copies = {("folder", "folder"): KERNEL_COPY + FOLDER, ("s3", "s3"): S3_COPY}
    return RUN + copies.get((source, destination), WRITES[destination]) + READS[source] + REAPER
