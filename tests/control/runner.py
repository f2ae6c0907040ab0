"""`python -m tests.control.runner ID CODE [loop]`: run `CODE`, then the connector, and say how it ended; with `loop`, once for every line of standard input."""

from __future__ import annotations

import json
import sys

import engine


def run(connector: int) -> None:
    try:
        result = engine.run_connector(connector)
        ended = {"status": result.status, "run_id": result.run_id, "text": " ".join(result.notes)}
    except engine.FerryError as error:
        ended = {"status": type(error).__name__, "text": str(error)}
    sys.stdout.write(json.dumps(ended) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    exec(sys.argv[2], {})  # a fault that a test puts in
    for _ in sys.stdin if sys.argv[3:] == ["loop"] else "1":
        run(int(sys.argv[1]))
