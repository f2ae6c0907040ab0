"""Relative paths and patterns: what is refused, what matches, in which order."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import paths
from engine.errors import ConfigurationError


@pytest.mark.parametrize("path", ["", ".", "..", "/a", "a/", "a//b", "../a", "a/..", "a/../b", "./a", "a\\b", "C:a", "c:/a", "a\0b", "//host/share", "/"])
def test_paths_that_could_leave_the_root_are_refused(path: str) -> None:
    with pytest.raises(ConfigurationError):
        paths.checked(path)
    with pytest.raises(ConfigurationError):
        paths.join("root", path)


@pytest.mark.parametrize("path", ["a", "a/b", "...", "..a", "a..", " a ", "a\nb", "~", "$HOME", "ab:c", "é", "%2e%2e", "-"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert paths.checked(path) == path
    assert paths.join("", path) == path
    assert paths.join("root/", path) == f"root/{path}"


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b c", "\\", "C:", "\0"]), min_size=1, max_size=5))
def test_what_is_accepted_has_only_real_names(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        accepted = paths.checked(path)
    except ConfigurationError:
        assert any(part not in {"a", "b c"} for part in parts)
    else:
        assert accepted == path
        assert not {"", ".", "..", "\\", "\0"} & set(parts)


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*", ["a", "a.csv", ".hidden", "two\nlines"], ["a/b"]),
        ("*.csv", ["a.csv", ".csv"], ["a.CSV", "a/b.csv", "a.csv.gz", "acsv"]),
        ("?", ["a", "é", "\n"], ["ab", "a/"]),
        ("**/*.csv", ["a.csv", "a/b.csv", "a/b/c.csv"], ["a/b.txt"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "b"]),
        ("x**/y", ["x/y", "xa/y"], ["xy", "x/a/y"]),
        ("[abc]", ["a", "b"], ["d", "ab"]),
        ("[a-c]1", ["a1", "c1"], ["d1", "-1"]),
        ("[!a-c]", ["d", "-"], ["a", "/"]),
        ("[^a]", ["b"], ["a"]),
        ("**/[!.]*", ["x.csv", "a/x.csv"], [".x.csv.Ab12Cd", "a/.x"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[!]a]", ["b"], ["]", "a"]),
        ("[-a]", ["-", "a"], ["b"]),
        ("[a-]", ["-", "a"], ["b"]),
        ("[&&|~]", ["&", "|", "~"], ["a"]),
        ("[--9]", ["-", ".", "5"], ["a"]),
        ("[[]", ["["], ["]"]),
        ("[a", ["[a"], ["a"]),
        ("a.b(c)+$", ["a.b(c)+$"], ["axb(c)+$"]),
    ],
)
def test_patterns_match_as_in_the_shell(pattern: str, matches: list[str], others: list[str]) -> None:
    found = paths.matcher(pattern)
    assert [name for name in matches if not found.fullmatch(name)] == []
    assert [name for name in others if found.fullmatch(name)] == []


@pytest.mark.parametrize("pattern", ["../*", "/*", "a/../*", "a\\*", "", "a//*", "[c-a]"])
def test_patterns_without_a_meaning_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        paths.matcher(pattern)


@given(st.text("ab*?[]!-", min_size=1, max_size=6), st.text("ab!-[]", min_size=1, max_size=4))
def test_within_one_folder_patterns_agree_with_the_standard_library(pattern: str, name: str) -> None:
    try:
        found = paths.matcher(pattern)
    except ConfigurationError:  # a range that runs backwards, which matches nothing there
        return
    if "-" not in pattern:  # ranges beside ranges differ: "[a-b-c]"
        assert bool(found.fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("pattern", "folder"), [("*", ""), ("a/*", "a/"), ("a/b*/c", "a/"), ("a/b/c.csv", "a/b/"), ("**/x", ""), ("a/[b]/c", "a/"), ("x.csv", "")]
)
def test_a_listing_begins_below_the_fixed_folders(pattern: str, folder: str) -> None:
    assert paths.fixed_folder(pattern) == folder


def test_order_is_that_of_bytes_of_the_whole_path() -> None:
    names = ["a/b", "a.b", "a b", "B", "é", "\U0001f9ec", "\uffff"]
    assert sorted(names, key=paths.in_order) == ["B", "a b", "a.b", "a/b", "é", "\uffff", "\U0001f9ec"]
