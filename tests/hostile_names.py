"""Names of files that mean harm, or only trouble: one list for every test of names."""

import unicodedata

TEMPORARY = ".lab.csv.0123456789ab.part"
"""As our own temporary files are named: never taken for data where there are such."""
NEVER = (  # they leave the root, or are no name of a file on any store
    *("..", ".", "../up.csv", "../../up.csv", "a/../../up.csv", "a/../up.csv", "../neighbour/keep.csv", "sub/../../neighbour/keep.csv"),
    *("/absolute.csv", "//double.csv", "a//b.csv", "./dot.csv", "a/./b.csv", "a/.", "a/.."),
    *("..\\up.csv", "a\\b.csv", "\\\\server\\share.csv", "C:\\x.csv", "nul\0byte.csv", "\0"),
)
PERHAPS = (  # delivered under exactly this name, or refused
    *("cr\rlf\n.csv", "line\nfeed.csv", "\r\nX-Evil: 1", "tab\t.csv", "bell\x07.csv", "esc\x1b[31m.csv", "del\x7f.csv", "c1\x85.csv"),
    *('quote".csv', "apostrophe'.csv", "back`tick.csv", "$(touch x).csv", "; rm -rf ~.csv", "|pipe.csv", "<tag>.csv", "a=b;c.csv", 'a"; filename="b.csv'),
    *("*.csv", "?.csv", "[a].csv", "{name}.csv", "100%.csv", "%2e%2e%2fup.csv", "%00.csv", "&amp;.csv", "a+b c.csv", "#hash.csv", "a?b=c.csv", "x.csv:stream"),
    *(" leading.csv", "trailing ", "trailing.", "-rf", ".hidden", "~", "~root", "...", "CON", "aux.csv", "C:x.csv", "UPPER.csv", "upper.csv"),
    *("café.csv", unicodedata.normalize("NFD", "café.csv"), "\u202egnp.exe", "zero\u200bwidth.csv", "\u00a0nbsp.csv", "\U0001f9ec.csv", "\ufeffbom.csv"),
    *("\u2028separator.csv", "\u0130stanbul.csv", "\ufffe.csv", "x" * 255, "x" * 256, "é" * 128, "k" * 900, f"{'d' * 200}/{'e' * 200}/f.csv"),
    TEMPORARY,
)
