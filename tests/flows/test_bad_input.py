"""Bad bodies, ids, schedules and queries: each gets a clear 4xx that names the field, and leaves no event behind."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

NEVER = "0 0 1 1 *"
THREAD_CRON = "/threads/{thread}/runs/crons"
CRON = {"assistant_id": "counter", "schedule": NEVER}
RUN = {"assistant_id": "counter"}


def cron(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**CRON, **changes}.items() if value is not ...}


def run(**changes: Any) -> dict[str, Any]:
    return {**RUN, **changes}


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


# (method, path, body, status, what the detail must name)
CASES: list[tuple[str, str, Any, int, str]] = [
    # bodies that are none
    ("POST", THREAD_CRON, b"", 422, "assistant_id"),
    ("POST", THREAD_CRON, b"{", 422, "Invalid JSON"),
    ("POST", THREAD_CRON, b"[]", 422, "body"),
    ("POST", THREAD_CRON, b'"text"', 422, "body"),
    ("POST", THREAD_CRON, b"\xff\xfe", 422, "Invalid JSON"),
    ("POST", THREAD_CRON, b'{"assistant_id": "counter", "schedule": NaN}', 422, "Invalid JSON"),
    ("POST", THREAD_CRON, b'{"metadata": {"a": ' + b"[" * 100_000, 422, "body"),
    ("POST", THREAD_CRON, b'{"assistant_id": "\\ud800"}', 422, "Invalid JSON"),
    # missing and mistyped fields
    ("POST", THREAD_CRON, cron(assistant_id=...), 422, "assistant_id"),
    ("POST", THREAD_CRON, cron(schedule=...), 422, "schedule"),
    ("POST", THREAD_CRON, cron(assistant_id=None), 422, "assistant_id"),
    ("POST", THREAD_CRON, cron(assistant_id=""), 422, "assistant_id"),
    ("POST", THREAD_CRON, cron(assistant_id="x" * 257), 422, "assistant_id"),
    ("POST", THREAD_CRON, cron(assistant_id=7), 422, "assistant_id"),
    ("POST", THREAD_CRON, cron(schedule=5), 422, "schedule"),
    ("POST", THREAD_CRON, cron(schedule=None), 422, "schedule"),
    ("POST", THREAD_CRON, cron(input="text"), 422, "input"),
    ("POST", THREAD_CRON, cron(input=[1]), 422, "input"),
    ("POST", THREAD_CRON, cron(metadata=[]), 422, "metadata"),
    ("POST", THREAD_CRON, cron(config="x"), 422, "config"),
    ("POST", THREAD_CRON, cron(config={"recursion_limit": 0}), 422, "config"),
    ("POST", THREAD_CRON, cron(config={"tags": "x"}), 422, "config"),
    ("POST", THREAD_CRON, cron(config={"configurable": []}), 422, "config"),
    ("POST", THREAD_CRON, cron(context=[]), 422, "context"),
    ("POST", THREAD_CRON, cron(config={"configurable": {"a": 1}}, context={"b": 2}), 400, "context"),
    ("POST", THREAD_CRON, cron(interrupt_before="node"), 422, "interrupt_before"),
    ("POST", THREAD_CRON, cron(interrupt_after=[1]), 422, "interrupt_after"),
    ("POST", THREAD_CRON, cron(multitask_strategy="wait"), 422, "multitask_strategy"),
    ("POST", THREAD_CRON, cron(on_run_completed="keep it"), 422, "on_run_completed"),
    ("POST", THREAD_CRON, cron(end_time="soon"), 422, "end_time"),
    ("POST", THREAD_CRON, cron(end_time="2020-01-01T00:00:00Z"), 422, "end_time"),
    ("POST", THREAD_CRON, cron(end_time=5), 422, "end_time"),
    ("POST", THREAD_CRON, cron(enabled="yes"), 422, "enabled"),
    ("POST", THREAD_CRON, cron(stream_mode="everything"), 422, "stream_mode"),
    ("POST", THREAD_CRON, cron(stream_mode=["values", 1]), 422, "stream_mode"),
    ("POST", THREAD_CRON, cron(stream_subgraphs="no"), 422, "stream_subgraphs"),
    *(("POST", path, cron(event_streaming=value), 422, "event_streaming") for path in (THREAD_CRON, "/runs/crons") for value in (1, "yes")),
    ("PATCH", "/runs/crons/{cron}", {"event_streaming": None}, 422, "event_streaming"),
    ("POST", "/threads/{thread}/runs", {"assistant_id": "counter", "event_streaming": 1}, 422, "event_streaming"),
    ("POST", THREAD_CRON, cron(durability="always"), 422, "durability"),
    ("POST", THREAD_CRON, cron(checkpoint_during=1), 422, "checkpoint_during"),
    ("POST", THREAD_CRON, cron(if_not_exists="create"), 422, "if_not_exists"),
    ("POST", THREAD_CRON, cron(input={"text": "x" * 70_000}), 422, "payload"),
    ("POST", THREAD_CRON, cron(webhook="https://169.254.169.254/hook"), 422, "webhook"),
    ("POST", THREAD_CRON, cron(webhook="/hook"), 422, "webhook"),
    ("POST", THREAD_CRON, cron(webhook=5), 422, "webhook"),
    ("POST", "/runs/crons", cron(webhook=""), 422, "webhook"),
    ("POST", THREAD_CRON, cron(after_seconds=5), 422, "after_seconds"),
    ("POST", THREAD_CRON, cron(checkpoint={}), 422, "checkpoint"),
    ("POST", THREAD_CRON, cron(checkpoint_id="x"), 422, "checkpoint_id"),
    ("POST", THREAD_CRON, cron(command={"resume": 1}), 422, "command"),
    # what fires late
    *(
        (method, path, dict[str, Any](body) | {field: value}, 422, field)
        for method, path, body in (("POST", THREAD_CRON, CRON), ("POST", "/runs/crons", CRON), ("PATCH", "/runs/crons/{cron}", {}))
        for field, value in (
            ("catch_up", "newest"),
            ("catch_up", 1),
            ("catch_up_window_seconds", -1),
            ("catch_up_window_seconds", 31_536_001),
            ("catch_up_window_seconds", "5"),
            ("catch_up_window_seconds", 1.5),
            ("start_time", "soon"),
            ("start_time", "2098-01-01T00:00:00Z"),
            ("start_time", "9999-12-31T23:59:59Z"),
            ("start_time", 5),
            ("start_time", "0001-01-01T00:00:00+05:00"),
            *(("jitter_seconds", value) for value in (-1, 3601, 1.5, "5", True)),
            *((name, value) for name in ("max_runs", "pause_after_failures") for value in (0, -1, 1.5, "5", 1 << 54)),
            ("overlap", "reject"),
            ("overlap", ""),
            ("overlap", 1),
            ("overlap", ["skip"]),
        )
    ),
    *(
        (method, f"{path}?{query}", body, 422, query.partition("=")[0])
        for method, path, body in (("POST", THREAD_CRON, CRON), ("POST", "/runs/crons", CRON), ("PATCH", "/runs/crons/{cron}", {}))
        for query in (
            "catch_up=newest", "catch_up_window_seconds=-1", "catch_up_window_seconds=x", "start_time=soon",
            "jitter_seconds=3601", "max_runs=0", "pause_after_failures=x", "overlap=never",
        )
    ),
    ("POST", THREAD_CRON, cron(start_time="2099-01-01T00:00:00Z", end_time="2098-01-01T00:00:00Z"), 422, "start_time"),
    ("POST", "/runs/crons?start_time=2098-01-01T00:00:00Z", cron(end_time="2098-01-01T00:00:00Z"), 422, "start_time"),
    # what runs do beside each other: the table's cron has a thread
    ("POST", THREAD_CRON, cron(overlap="allow"), 422, "overlap"),
    ("POST", THREAD_CRON + "?overlap=allow", cron(), 422, "overlap"),
    ("POST", THREAD_CRON, cron(overlap="skip", multitask_strategy="enqueue"), 422, "overlap"),
    ("POST", THREAD_CRON + "?overlap=cancel_other", cron(multitask_strategy="rollback"), 422, "overlap"),
    ("POST", "/runs/crons", cron(overlap="buffer_one", multitask_strategy="reject"), 422, "overlap"),
    ("POST", "/runs/crons", cron(overlap="allow", multitask_strategy="enqueue"), 422, "overlap"),
    ("PATCH", "/runs/crons/{cron}", {"overlap": "allow"}, 422, "overlap"),
    ("PATCH", "/runs/crons/{cron}", {"overlap": "skip", "multitask_strategy": "interrupt"}, 422, "overlap"),
    ("PATCH", "/runs/crons/{cron}?overlap=skip", {"multitask_strategy": "interrupt"}, 422, "overlap"),
    ("PATCH", "/runs/crons/{unknown}", {"overlap": "skip"}, 404, "Cron"),
    # schedules and zones
    *(
        ("POST", "/runs/crons", cron(schedule=text), 422, "schedule")
        for text in (
            "", "   ", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8",
            "*/0 * * * *", "5-1/2 * * * *", "R * * * *", "H * * * *", "0 0 LW * *", "0 0 15W * *",
            "0 0 L-2 * *", "0 0 30 2 *", "@reboot", "@every 5m", "TZ=UTC 0 9 * * *", "0 0 1 1 * * 2027",
            "\u0660 * * * *", "0\u00000 * * *", "1" * 257, "jan * * * *", "0 0 * * 5#6",
        )
    ),
    *(
        ("POST", "/runs/crons", cron(timezone=name), 422, "timezone")
        for name in ("", "utc", "Mars/Olympus", "+02:00", "../UTC", "x" * 65, "Europe/Berlin\u0000", 5)
    ),
    # ids
    ("POST", "/threads/nonsense/runs/crons", CRON, 422, "thread"),
    ("POST", "/threads/{unknown}/runs/crons", CRON, 404, "Thread"),
    ("POST", THREAD_CRON, cron(assistant_id="nobody"), 404, "assistant"),
    ("POST", THREAD_CRON, cron(assistant_id=str(uuid4())), 404, "assistant"),
    ("GET", "/runs/crons/nonsense", None, 422, "cron"),
    ("GET", "/runs/crons/{unknown}", None, 404, "Cron"),
    ("PATCH", "/runs/crons/nonsense", {"enabled": True}, 422, "cron"),
    ("PATCH", "/runs/crons/{unknown}", {"enabled": True}, 404, "Cron"),
    ("DELETE", "/runs/crons/nonsense", None, 422, "cron"),
    ("DELETE", "/runs/crons/{unknown}", None, 404, "Cron"),
    ("GET", "/threads/{unknown}", None, 404, "Thread"),
    ("GET", "/threads/%7Bx%7D", None, 422, "thread"),
    ("PATCH", "/threads/{unknown}", {"metadata": {}}, 404, "Thread"),
    ("DELETE", "/threads/{unknown}", None, 404, "Thread"),
    ("GET", "/threads/{unknown}/state", None, 404, "Thread"),
    ("GET", "/threads/{unknown}/runs", None, 404, "Thread"),
    ("GET", "/threads/{thread}/runs/nonsense", None, 422, "run"),
    ("GET", "/threads/{thread}/runs/{unknown}", None, 404, "Run"),
    ("GET", "/threads/{thread}/runs/{unknown}/join", None, 404, "Run"),
    ("DELETE", "/threads/{thread}/runs/{unknown}", None, 404, "Run"),
    ("GET", "/assistants/{unknown}", None, 404, "assistant"),
    ("GET", "/runs/crons/{unknown}/ledger", None, 404, "Cron"),
    ("GET", "/threads/{thread}/runs/{unknown}/ledger", None, 404, "Run"),
    # changes
    ("PATCH", "/runs/crons/{cron}", b"", 400, "empty"),
    ("PATCH", "/runs/crons/{cron}", {}, 400, "empty"),
    ("PATCH", "/runs/crons/{cron}", {"schedule": "61 * * * *"}, 422, "schedule"),
    ("PATCH", "/runs/crons/{cron}", {"schedule": None}, 422, "schedule"),
    ("PATCH", "/runs/crons/{cron}", {"timezone": "Nowhere"}, 422, "timezone"),
    ("PATCH", "/runs/crons/{cron}", {"end_time": "2020-01-01T00:00:00Z"}, 422, "end_time"),
    ("PATCH", "/runs/crons/{cron}", {"metadata": 5}, 422, "metadata"),
    ("PATCH", "/runs/crons/{cron}", {"multitask_strategy": "wait"}, 422, "multitask_strategy"),
    ("PATCH", "/runs/crons/{cron}", {"webhook": "http://localhost/"}, 422, "webhook"),
    ("PATCH", "/runs/crons/{cron}", {"note": "x" * 501}, 422, "note"),
    ("PATCH", "/runs/crons/{cron}?note=" + "x" * 501, {}, 422, "note"),
    ("POST", THREAD_CRON, cron(note=5), 422, "note"),
    ("POST", "/runs/crons/{cron}/pause", {"note": 5}, 422, "note"),
    *(
        ("POST", "/runs/crons/{cron}/pause", {"until": until}, 422, "until")
        for until in ("2030-01-01", "soon", 5, "2020-01-01T00:00:00Z", "2098-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00")
    ),
    ("POST", "/runs/crons/{unknown}/pause", {}, 404, "Cron"),
    ("POST", "/runs/crons/{cron}/resume", {"catch_up": "each"}, 422, "catch_up"),
    ("POST", "/runs/crons/{cron}/resume", {"catch_up": 1}, 422, "catch_up"),
    ("POST", "/runs/crons/{unknown}/resume", {}, 404, "Cron"),
    # backfills
    *(
        ("POST", "/runs/crons/{cron}/backfill", {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"} | body, 422, field)
        for body, field in (
            ({"start": "soon"}, "start"), ({"start": 5}, "start"), ({"start": None}, "start"), ({"end": "x"}, "end"),
            ({"end": "2020-01-01T00:00:00Z"}, "end"), ({"end": "2098-01-01T00:00:00Z"}, "end"),
            ({"start": "0001-01-01T00:00:00+05:00"}, "start"), ({"end": "9999-12-31T23:59:59-05:00"}, "end"),
            ({"include": "some"}, "include"), ({"include": 1}, "include"), ({"overlap": "never"}, "overlap"),
            ({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"limit": 1.5}, "limit"),
            ({"dry_run": "no"}, "dry_run"), ({"note": "x" * 501}, "note"), ({"note": 5}, "note"),
        )
    ),
    ("POST", "/runs/crons/{cron}/backfill", {"start": "2020-01-01T00:00:00Z"}, 422, "end"),
    ("POST", "/runs/crons/{cron}/backfill", {}, 422, "start"),
    ("POST", "/runs/crons/{unknown}/backfill", {"start": "2020-01-01", "end": "2020-01-02"}, 422, "start"),
    ("POST", "/runs/crons/{unknown}/backfill", {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}, 404, "Cron"),
    ("GET", "/runs/crons/{unknown}/backfills", None, 404, "Cron"),
    ("GET", "/runs/crons/{cron}/backfills?limit=0", None, 422, "limit"),
    ("GET", "/runs/crons/{cron}/backfills/{unknown}", None, 404, "Backfill"),
    ("GET", "/runs/crons/{cron}/backfills/nonsense", None, 422, "backfill"),
    ("POST", "/runs/crons/{cron}/backfills/{unknown}/cancel", None, 404, "Backfill"),
    ("PATCH", "/runs/crons/{cron}", {"config": {"tags": 1}}, 422, "config"),
    ("PATCH", "/runs/crons/{cron}", {"input": {"text": "x" * 70_000}}, 422, "payload"),
    # threads and runs
    ("POST", "/threads", {"thread_id": "nonsense"}, 422, "thread_id"),
    ("POST", "/threads", {"thread_id": "01900000-0000-8000-8000-000000000001"}, 422, "thread_id"),
    ("POST", "/threads", {"thread_id": "{thread}"}, 409, "thread_id"),
    ("POST", "/threads", {"thread_id": "{cron}"}, 409, "thread_id"),
    ("POST", "/threads", {"metadata": "x"}, 422, "metadata"),
    ("POST", "/threads", {"if_exists": "maybe"}, 422, "if_exists"),
    ("POST", "/threads", {"ttl": 5}, 422, "ttl"),
    ("POST", "/threads", {"supersteps": [{"updates": []}]}, 422, "supersteps"),
    ("POST", "/threads", {"supersteps": [{"updates": [{"values": {}}]}]}, 422, "metadata.graph_id"),
    ("PATCH", "/threads/{thread}", {"metadata": []}, 422, "metadata"),
    ("POST", "/threads/{thread}/runs", {}, 422, "assistant_id"),
    ("POST", "/threads/{thread}/runs", {"assistant_id": "nobody"}, 422, "assistant_id"),
    ("POST", "/threads/{thread}/runs", {"assistant_id": str(uuid4())}, 404, "assistant"),
    ("POST", "/threads/{unknown}/runs", RUN, 404, "Thread"),
    ("POST", "/threads/{thread}/runs", run(if_not_exists="always"), 422, "if_not_exists"),
    ("POST", "/threads/{cron}/runs", run(if_not_exists="create"), 409, "thread_id"),
    ("POST", "/assistants", {"graph_id": "counter", "assistant_id": "{thread}"}, 409, "assistant_id"),
    ("POST", "/threads/{thread}/runs", run(multitask_strategy="wait"), 422, "multitask_strategy"),
    ("POST", "/threads/{thread}/runs", run(after_seconds=-1), 422, "after_seconds"),
    ("POST", "/threads/{thread}/runs", run(after_seconds="soon"), 422, "after_seconds"),
    ("POST", "/threads/{thread}/runs", run(on_disconnect="stay"), 422, "on_disconnect"),
    ("POST", "/threads/{thread}/runs", run(stream_mode="tools"), 422, "stream_mode"),
    ("POST", "/threads/{thread}/runs", run(command=[]), 422, "command"),
    ("POST", "/threads/{thread}/runs", run(command={"goto": {"input": 1}}), 422, "command.goto"),
    ("POST", "/threads/{thread}/runs", run(command={}), 422, "command"),
    ("POST", "/threads/{thread}/runs", run(command={"goto": None}, input={}), 422, "command"),
    ("POST", "/threads/{thread}/runs", run(checkpoint=5), 422, "checkpoint"),
    ("POST", "/threads/{thread}/runs", run(webhook="http://u:p@example.com/"), 422, "webhook"),
    ("POST", "/threads/{thread}/runs/stream", {}, 422, "assistant_id"),
    ("POST", "/threads/{thread}/runs/stream", run(assistant_id="nobody"), 422, "counter"),
    ("POST", "/threads/{unknown}/runs/stream", RUN, 404, "Thread"),
    ("POST", "/threads/{unknown}/runs/wait", RUN, 404, "Thread"),
    ("POST", "/threads/nonsense/runs/wait", RUN, 422, "thread"),
    ("GET", "/threads/{thread}/runs/{unknown}/stream", None, 404, "Run"),
    ("GET", "/threads/{thread}/runs/nonsense/stream", None, 422, "run"),
    ("GET", "/threads/{thread}/runs/{unknown}/stream?stream_mode=odd", None, 422, "stream_mode"),
    ("GET", "/threads/{thread}/runs/{unknown}/stream?stream_mode=[1]", None, 422, "stream_mode"),
    ("GET", "/threads/{thread}/runs/{unknown}/join?cancel_on_disconnect=maybe", None, 422, "cancel_on_disconnect"),
    ("POST", "/threads/{thread}/runs/{unknown}/cancel", None, 404, "Run"),
    ("POST", "/threads/{thread}/runs/{unknown}/cancel?wait=1&action=rollback", None, 404, "Run"),
    ("POST", "/threads/{thread}/runs/{unknown}/cancel?wait=maybe", None, 422, "wait"),
    ("GET", "/runs/nonsense", None, 422, "run"),
    ("GET", "/runs/{unknown}", None, 404, "Run"),
    ("GET", "/runs/{unknown}/join", None, 404, "Run"),
    ("GET", "/runs/{unknown}/stream", None, 404, "Run"),
    # runs without a thread
    ("POST", "/runs", {}, 422, "assistant_id"),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": deep(300)}, 422, "value"),
    ("POST", "/runs", run(assistant_id="nobody"), 422, "assistant_id"),
    ("POST", "/runs", run(assistant_id=str(uuid4())), 404, "assistant"),
    ("POST", "/runs", run(on_completion="burn"), 422, "on_completion"),
    ("POST", "/runs/wait", run(command={"resume": 1}), 400, "thread_id"),
    ("POST", "/runs/stream", run(checkpoint={"checkpoint_id": "x"}), 422, "checkpoint"),
    ("POST", "/runs/batch", [], 422, "body"),
    ("POST", "/runs/batch", {}, 422, "body"),
    ("POST", "/runs/batch", [RUN, {}], 422, "[1].assistant_id"),
    ("POST", "/runs/batch", [RUN, run(assistant_id="nobody")], 422, "[1].assistant_id"),
    ("POST", "/runs/batch", [RUN, run(assistant_id=str(uuid4()))], 404, "assistant"),
    ("POST", "/runs/cancel", {}, 422, "run_ids"),
    ("POST", "/runs/cancel", {"status": "success"}, 422, "status"),
    ("POST", "/runs/cancel", {"status": "all"}, 404, "No runs"),
    ("POST", "/runs/cancel", {"status": "all", "run_ids": []}, 422, "status"),
    ("POST", "/runs/cancel", {"thread_id": "{thread}", "run_ids": []}, 422, "run_ids"),
    ("POST", "/runs/cancel", {"thread_id": "{thread}", "run_ids": ["x"]}, 422, "run_ids"),
    ("POST", "/runs/cancel", {"thread_id": "nonsense", "run_ids": [str(uuid4())]}, 422, "thread_id"),
    ("POST", "/runs/cancel", {"thread_id": "{thread}", "run_ids": [str(uuid4())]}, 404, "No runs"),
    # searches and queries
    ("POST", "/runs/crons/search", {"limit": 0}, 422, "limit"),
    ("POST", "/runs/crons/upcoming", {}, 422, "schedule"),
    ("POST", "/runs/crons/upcoming", {"schedule": "61 * * * *"}, 422, "schedule"),
    ("POST", "/runs/crons/upcoming", {"schedule": "* * * * *", "timezone": "Mars/Base"}, 422, "timezone"),
    ("POST", "/runs/crons/upcoming", {"schedule": "* * * * *", "limit": 1001}, 422, "limit"),
    ("POST", "/runs/crons/upcoming", {"schedule": "* * * * *", "after": "soon"}, 422, "after"),
    ("POST", "/runs/crons/upcoming", {"schedule": "* * * * *", "after": "0001-01-01T00:00:00+14:00"}, 422, "after"),
    ("POST", "/runs/crons/upcoming", {"schedule": "* * * * *", "end_time": "2020-01-01T00:00:00Z"}, 422, "end_time"),
    ("POST", "/runs/crons/{unknown}/trigger", {}, 404, "Cron"),
    ("POST", "/runs/crons/nonsense/trigger", {}, 422, "cron_id"),
    ("POST", "/runs/crons/{cron}/trigger", {"input": 5}, 422, "input"),
    ("POST", "/runs/crons/{cron}/trigger", {"note": "x" * 501}, 422, "note"),
    ("POST", "/runs/crons/{cron}/trigger", {"config": {"tags": 1}}, 422, "config"),
    ("POST", "/runs/crons/{cron}/trigger", {"config": {"configurable": {"a": 1}}, "context": {"b": 2}}, 400, "context"),
    ("POST", "/runs/crons/{cron}/trigger?force=perhaps", {}, 422, "force"),
    ("GET", "/runs/{unknown}/deliveries", None, 404, "Run"),
    ("GET", "/runs/nonsense/deliveries", None, 422, "run_id"),
    ("GET", "/runs/crons/{unknown}/deliveries", None, 404, "Cron"),
    ("GET", "/runs/crons/{cron}/deliveries?state=lost", None, 422, "state"),
    ("GET", "/deliveries?limit=0", None, 422, "limit"),
    ("GET", "/deliveries/{unknown}", None, 404, "Delivery"),
    ("POST", "/deliveries/{unknown}/redeliver", None, 404, "Delivery"),
    ("POST", "/deliveries/nonsense/redeliver", None, 422, "delivery_id"),
    ("GET", "/runs/crons/occurrences?until=2026-01-01", None, 422, "from"),
    ("GET", "/runs/crons/occurrences?from=2026-01-01", None, 422, "until"),
    ("GET", "/runs/crons/occurrences?from=x&until=2026-01-01", None, 422, "from"),
    ("GET", "/runs/crons/occurrences?from=2026-01-01&until=2026-01-01", None, 422, "until"),
    ("GET", "/runs/crons/occurrences?from=2026-01-01&until=2028-01-01", None, 422, "until"),
    ("GET", "/runs/crons/occurrences?from=2026-01-01&until=2026-02-01&cron_id=x", None, 422, "cron_id"),
    ("GET", "/runs/crons/occurrences?from=2026-01-01&until=2026-02-01&cron_id={unknown}", None, 404, "Cron"),
    ("GET", "/runs/crons/occurrences?from=2026-01-01&until=2026-02-01&limit=0", None, 422, "limit"),
    ("GET", "/runs/crons/{cron}/occurrences?from=x", None, 422, "from"),
    ("GET", "/runs/crons/{cron}/occurrences?to=x", None, 422, "to"),
    ("GET", "/runs/crons/{cron}/occurrences?from=2026-01-02&to=2026-01-02", None, 422, "to"),
    ("GET", "/runs/crons/{cron}/occurrences?from=2026-01-01T00:00:00.2&to=2026-01-01T00:00:00.4", None, 422, "to"),
    ("GET", "/runs/crons/{cron}/occurrences?status=late", None, 422, "status"),
    ("GET", "/runs/crons/{cron}/occurrences?limit=1001", None, 422, "limit"),
    ("GET", "/runs/crons/{cron}/occurrences?cursor=5", None, 422, "cursor"),
    ("GET", "/runs/crons/{cron}/occurrences?cursor=5.-1", None, 422, "cursor"),
    ("GET", "/runs/crons/{cron}/occurrences?cursor=" + "9" * 19 + ".1", None, 422, "cursor"),
    ("GET", "/runs/crons/{cron}/occurrences?cursor=5.1&offset=0", None, 422, "cursor"),
    ("GET", "/runs/crons/{cron}/occurrences?status=pending&offset=1", None, 422, "offset"),
    ("GET", "/runs/crons/{cron}/occurrences?offset=-1", None, 422, "offset"),
    ("GET", "/runs/crons/{cron}/upcoming?after=later", None, 422, "after"),
    ("GET", "/runs/crons/{cron}/upcoming?ignore_state=perhaps", None, 422, "ignore_state"),
    ("POST", "/runs/crons/search", {"limit": 1001}, 422, "limit"),
    ("POST", "/runs/crons/search", {"offset": -1}, 422, "offset"),
    ("POST", "/runs/crons/search", {"sort_by": "mood"}, 422, "sort_by"),
    ("POST", "/runs/crons/search", {"sort_order": "up"}, 422, "sort_order"),
    ("POST", "/runs/crons/search", {"select": ["now"]}, 422, "select"),
    ("POST", "/runs/crons/search", {"thread_id": "nonsense"}, 422, "thread_id"),
    ("POST", "/runs/crons/count", {"metadata": 5}, 422, "metadata"),
    ("POST", "/threads/search", {"status": "asleep"}, 422, "status"),
    ("POST", "/threads/search", {"ids": ["nonsense"]}, 422, "ids"),
    ("POST", "/threads/search", {"extract": {"a": "nothing[x"}}, 422, "extract"),
    ("POST", "/threads/search", {"extract": {"not an id": "values.a"}}, 422, "extract"),
    ("POST", "/assistants/search", {"graph_id": "nobody"}, 404, "graph_id"),
    ("GET", "/threads/{thread}/runs?limit=0", None, 422, "limit"),
    ("GET", "/threads/{thread}/runs?status=odd", None, 422, "status"),
    ("GET", "/threads/{thread}/runs?select=odd", None, 422, "select"),
    ("GET", "/runs?status=odd", None, 422, "status"),
    ("GET", "/runs?cron_id=nonsense", None, 422, "cron_id"),
    ("GET", "/runs?limit=0", None, 422, "limit"),
    ("GET", "/runs?limit=1001", None, 422, "limit"),
    ("GET", "/runs?select=odd", None, 422, "select"),
    ("GET", "/runs?cursor=x", None, 422, "cursor"),
    ("GET", "/runs?cursor=5", None, 422, "cursor"),
    ("GET", "/runs?cursor=-5.{unknown}", None, 422, "cursor"),
    ("GET", "/runs?cursor=" + "9" * 19 + ".{unknown}", None, 422, "cursor"),
    ("GET", "/ledger?cursor=x", None, 422, "cursor"),
    ("GET", "/ledger?since=yesterday", None, 422, "since"),
    ("GET", "/ledger?order=random", None, 422, "order"),
    ("GET", "/ledger?run=nonsense", None, 422, "run"),
    ("GET", "/no/such/route", None, 404, "Not Found"),
    ("PUT", "/threads", {}, 405, "Method Not Allowed"),
]  # fmt: skip


def rpc(method: Any = "ping", params: Any = None, **changes: Any) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params} | changes
    return {name: value for name, value in message.items() if value is not ...}


def tool(name: Any = "counter", **params: Any) -> dict[str, Any]:
    return rpc("tools/call", {"name": name, **params})


ODD: list[Any] = [[], "text", 5]
ODD_IDS: list[Any] = [None, 1.5, True, [], {}, 1 << 60]
ODD_HELLOS: list[Any] = [None, {}, {"protocolVersion": 5}]
# (body, status, code, what the message must name)
MCP_CASES: list[tuple[Any, int, int, str]] = [
    (b"", 400, -32600, "jsonrpc"),
    (b"{", 400, -32700, "Invalid JSON"),
    (b"\xff", 400, -32700, "Invalid JSON"),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "\\ud800"}', 400, -32700, "Invalid JSON"),
    (b"[" * 100_000, 400, -32700, "nested"),
    *((body, 400, -32600, "expected object") for body in (b"null", *ODD, [[]], [5]) if body != []),
    ([], 400, -32600, "batch"),
    ([rpc()] * 101, 400, -32600, "batch"),
    ([rpc(), rpc(jsonrpc="1.0")], 400, -32600, "jsonrpc"),
    (rpc(jsonrpc=...), 400, -32600, "jsonrpc"),
    (rpc(jsonrpc=2.0), 400, -32600, "jsonrpc"),
    *((rpc(id=rpc_id), 400, -32600, "id") for rpc_id in ODD_IDS),
    (rpc(method=...), 400, -32600, "method"),
    (rpc(method=5), 400, -32600, "method"),
    *((rpc(params=params), 400, -32600, "params") for params in ODD),
    *((rpc(method), 200, -32601, "Method not found") for method in ("", "tools", "resources/list", "x" * 9999)),
    *((rpc("tools/list", {"cursor": c}), 200, -32602, "cursor") for c in (5, "", "x", "-5.x", "9" * 19 + ".1")),
    *((rpc("initialize", params), 200, -32602, "protocolVersion") for params in ODD_HELLOS),
    (rpc("tools/call"), 200, -32602, "name"),
    (tool(5), 200, -32602, "name"),
    *((tool(name), 200, -32602, "Unknown tool") for name in ("", "nobody", "x" * 9999, "a_" + "a" * 26, "\u0000")),
    *((tool(arguments=value), 200, -32602, "arguments") for value in ODD),
    *((tool(context=value), 200, -32602, "context") for value in ODD),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(make_shared_server: Callable[..., Any]) -> Any:
    return make_shared_server()


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def newest(http: httpx.Client) -> str:
    answer = http.get("/ledger", params={"order": "desc", "limit": 1})
    return str(answer.json()[0]["position"])


def test_bad_input_is_refused_and_leaves_no_trace(http: httpx.Client) -> None:
    assert len(CASES) >= 60
    thread = http.post("/threads", json={}).json()["thread_id"]
    made = http.post(f"/threads/{thread}/runs/crons", json=cron(enabled=False)).json()["cron_id"]
    names = {"{thread}": thread, "{cron}": made, "{unknown}": str(uuid4())}
    head = newest(http)
    wrong: list[str] = []
    for method, path, body, status, named in CASES:
        for mark, value in names.items():
            path = path.replace(mark, value)
            if isinstance(body, dict):
                body = {k: value if v == mark else v for k, v in body.items()}
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {}
        if body is not None and not content:
            content = {"json": body}
        answer = http.request(method, path, **content)
        detail = answer.json().get("detail") if answer.content else None
        shown = f"{method} {path} {str(body)[:80]} -> {answer.status_code} {detail}"
        if answer.status_code != status or not isinstance(detail, str) or named.lower() not in detail.lower():
            wrong.append(f"{shown} (wanted {status}, {named})")
        if answer.headers.get("x-request-id", "") == "" and status not in (404, 405):
            wrong.append(f"{shown} (no request id)")
        if newest(http) != head:
            wrong.append(f"{shown} (left an event behind)")
            head = newest(http)
    assert not wrong, "\n".join(wrong)


def test_too_many_crons(make_server: Any) -> None:
    server = make_server(CRONLEDGER_CRONS_PER_USER="2")
    with httpx.Client(base_url=server.url) as http:
        for _ in range(2):
            assert http.post("/runs/crons", json=cron(enabled=False)).status_code == 200
        refused = http.post("/runs/crons", json=cron(enabled=False))
        assert (refused.status_code, refused.json()["error"]) == (429, "too_many_crons")


def test_request_id_is_echoed_and_recorded(http: httpx.Client) -> None:
    answer = http.post("/threads", json={}, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    [entry] = http.get("/ledger", params={"thread": answer.json()["thread_id"]}).json()
    assert entry["cause"] == "mine-1"


def test_browsers_may_read_the_headers(http: httpx.Client) -> None:
    asked = {"origin": "https://ui.example", "access-control-request-method": "POST"}
    preflight = http.options("/threads", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "*"
    answer = http.post("/threads/search", json={}, headers={"origin": "https://ui.example"})
    assert "content-location" in answer.headers["access-control-expose-headers"].lower()
    assert http.head("/ok").status_code == 200


def test_messages_of_mcp_are_refused_by_json_rpc(http: httpx.Client) -> None:
    head, wrong = newest(http), list[str]()
    for body, status, code, named in MCP_CASES:
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = http.post("/mcp", **content)
        error = answer.json()["error"]
        told = (answer.status_code, error["code"])
        if told != (status, code) or named.lower() not in error["message"].lower():
            wrong.append(f"{str(body)[:80]} -> {told} {error} (wanted {status}, {code}, {named})")
    assert not wrong, "\n".join(wrong)
    assert newest(http) == head
