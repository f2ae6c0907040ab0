"""What the compiled decoder and its caller have agreed on; here, since the caller does without numba where there is machine code already.

The columns of a batch are regions of one block of memory, the arena, each as Arrow lays it out
(https://arrow.apache.org/docs/format/Columnar.html): `valid` has a bit for each row, `offsets` an int32 for each row and one more (of text and lists),
`data` the values, or the bytes of text. What is in them, and where they begin, stands in a table of int64: a line for each column, then one for the elements
of each column of arrays.
"""

KIND, WIDTH, SETTING, LIMIT_HIGH, LIMIT_LOW, VALID, OFFSETS, DATA, ROOM, NULLS, ELEMENTS = range(11)
"""What a line says: the kind, bytes of a value, what the kind needs to know (see there), where the regions begin in the arena, how many bytes of text or how
many elements there is room for, whether a NULL was found, and the line of an array's elements."""
LINE = ELEMENTS + 1

BOOL, INT16, INT32, INT64, SIXTEEN, TEXT, NUMERIC, LIST = range(8)
"""Kinds: numbers of so many bits, sixteen bytes, bytes of any length, and two that have a form of their own."""

FAILED, MORE, NO_ROOM, TRAILER, WRONG_COUNT, WRONG_LENGTH, WRONG_FORM = range(7)
"""How decoding ended: the compiled code raised (what numba's wrapper gives then); the next row is not all there; it has no room; the end of the stream; a row
of other columns; a length that no field has; a field that is not in the form of its kind."""

ROW, AT, COLUMN, UNFIT_ROW, UNFIT_COLUMN = range(5)
"""What decoding tells: rows written, where in the source it stands, the column of the field that ended it, and the first value that did not fit, or -1."""
TOLD = UNFIT_COLUMN + 1

SLACK = 16
"""Bytes behind the last text, which copying may touch."""
