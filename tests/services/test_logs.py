"""A line of the log is an event and its fields, and both are on the record."""

import logging

import pytest

from services.kit.logs import Log


def test_fields_are_said_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Log("worker").info("run.claimed", run_id=7, worker="w-1", why='it "broke"\nhere', nothing="")
    [record] = caplog.records
    assert record.name == "cronledger.worker"
    assert record.getMessage() == 'run.claimed run_id=7 worker=w-1 why="it \\"broke\\"\\nhere" nothing=""'
    assert vars(record)["event"] == "run.claimed"
    assert vars(record)["fields"]["run_id"] == 7
    assert record.filename == "test_logs.py"


def test_an_exception_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("odd")
    except ValueError as exc:
        Log("relay").error("relay.failed", exc, position=3)
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    with caplog.at_level(logging.ERROR):
        Log("relay").warning("relay.quiet")
    assert len(caplog.records) == 1
