"""What is made of the answers and errors of stores, proxies and libraries."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catdog.storage.causes import Answer, parse_answer, readable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "errors", "message", "reason", "x"]), inner)
    ),
)


@pytest.mark.parametrize(
    ("text", "status", "words", "reason", "by_store"),
    [
        ("", 404, "", "", True),
        ("No such object: bucket/x", 404, "No such object: bucket/x", "", True),
        ("404 page not found", 404, "404 page not found", "", False),
        ('{"detail": "Not Found"}', 404, '{"detail": "Not Found"}', "", False),
        ('{"error": {"message": "no", "errors": [{"reason": "why"}]}}', 403, "no", "why", True),
        ('{"error": {"message": "no", "status": "PERMISSION_DENIED"}}', 403, "no", "PERMISSION_DENIED", True),
        ("<?xml version='1.0'?><Error><Code>A</Code><Message>b</Message></Error>", 403, "b", "A", True),
        ("<html><body>A &amp; b</body></html>", 403, "A & b", "", False),
    ],
)
def test_an_answer_is_read_in_each_form_that_it_may_have(
    text: str, status: int, words: str, reason: str, by_store: bool
) -> None:
    assert parse_answer(text, status) == (words, reason, by_store)


@given(st.text() | JSON.map(json.dumps), st.integers(100, 600))
@example("[" * 100_000, 404)
@example("<script" * 10_000, 404)
@example('{"error": {"errors": [[]], "message": {"a": "\\u001b[2J"}}}', 403)
def test_any_answer_is_told_on_one_bounded_line_that_steers_no_terminal(text: str, status: int) -> None:
    words, reason, by_store = parse_answer(text, status)
    told = str(Answer(status, words, reason, by_store))
    assert told.isprintable() and len(told) < 700


@pytest.mark.parametrize(
    ("words", "of_permission"),
    [
        ("me@x does not have storage.objects.create access to the Google Cloud Storage object.", True),
        ("Permission 'storage.objects.get' denied on resource (or it may not exist).", True),
        ("The caller does not have permission", True),
        ("Access denied.", True),
        ("Permission denied on Cloud KMS key.", False),
        ("me@x does not have serviceusage.services.use access to the project.", False),
        ("Object 'bucket/permission.txt' is under active Temporary hold", False),
        ("Status 403", False),
    ],
)
def test_what_speaks_of_a_right_to_the_buckets_objects_is_told_from_what_does_not(
    words: str, of_permission: bool
) -> None:
    assert Answer(403, words).of_permission == of_permission


def test_what_is_readable_has_one_line_and_a_bound() -> None:
    assert readable("a\n\tb\x1b[31mc") == "a b [31mc"
    assert len(readable("x" * 10**6)) < 310
