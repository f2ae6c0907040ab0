"""Each broken file gives one clear message that names line and rule, and no value."""

from __future__ import annotations

import pytest

from engine.errors import ProcessingError
from tests.formats.malformed_files import FILES, SECRET, Case
from tests.formats.reading import read


def test_there_are_enough() -> None:
    assert len(FILES) >= 100


@pytest.mark.parametrize("block", [16, 4 << 20])
@pytest.mark.parametrize("name", FILES)
def test_what_is_said_of_a_broken_file(name: str, block: int) -> None:
    case: Case = FILES[name]
    if len(case.data) > 100_000 and block == 16:
        block = 1 << 20
    if case.error:
        with pytest.raises(ProcessingError) as caught:
            read(case.data, block=block, **case.dialect)
        assert str(caught.value) == case.error
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    else:
        whole = read(case.data, block=block, **case.dialect)
        assert tuple((reject.line, reject.rule) for reject in whole.rejects) == case.rejects
        assert len(whole.rows) == case.rows
        assert all(SECRET not in reject.rule for reject in whole.rejects)
    assert SECRET not in case.error


def test_every_reject_holds_its_record_as_it_stands_in_the_file() -> None:
    for name, case in FILES.items():
        if case.rejects and "encoding" not in case.dialect:
            lines = case.data.split(b"\n")
            for reject in read(case.data, **case.dialect).rejects:
                assert lines[reject.line - 1].removesuffix(b"\r") == reject.raw, name
