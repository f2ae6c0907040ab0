"""What boto3 raises, in the engine's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError, PartialCredentialsError

from engine.errors import ConfigurationError, ConnectionFailed, FileChanged, IntegrityError, TransferFailed

if TYPE_CHECKING:
    from engine.errors import FerryError

Failure = BotoCoreError | ClientError
FAILURES = (BotoCoreError, ClientError)
_TRANSIENT = {"SlowDown", "RequestTimeout", "ConditionalRequestConflict", "IncompleteBody", "ClientDisconnected"}
_OPTIONS_ERRORS = (NoCredentialsError, PartialCredentialsError, ParamValidationError)


def code(error: Failure) -> str:
    """S3's own code (`NoSuchBucket`); empty when no answer came. After a HEAD it is only the status again."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status(error: Failure) -> int:
    """The HTTP status, 0 when no answer came."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(error, ClientError) else 0


def translated(error: Failure, verb: str, *, bucket: str, where: str) -> FerryError:  # noqa: PLR0911 - one answer for each kind of failure
    """Boto's error in our words; its own text can hold keys and host names."""
    if isinstance(error, _OPTIONS_ERRORS):
        reason = (
            "a name or a key is malformed"
            if isinstance(error, ParamValidationError)
            else "no access key; set aws_access_key_id and aws_secret_access_key, or MINIO_ACCESS_KEY and MINIO_SECRET_KEY"
        )
        return ConfigurationError(f"cannot {verb}: {reason}")
    if not isinstance(error, ClientError):
        return ConnectionFailed(f"cannot {verb}: no answer from the S3 server {where} ({type(error).__name__})", transient=True)
    what, answer = code(error), status(error)
    if what == "NoSuchBucket":
        return ConnectionFailed(f"cannot {verb}: there is no bucket {bucket!r} at {where}")
    if what in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}:
        return ConnectionFailed(f"cannot {verb}: the S3 server {where} does not accept the access key ({what})")
    if answer == 403:  # noqa: PLR2004 - HTTP
        return ConnectionFailed(f"cannot {verb}: access denied by the S3 server {where}{f' ({what})' if what not in {'403', 'AccessDenied'} else ''}")
    if answer == 301:  # noqa: PLR2004 - HTTP
        return ConnectionFailed(f"cannot {verb}: the bucket {bucket!r} is in another region; set region")
    if answer == 412:  # noqa: PLR2004 - HTTP
        return FileChanged(f"cannot {verb}: the object has changed meanwhile", transient=True)
    if what in {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}:
        return IntegrityError(f"cannot {verb}: the S3 server received other bytes than were sent (checksum)", transient=True)
    return TransferFailed(f"cannot {verb}: the S3 server {where} answered {answer} {what}", transient=answer >= 500 or what in _TRANSIENT)  # noqa: PLR2004 - HTTP
