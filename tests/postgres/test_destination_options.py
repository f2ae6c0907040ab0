"""What a destination is told is read before anything opens, and what cannot be is said by name."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ConfigurationError
from engine.postgres.destination_options import BadRows, PostgresDestinationOptions, WantedColumn


def options(**values: Any) -> PostgresDestinationOptions:
    return PostgresDestinationOptions.parse({"table": "t", **values}, where="destination")


def test_defaults() -> None:
    found = options()
    assert (found.table_schema, found.write_disposition, found.schema_contract, found.on_bad_row) == ("public", "append", "evolve", "fail")
    assert (found.max_bad_rows.most(of=1000), found.changed_file, found.columns) == (10, "fail", None)
    assert options(schema="clinic").shown == "clinic.t"


@pytest.mark.parametrize(("disposition", "policy"), [("append", "fail"), ("merge", "reload"), ("replace", "reload")])
def test_what_becomes_of_a_changed_file_depends_on_the_disposition(disposition: str, policy: str) -> None:
    assert options(write_disposition=disposition, primary_key="id").changed_file == policy
    assert options(write_disposition=disposition, primary_key="id", on_changed_file="append").changed_file == "append"


def test_columns_select_rename_and_cast() -> None:
    given = '{"id": "bigint", "name": {"type": "varchar(80)", "from": "Full name", "nullable": false}, "born": true, "_source_file": "text", "*": true}'
    found = options(columns=given).columns
    assert found
    assert found.rest
    assert found.named == (
        WantedColumn("id", "bigint", "id"),
        WantedColumn("name", "varchar(80)", "Full name", nullable=False),
        WantedColumn("born", None, "born"),
        WantedColumn("_source_file", "text", None),
    )
    assert options(columns={"_loaded_at": {"from": "_loaded_at"}}).columns.named[0].source == "_loaded_at"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is an object that names columns"),
        ("{}", "is an object that names columns"),
        ('{"a": "int", "a": "text"}', "names a column twice"),
        ('{"a": null}', "column 'a'"),
        ('{"a": {"typ": "int"}}', "unknown key 'typ'"),
        ('{"a": {"type": 1}}', "are text"),
        ('{"a": {"from": "x"}, "b": {"from": "x"}}', "takes the file's column 'x'"),
        ('{"a": "int", "*": "int"}', r"'\*' is true"),
    ],
)
def test_columns_that_cannot_be(columns: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        options(columns=columns)


@pytest.mark.parametrize(("given", "of", "most"), [("5", 10, 5), (0, 10, 0), ("2.5%", 1000, 25), ("1 %", 99, 0), ("100%", 7, 7), (BadRows(count=3), 9, 3)])
def test_limits_of_bad_rows(given: Any, of: int, most: int) -> None:
    assert options(max_bad_rows=given).max_bad_rows.most(of=of) == most


@pytest.mark.parametrize("given", ["-1", "101%", "many", "", True, 1.5])
def test_limits_that_cannot_be(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_bad_rows"):
        options(max_bad_rows=given)


def test_merge_needs_a_key_and_reload_under_append_the_file_s_name() -> None:
    with pytest.raises(ConfigurationError, match="needs primary_key"):
        options(write_disposition="merge")
    with pytest.raises(ConfigurationError, match="_source_file"):
        options(on_changed_file="reload")
    assert options(on_changed_file="reload", columns={"*": True, "_source_file": "text"}).changed_file == "reload"
    assert options(write_disposition="merge", primary_key='["a", "b,c"]').primary_key == ("a", "b,c")
    assert options(primary_key="a, b").primary_key == ("a", "b")
    with pytest.raises(ConfigurationError, match="twice"):
        options(primary_key="a,a")


def test_keys_of_a_source_are_known_and_without_effect() -> None:
    assert options(query="SELECT 1", csv_filename="x.csv", batch_size=10) == options()
    with pytest.raises(ConfigurationError, match=r"unknown key 'tabel'; did you mean 'table'"):
        options(tabel="x")
