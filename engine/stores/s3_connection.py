"""How an S3 server is reached: by the client that boto3 is made of; boto3's own layers (resources, file transfers) take a tenth of a second to load."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import InvalidRegionError

from engine.addresses import is_loopback
from engine.errors import ConfigurationError
from engine.stores.s3_errors import FAILURES, translated

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from engine.options import Secret
    from engine.stores.s3 import S3Options

ANSWER_SECONDS = 60.0
CONNECTIONS = 64  # as many files as may be in flight
_making = threading.Lock()  # a session is not for several threads


@functools.cache
def _session() -> botocore.session.Session:
    """Shared: what it has read of S3's description serves the second client too, which costs a third of the first one then."""
    return botocore.session.Session()


def connect(options: S3Options, *, answer_seconds: float = ANSWER_SECONDS, attempts: int = 4) -> S3Client:
    """A client for these options, which waits so long for an answer and asks so often; nothing is asked of the server yet.

    Raises:
        ConfigurationError: The endpoint is no URL, or the region no name.
    """
    checksums: Literal["when_supported", "when_required"] = "when_required"  # ours are sent explicitly, part by part
    config = Config(
        connect_timeout=10,
        read_timeout=answer_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        s3={"addressing_style": options.addressing_style},
    )
    try:
        with _making:
            session = _session() if options.aws_access_key_id and options.aws_secret_access_key else botocore.session.Session()  # it keeps keys that it found
            return session.create_client(  # type: ignore[return-value]  # botocore's own types know no service
                "s3",
                endpoint_url=options.endpoint_url or None,
                region_name=options.region or ("us-east-1" if options.endpoint_url else None),
                aws_access_key_id=_plain(options.aws_access_key_id),
                aws_secret_access_key=_plain(options.aws_secret_access_key),
                aws_session_token=_plain(options.aws_session_token),
                config=config,
            )
    except InvalidRegionError:
        raise ConfigurationError("'region' is no name of a region (us-east-1)") from None
    except ValueError:
        raise ConfigurationError("'endpoint_url' is no URL (https://host:port)") from None
    except FAILURES as error:
        raise translated(error, "reach S3", bucket=options.bucket, where=options.endpoint_url or "AWS") from None


def unencrypted(options: S3Options) -> str | None:
    """The remark that traffic leaves this machine unencrypted, if it does.

    Raises:
        ConfigurationError: It would, and must not.
    """
    url = urlsplit(options.endpoint_url or "https://")
    if url.scheme != "http" or is_loopback(url.hostname or ""):
        return None
    if options.require_tls or os.environ.get("FERRY_REQUIRE_TLS") == "1":
        raise ConfigurationError("'endpoint_url' is http, and require_tls asks for an encrypted connection; use https")
    return f"the connection to {url.scheme}://{url.netloc.rpartition('@')[2]} is not encrypted"


def _plain(secret: Secret | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
