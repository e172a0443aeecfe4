"""Signals that end a run: what launchers and people send, once and again."""

import os
import signal
import time

import pytest

from training.stop_signal import PATIENCE_S, StopSignal

NUMBERS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_noted_only_while_it_is_watched(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in NUMBERS]
    stop = StopSignal()
    with stop.watched():
        os.kill(os.getpid(), number)
    assert stop.number == number
    assert [signal.getsignal(one) for one in NUMBERS] == before
    assert stop.exit_status() == 128 + number


@pytest.mark.parametrize("first", NUMBERS)
def test_what_a_launcher_passes_on_again_is_the_same_wish(first: signal.Signals) -> None:
    """The whole group of a launcher gets a signal, and the launcher sends it to its processes once more."""
    stop = StopSignal()
    with stop.watched():
        for number in (first, first, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert stop.number == first


def test_ctrl_c_after_a_while_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stop = StopSignal()
    with stop.watched():
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += PATIENCE_S
        os.kill(os.getpid(), signal.SIGTERM)  # what follows from a scheduler is SIGKILL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_process_that_another_ones_signal_stopped_says_sigterm() -> None:
    assert StopSignal().exit_status() == 128 + signal.SIGTERM
