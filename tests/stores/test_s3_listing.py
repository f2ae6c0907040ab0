"""Listings: the same files whichever way they are asked for, and never fewer than there are without a word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import FerryError
from engine.stores.s3 import S3Options, S3Store
from engine.stores.s3_requests import ObjectRequests
from tests.stores import proxy as faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine import embedded

NAMES = ["a+b", "a b", "a%20b", "a&b", "a<b>", "a'\"b", "ä/ö", "日本", "a=b?c", "~tilde", "x" * 200, "deep/er/file", "tab\tname", "semi;colon", "plus++", "%2B"]


@pytest.fixture
def proxy(s3_server: embedded.S3) -> Iterator[faults.Proxy]:
    with faults.proxy(s3_server.endpoint_url) as running:
        yield running


def of(options: dict[str, Any], **more: Any) -> S3Store:
    return S3Store(S3Options.parse({**options, **more}, where="test"))


def filled(store: S3Store) -> S3Store:
    for name in NAMES:
        with store.open_write(name) as writer:
            writer.write(name.encode())
    return store


@pytest.mark.parametrize("pattern", ["*", "**/*", "deep/**/*", "a*"])
def test_both_ways_list_the_same_files(s3_options: dict[str, Any], pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(of(s3_options, path="in"))
    shortly = list(store.list(pattern))
    monkeypatch.setattr(ObjectRequests, "ask", lambda *_, **__: None)
    assert shortly == list(store.list(pattern))
    if pattern == "**/*":
        assert {file.path: file.size for file in shortly} == {name: len(name.encode()) for name in NAMES}
        assert all(file.modified is not None and file.modified.tzinfo is not None for file in shortly)


@pytest.mark.parametrize("short_way", [True, False])
@pytest.mark.parametrize("token", [b"", b"<NextContinuationToken></NextContinuationToken>", b"<NextContinuationToken>again</NextContinuationToken>"])
def test_a_listing_that_says_there_is_more_and_not_how_to_get_it_fails(
    s3_options: dict[str, Any], proxy: faults.Proxy, token: bytes, short_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(of(s3_options, path="in"))
    if not short_way:
        monkeypatch.setattr(ObjectRequests, "ask", lambda *_, **__: None)

    def promise_more(exchange: faults.Exchange) -> None:
        if "list-type=2" in exchange.target:
            exchange.answer = re.sub(rb"<IsTruncated>false</IsTruncated>", b"<IsTruncated>true</IsTruncated>" + token, exchange.answer)

    proxy.after = promise_more
    with pytest.raises(FerryError, match="cannot list"):
        list(of(s3_options, path="in", endpoint_url=proxy.endpoint_url).list("**/*"))


def test_an_answer_that_is_no_listing_is_asked_for_by_boto3(s3_options: dict[str, Any], proxy: faults.Proxy) -> None:
    expected = list(filled(of(s3_options, path="in")).list("**/*"))
    whole = b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>1</KeyCount></ListBucketResult>"
    damages = [
        whole,
        whole.replace(b"<KeyCount>1</KeyCount>", b"").replace(b"<IsTruncated>false</IsTruncated>", b""),
        b"<html>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<Other/>",
    ]
    for damage in damages:
        asked: list[str] = []

        def spoil(exchange: faults.Exchange, damage: bytes = damage, asked: list[str] = asked) -> None:
            if "list-type=2" in exchange.target:
                asked.append(exchange.target)
                exchange.answer = damage if len(asked) == 1 else exchange.answer

        proxy.after = spoil
        assert list(of(s3_options, path="in", endpoint_url=proxy.endpoint_url).list("**/*")) == expected
        assert len(asked) == 2
