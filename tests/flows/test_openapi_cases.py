"""Generated requests, valid and invalid, to every operation of the OpenAPI document, against a live server.

Each answer has a status, a content type and a body that the document allows, and none is a 500.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES, EXAMPLES_AT_LENGTH = 6, 30
PATIENCE_S = 20
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def http(make_shared_server: Callable[..., Any]) -> Iterator[httpx.Client]:
    server = make_shared_server(CRONLEDGER_CRONS_PER_USER="0", CRONLEDGER_RUN_TIMEOUT_S="5")
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client


def objects(http: httpx.Client) -> dict[str, str]:
    """Ids of objects that are there, by the name of the path parameter."""
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    run = http.post(f"/threads/{thread_id}/runs", json={"assistant_id": "counter"}).json()
    body = {"assistant_id": "counter", "schedule": "0 0 1 1 *", "enabled": False}
    cron = http.post(f"/threads/{thread_id}/runs/crons", json=body).json()
    assistant = http.post("/assistants", json={"graph_id": "counter"}).json()
    ids = {"run_id": run["run_id"], "cron_id": cron["cron_id"], "assistant_id": assistant["assistant_id"]}
    return {"thread_id": thread_id, **ids}


def made_real(case: Any, ids: dict[str, str], number: int) -> None:
    """Let a valid request mean objects that are there: else most of the answers would be 404."""
    case.path_parameters.update({name: ids[name] for name in case.path_parameters.keys() & ids.keys()})
    if isinstance(case.body, dict):
        case.body.pop("after_seconds", None)  # years, perhaps: whoever waits for that run would, too
        if "assistant_id" in case.body and number % 4:
            case.body["assistant_id"] = "counter"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(EXAMPLES_AT_LENGTH, marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore")  # of the generators
def test_answers_are_as_the_document_says(http: httpx.Client, examples: int, mode: GenerationMode) -> None:
    statuses, wrong = Counter[int](), dict[str, str]()

    def cases_of(operation: Any) -> None:
        ids, number = objects(http) if mode is GenerationMode.POSITIVE else {}, 0

        @settings(BOUNDED, max_examples=examples)
        @given(case=operation.as_strategy(generation_mode=mode))
        def answered(case: Any) -> None:
            nonlocal number
            number += 1
            checks = list(CHECKS)
            if mode is GenerationMode.POSITIVE:
                made_real(case, ids, number)
            elif operation.body:  # an empty parameter of a query is none, whatever the generator thinks of it
                checks.append(negative_data_rejection)
            answer = case.call(timeout=PATIENCE_S)
            statuses[answer.status_code] += 1
            try:
                case.validate_response(answer, checks=checks)
            except FailureGroup as group:
                told = "; ".join(f"{failure.title}: {failure.message}"[:400] for failure in group.exceptions)
                wrong.setdefault(f"{operation.label}: {told}", case.as_curl_command()[:800])

        answered()

    document: Any = schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    for operation in operations:
        if mode is GenerationMode.POSITIVE or operation.body or operation.query:
            cases_of(operation)
    assert not wrong, "\n\n".join(f"{what}\n{command}" for what, command in wrong.items())
    assert len(operations) > 50
    assert statuses.total() > (300 if mode is GenerationMode.POSITIVE else 250)
    refused = sum(count for status, count in statuses.items() if status >= 400)
    if mode is GenerationMode.POSITIVE:
        assert refused < 0.6 * statuses.total(), statuses
    else:
        assert refused > 0.8 * statuses.total(), statuses
