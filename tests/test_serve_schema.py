"""Requests made from the API's own description, by schemathesis: none is an error of the server's."""

import pytest

from tests import serving_http as http

schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")
hypothesis = pytest.importorskip("hypothesis", reason="needs pip install hypothesis")

folder, shared = http.folder, http.shared
EXAMPLES = 25  # of each route and kind


@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
def test_no_request_is_an_error_of_the_servers(shared, kind):
    """Requests as they are described, and others."""
    schema = schemathesis.openapi.from_url(shared[0] + "/openapi.json")
    mode = schemathesis.GenerationMode[kind]
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        strategy = operation.as_strategy(generation_mode=mode)

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=strategy)
        def send(case):
            nonlocal sent
            sent += 1
            reply = case.call(timeout=http.PATIENCE)
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)
            if reply.status_code >= 400:
                message = reply.json()["error"]["message"]
                assert message.endswith(".") and "\n" not in message, message

        try:
            send()
        except hypothesis.errors.Unsatisfiable:
            continue  # nothing about this route can be wrong
    assert sent > 100
