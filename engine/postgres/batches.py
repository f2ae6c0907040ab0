"""Delivered record batches into the announced ones: each column by its rule, and nothing that was not announced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import SchemaMismatch, UnrepresentableValue
from engine.postgres.convert import Unfit

if TYPE_CHECKING:
    from engine.postgres.plan import Plan


class UnfitRow(Exception):  # noqa: N818 - a finding, turned into UnrepresentableValue by whoever knows how many rows came before
    """A value that its column's Arrow type cannot hold; it is in row `index` of its batch."""

    def __init__(self, plan: Plan, position: int, index: int, why: str) -> None:
        super().__init__(why)
        self._column = plan.columns[position]
        self._index = index

    def refusal(self, rows_before: int) -> UnrepresentableValue:
        """What to tell the user; `rows_before` are those before the batch."""
        name = self._column.name
        return UnrepresentableValue(
            f"column {name!r} ({self._column.declared}), row {rows_before + self._index + 1:,}: {self}; "
            f"write the column as text with --unrepresentable {name}=text, or choose CSV"
        )


def check_schema(plan: Plan, delivered: pa.Schema) -> None:
    """Columns that no conversion would look at must already have the announced type, even if no row comes.

    Raises:
        SchemaMismatch: They have not.
    """
    for column, rule, field in zip(plan.columns, plan.rules, delivered, strict=False):
        if rule.convert is None and field.type != rule.arrow:
            raise _mismatch(column.name, field.type, rule.arrow)


def convert(plan: Plan, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Apply the rules.

    Raises:
        UnfitRow: A value does not fit its Arrow type.
        SchemaMismatch: A column has another type than announced.
    """
    columns = [batch.column(i) for i in range(batch.num_columns)]
    shown = len(plan.columns)
    for position, wrong in zip(plan.shape_checks, columns[shown:], strict=True):
        if wrong.true_count:
            raise UnfitRow(plan, position, wrong.index(True).as_py(), "more than one dimension, or a lower bound other than 1")
    return pa.RecordBatch.from_arrays([_convert_column(plan, i, columns[i]) for i in range(shown)], schema=plan.schema)


def _convert_column(plan: Plan, position: int, array: pa.Array) -> pa.Array:
    rule = plan.rules[position]
    if rule.convert is not None:
        try:
            array = rule.convert(array)
        except Unfit as unfit:
            raise UnfitRow(plan, position, unfit.index, unfit.why) from None
    if array.type != rule.arrow:
        raise _mismatch(plan.columns[position].name, array.type, rule.arrow)
    return array


def _mismatch(name: str, delivered: pa.DataType, announced: pa.DataType) -> SchemaMismatch:
    return SchemaMismatch(f"column {name!r} arrived as {delivered}, not as the {announced} that was announced; was the table altered meanwhile?")
