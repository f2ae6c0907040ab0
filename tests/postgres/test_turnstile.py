"""The turnstile: the order of turns whatever the order of arrival, never more than the budget ahead, and nobody left waiting."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.postgres.turnstile import Turnstile


def drained(turnstile: Turnstile[Any]) -> list[Any]:
    found = []
    while (item := turnstile.get(10)) is not None:
        found.append(item)
    return found


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 6), max_size=12), readers=st.integers(1, 4), size=st.integers(0, 7), seed=st.integers(0, 1000))
def test_items_come_in_the_order_of_turns(counts: list[int], readers: int, size: int, seed: int) -> None:
    turnstile = Turnstile[tuple[int, int]](len(counts), budget=10, ahead=2)
    dice = random.Random(seed)

    def read() -> None:
        while (turn := turnstile.take()) is not None:
            for number in range(counts[turn]):
                time.sleep(dice.random() / 5000)
                turnstile.put(turn, (turn, number), size)
            turnstile.end(turn)

    with ThreadPoolExecutor(readers) as pool:
        for _ in range(readers):
            pool.submit(read)
        assert drained(turnstile) == [(turn, number) for turn, count in enumerate(counts) for number in range(count)]
    assert turnstile.exhausted


def test_those_ahead_wait_for_the_budget_and_the_head_never_does() -> None:
    turnstile = Turnstile[str](3, budget=10, ahead=2)
    turns = [turnstile.take() for _ in range(3)]
    assert turns == [0, 1, 2]
    assert turnstile.put(1, "b", 10)
    done = threading.Event()

    def bring() -> None:
        turnstile.put(2, "c", 1)
        done.set()

    threading.Thread(target=bring, daemon=True).start()
    assert not done.wait(0.1)
    assert turnstile.put(0, "a", 1_000)
    assert turnstile.put(0, "a", 1_000)
    assert turnstile.get(1) == turnstile.get(1) == "a"
    assert not done.wait(0.1)
    turnstile.end(0)
    assert turnstile.get(1) == "b"
    assert done.wait(5)


def test_the_head_waits_for_the_consumer() -> None:
    turnstile = Turnstile[int](1, budget=0, ahead=2)
    turn = turnstile.take()
    assert turn == 0
    put: list[int] = []
    two = threading.Event()

    def bring() -> None:
        for number in range(10):
            turnstile.put(0, number, 1)
            put.append(number)
            if number == 1:
                two.set()
        turnstile.end(0)

    threading.Thread(target=bring, daemon=True).start()
    assert two.wait(10)
    time.sleep(0.1)
    assert put == [0, 1]
    assert drained(turnstile) == list(range(10))


def test_an_error_reaches_the_consumer_before_what_waits() -> None:
    turnstile = Turnstile[int](2, budget=10, ahead=2)
    turnstile.take()
    turnstile.put(0, 1, 1)
    turnstile.fail(KeyError("first"))
    turnstile.fail(KeyError("second"))
    with pytest.raises(KeyError, match="first"):
        turnstile.get(1)


def test_closing_sends_everybody_home() -> None:
    turnstile = Turnstile[int](2, budget=0, ahead=1)
    turnstile.take()
    turnstile.take()
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(turnstile.put(1, 1, 1)))
    waiting.start()
    turnstile.close()
    waiting.join(5)
    assert found == [False]
    assert turnstile.take() is None
    assert turnstile.exhausted
    with pytest.raises(TimeoutError):
        turnstile.get(0.01)


def test_no_turns_are_an_end_at_once() -> None:
    assert Turnstile[int](0, budget=0, ahead=1).get(0) is None
