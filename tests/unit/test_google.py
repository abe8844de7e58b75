"""A bucket in Google Cloud Storage, through the real client, against a store that misbehaves when it is told to."""

import gzip
import http.server
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.auth.exceptions import RefreshError, TransportError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.exceptions import SSLError

from catdog.data.prepare import prepare
from catdog.data.shards import load_manifest
from catdog.errors import CallerError, RunError
from catdog.runs.folder import finished_recipe
from catdog.storage import Bucket, Changed, GoogleBucket, Stat, Unavailable, google, open_bucket
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore, Fault

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def bucket(store: FakeStore) -> Bucket:
    return open_bucket("gs://bucket/a/prefix", patience=within(6))


def put(store: FakeStore, name: str, content: bytes = CONTENT) -> None:
    store.put("bucket", f"a/prefix/{name}", content)


def fetched(bucket: Bucket, name: str, path: Path) -> bytes:
    stat = bucket.stat(name)
    assert stat is not None
    bucket.fetch(name, stat, path)
    return path.read_bytes()


@pytest.mark.parametrize("uri", ["gs://bucket/a/prefix", "gs://bucket/a/prefix/", "gs://bucket"])
@pytest.mark.parametrize("name", ["a", "b/c.json", "with space/and more.txt", "ünï/コード/😀.png", "x?y#z%41"])
def test_any_name_is_written_listed_read_and_deleted(store: FakeStore, uri: str, name: str) -> None:
    bucket = open_bucket(uri)
    bucket.write(name, b"one")
    bucket.write(name, b"two")
    assert bucket.list() == [name]
    assert bucket.exists(name) and bucket.read(name) == b"two"
    bucket.delete(name)
    bucket.delete(name)
    assert bucket.list() == [] and not bucket.exists(name)
    with pytest.raises(FileNotFoundError):
        bucket.read(name)


def test_objects_lie_under_the_prefix_and_others_are_not_seen(store: FakeStore, bucket: Bucket) -> None:
    store.put("bucket", "a/prefix-of-another/x", b"")
    store.put("bucket", "a/x", b"")
    bucket.write("x", b"mine")
    assert store.get("bucket", "a/prefix/x") == b"mine"
    assert bucket.list() == ["x"]


def test_what_stands_for_a_folder_is_not_listed(store: FakeStore, bucket: Bucket) -> None:
    for name in ("", "folder/", "folder/x"):
        put(store, name, b"")
    assert bucket.list() == ["folder/x"] and open_bucket("gs://bucket").list() == ["a/prefix/folder/x"]


def test_a_list_of_many_pages_is_whole_sorted_and_goes_by_prefix(store: FakeStore, bucket: Bucket) -> None:
    names = [f"{folder}/{number}" for folder in ("b", "a", "ab") for number in range(5)]
    for name in names:
        put(store, name, b"")
    assert bucket.list() == sorted(names)
    assert bucket.list("a/") == [name for name in sorted(names) if name.startswith("a/")]
    assert store.count("list") >= 5


def test_stats_of_many_are_found_with_few_requests(store: FakeStore, bucket: Bucket) -> None:
    for number in range(7):
        put(store, f"train-{number}", b"x" * number)
    before = len(store.requests)
    found = bucket.stats([f"train-{number}" for number in range(9)])
    assert len(store.requests) - before <= 3
    assert {name: stat.size for name, stat in found.items()} == {f"train-{number}": number for number in range(7)}
    assert all(stat.generation > 0 and len(stat.crc32c) == 8 for stat in found.values())
    assert found["train-3"] == bucket.stat("train-3")


def test_the_times_of_all_objects_are_told_by_the_listing(store: FakeStore, bucket: Bucket) -> None:
    for name in ("a/1", "a/2", "b"):
        put(store, name)
    before = len(store.requests)
    times = bucket.times("a/")
    assert times.keys() == {"a/1", "a/2"} and all(abs(told - time.time()) < 60 for told in times.values())
    assert bucket.times().keys() == {"a/1", "a/2", "b"} and len(store.requests) - before == 2


def test_answers_that_come_compressed_are_read(store: FakeStore, bucket: Bucket) -> None:
    store.gzip = True
    stat = bucket.swap("x", CONTENT, None)
    assert bucket.list() == ["x"] and bucket.stat("x") == stat and bucket.read("x") == CONTENT
    with pytest.raises(FileNotFoundError):
        bucket.read("y")
    store.faults.add(Fault("metadata", "flip", at=30), Fault("download", "status", code=403))
    assert bucket.stat("x") == stat
    with pytest.raises(CallerError, match="refuses to read it: Status 403, as scripted"):
        bucket.read("x")


@pytest.mark.parametrize("ask", [lambda b: b.exists("x"), lambda b: b.list()])
def test_a_list_or_metadata_that_trickle_are_asked_for_anew(
    store: FakeStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, ask
) -> None:
    put(store, "x")
    store.faults.add(*(Fault(kind, "trickle", seconds=within(0.05)) for kind in ("metadata", "list")))
    monkeypatch.setattr(google, "TIMEOUT", (within(1.0), within(0.5)))
    began = time.monotonic()
    assert ask(bucket)
    assert time.monotonic() - began < within(2)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 5000), part=st.integers(1, 3000))
def test_an_object_of_any_size_comes_whole_in_ranges_of_any_size(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, part: int
) -> None:
    monkeypatch.setattr(google, "RANGE", part)
    content = CONTENT[:size]
    bucket.write("x", content)
    assert fetched(bucket, "x", tmp_path / "x") == content


def test_a_large_object_comes_over_several_connections_at_a_time(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "x")
    monkeypatch.setattr(google, "RANGE", len(CONTENT) // 4 + 1)
    store.rate = len(CONTENT) / within(2)  # how long it would take alone
    began = time.monotonic()
    assert fetched(bucket, "x", tmp_path / "x") == CONTENT
    assert time.monotonic() - began < within(1.5)


PASSING = [
    Fault("download", "status", code=429, times=3),
    Fault("download", "status", code=503, times=2),
    Fault("download", "status", code=500, times=2),
    Fault("download", "reset", at=0),
    Fault("download", "reset", at=1000, times=3),
    Fault("download", "stall", at=1000, seconds=within(30)),
    Fault("download", "truncate", at=5000, times=2),
    Fault("download", "short", at=5000, times=2),
    Fault("download", "flip", at=5000, times=2),
    Fault("download", "no_hash", times=None),
    Fault("metadata", "status", code=503, times=2),
    Fault("metadata", "reset", at=0),
]


@pytest.mark.parametrize("fault", PASSING, ids=[f"{f.kind}-{f.what}-{f.code}-{f.at}" for f in PASSING])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_fault_that_passes_leaves_the_right_bytes(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, parts: int
) -> None:
    monkeypatch.setattr(google, "RANGE", -(-len(CONTENT) // parts))
    put(store, "x")
    store.faults.add(fault)
    assert fetched(bucket, "x", tmp_path / "x") == CONTENT


def test_a_transfer_that_broke_off_goes_on_where_it_was(store: FakeStore, bucket: Bucket, tmp_path: Path) -> None:
    put(store, "x")
    store.faults.add(Fault("download", "truncate", at=60_000))
    assert fetched(bucket, "x", tmp_path / "x") == CONTENT
    ranges = [request.range for request in store.requests if request.kind == "download"]
    assert len(ranges) == 2
    start = int(ranges[1].removeprefix("bytes=").partition("-")[0])
    assert 0 < start <= 60_000


@pytest.mark.parametrize("what", ["none", "reset", "flip", "truncate"])
def test_who_wants_to_know_is_told_of_every_byte_that_stays(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what
) -> None:
    monkeypatch.setattr(google, "RANGE", len(CONTENT) // 3)
    put(store, "x")
    store.faults.add(Fault("download", what, at=5000))
    stat = bucket.stat("x")
    assert stat is not None
    told: list[int] = []
    bucket.fetch("x", stat, tmp_path / "x", told.append)
    assert sum(told) == len(CONTENT)


def test_who_is_told_may_end_the_transfer(store: FakeStore, bucket: Bucket, tmp_path: Path) -> None:
    put(store, "x")
    stat = bucket.stat("x")
    assert stat is not None
    for least, downloads in ((0, 0), (1, 1)):

        def enough(count: int, least: int = least) -> None:
            if count >= least:
                raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            bucket.fetch("x", stat, tmp_path / "x", enough)
        assert store.count("download") == downloads


def test_a_flipped_byte_in_a_resumed_transfer_is_noticed(store: FakeStore, bucket: Bucket, tmp_path: Path) -> None:
    put(store, "x")
    store.faults.add(Fault("download", "reset", at=20_000), Fault("download", "flip", at=100, only_ranges=True))
    assert fetched(bucket, "x", tmp_path / "x") == CONTENT
    assert store.count("download") == 3


def test_bytes_that_stay_wrong_end_with_name_expected_and_found(
    store: FakeStore, bucket: Bucket, tmp_path: Path
) -> None:
    put(store, "shard")
    store.faults.add(Fault("download", "flip", at=5, times=None))
    stat = bucket.stat("shard")
    assert stat is not None
    with pytest.raises(RunError, match=rf"a/prefix/shard: crc32c {stat.crc32c} expected, [0-9a-f]{{8}} found"):
        bucket.fetch("shard", stat, tmp_path / "x")
    assert store.count("download") == google.FETCHES


def test_a_transfer_that_trickles_is_given_up_and_begun_anew(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "SLOWEST", 10 * len(CONTENT))
    put(store, "x")
    store.faults.add(Fault("download", "trickle", seconds=0.05))
    assert fetched(bucket, "x", tmp_path / "x") == CONTENT


@pytest.mark.parametrize(("what", "bound"), [("status", 4), ("trickle", 2)])
def test_the_patience_for_an_object_in_many_ranges_is_spent_once(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what, bound: float
) -> None:
    monkeypatch.setattr(google, "RANGE", len(CONTENT) // 24)
    bucket = open_bucket("gs://bucket/a/prefix", patience=within(1.0))
    put(store, "x")
    stat = bucket.stat("x")
    assert stat is not None
    if what == "trickle":  # the first range is refused for good, while others are on their way
        store.faults.add(Fault("download", "status", code=403, only_ranges=False))
    store.faults.add(Fault("download", what, code=503, seconds=0.01, times=None))
    began = time.monotonic()
    with pytest.raises(CallerError if what == "trickle" else Unavailable, match="a/prefix/x"):
        bucket.fetch("x", stat, tmp_path / "x")
    assert time.monotonic() - began < within(bound)


def test_a_transfer_that_moves_is_not_given_up_however_often_it_breaks_off(store: FakeStore, tmp_path: Path) -> None:
    put(store, "x")
    store.faults.add(Fault("download", "truncate", at=len(CONTENT) // 8, times=None))
    assert fetched(open_bucket("gs://bucket/a/prefix", patience=within(0.3)), "x", tmp_path / "x") == CONTENT


def test_an_object_that_is_replaced_is_an_error_that_says_so(store: FakeStore, bucket: Bucket, tmp_path: Path) -> None:
    put(store, "x")
    stat = bucket.stat("x")
    assert stat is not None
    put(store, "x", b"other" * 20_000)
    with pytest.raises(Changed, match=r"a/prefix/x: was replaced"):
        bucket.fetch("x", stat, tmp_path / "x")


def test_an_object_that_is_gone_though_it_was_relied_on_is_an_error_that_says_so(
    store: FakeStore, bucket: Bucket, tmp_path: Path
) -> None:
    put(store, "x")
    stat = bucket.stat("x")
    assert stat is not None
    store.delete("bucket", "a/prefix/x")
    with pytest.raises(Changed, match=r"a/prefix/x: was deleted"):
        bucket.fetch("x", stat, tmp_path / "x")


def test_an_object_that_is_replaced_while_it_is_read_is_read_as_it_is_then(store: FakeStore, bucket: Bucket) -> None:
    put(store, "x")
    store.faults.add(Fault("download", "replace", content=b"newer"))
    assert bucket.read("x") == b"newer"
    store.faults.add(Fault("download", "replace", content=b"newest", times=None))
    with pytest.raises(Changed, match=r"a/prefix/x: was replaced"):
        bucket.read("x")


def test_an_object_that_is_deleted_while_it_is_read_is_not_found(
    store: FakeStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_too_late(self: GoogleBucket, *args) -> None:
        store.delete("bucket", "a/prefix/x")
        fetch(self, *args)

    put(store, "x")
    fetch = GoogleBucket.fetch
    monkeypatch.setattr(GoogleBucket, "fetch", fetch_too_late)
    assert bucket.find("x") is None


def test_an_object_that_is_replaced_between_two_ranges_is_no_mixture(
    store: FakeStore, bucket: Bucket, tmp_path: Path
) -> None:
    put(store, "x")
    stat = bucket.stat("x")
    assert stat is not None
    store.faults.add(
        Fault("download", "truncate", at=50_000), Fault("download", "replace", content=bytes(len(CONTENT)))
    )
    with pytest.raises(Changed, match="was replaced"):
        bucket.fetch("x", stat, tmp_path / "x")


@pytest.mark.parametrize("ask", [lambda b: b.read("x"), lambda b: b.write("x", b"new"), lambda b: b.list()])
def test_a_store_that_is_away_for_long_ends_in_an_error_that_names_the_object_in_bounded_time(
    store: FakeStore, ask
) -> None:
    bucket = open_bucket("gs://bucket/a/prefix", patience=(patience := within(1.5)))
    store.down = True
    began = time.monotonic()
    with pytest.raises(Unavailable, match=rf"gs://bucket/a/prefix/.* {patience:.0f} s") as caught:
        ask(bucket)
    assert time.monotonic() - began < within(8)
    assert "\n" not in str(caught.value)


def test_a_store_that_comes_back_is_used_again(store: FakeStore, bucket: Bucket) -> None:
    put(store, "x")
    store.down = True
    threading.Timer(1.0, lambda: setattr(store, "down", False)).start()
    assert bucket.read("x") == CONTENT


@pytest.mark.parametrize(
    ("kind", "needed", "ask"),
    [
        ("metadata", "storage.objects.get", lambda b: b.read("x")),
        ("download", "storage.objects.get", lambda b: b.read("x")),
        ("list", "storage.objects.list", lambda b: b.list()),
        ("upload", "storage.objects.create", lambda b: b.write("x", b"")),
        ("delete", "storage.objects.delete", lambda b: b.delete("x")),
    ],
)
def test_a_missing_permission_is_told_at_once_with_what_is_needed(
    store: FakeStore, bucket: Bucket, kind, needed: str, ask
) -> None:
    put(store, "x")
    words = f"me@project does not have {needed} access to the Google Cloud Storage object."
    store.faults.add(Fault(kind, "status", code=403, message=words, times=None))
    began = time.monotonic()
    with pytest.raises(
        CallerError, match=rf"may not \w+ here: it needs .*{needed}.* on bucket bucket \({words}"
    ) as caught:
        ask(bucket)
    assert time.monotonic() - began < within(1)
    assert "\n" not in str(caught.value)


REFUSALS = [
    (403, "retentionPolicyNotMet", "Object 'bucket/permission/x' is subject to bucket's retention policy"),
    (403, "objectUnderActiveHold", "Object 'bucket/x' is under active Event-Based hold and cannot be overwritten"),
    (403, "forbidden", "Permission denied on Cloud KMS key. Please ensure that your service account may use this key."),
    (403, "accountDisabled", "The billing account for the owning project is disabled in state absent"),
    (403, "forbidden", "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: abc"),
    (403, "forbidden", "me@project does not have serviceusage.services.use access to the Google Cloud project."),
    (403, "insufficientPermissions", "Request had insufficient authentication scopes."),
    (400, "invalid", "Invalid bucket name: 'bucket'"),
    (412, "orgPolicyConstraintFailed", "'us' violates constraint 'constraints/gcp.resourceLocations'"),
    (409, "conflict", "The bucket is locked by another operation."),
    (404, "notFound", "The encryption key 'k' was not found."),
]
"""What Google's store refuses a write with, for other reasons than a missing right to the bucket's objects."""


@pytest.mark.parametrize(
    ("code", "reason", "words"), REFUSALS, ids=[f"{code}-{words[:20]}" for code, _, words in REFUSALS]
)
def test_a_refusal_is_told_in_the_stores_own_words_without_another_cause(
    store: FakeStore, code: int, reason: str, words: str
) -> None:
    store.faults.add(Fault("upload", "status", code=code, reason=reason, message=words, times=None))
    with pytest.raises((CallerError, RunError)) as caught:
        open_bucket("gs://bucket/a/prefix", patience=1).write("x", b"")
    told = str(caught.value)
    assert told.startswith("gs://bucket/a/prefix/x: ") and f"{words} ({reason}, HTTP status {code})" in told
    assert not any(guess in told for guess in ("roles/", "may not", "no bucket", "another process", "make bucket"))


def test_a_request_whose_clock_is_off_is_told_in_the_stores_own_words(store: FakeStore, bucket: Bucket) -> None:
    page = (
        b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference"
        b" between the request time and the current time is too large.</Message></Error>"
    )
    store.faults.add(Fault("upload", "status", code=403, content=page, times=None))
    with pytest.raises(
        CallerError, match=r"refuses to write it: The difference .* large\. \(RequestTimeTooSkewed, HTTP"
    ):
        bucket.write("x", b"")


def test_what_may_be_created_but_not_replaced_or_deleted_cannot_be_written(store: FakeStore, bucket: Bucket) -> None:
    bucket.require_writable()
    assert store.names("bucket") == []
    for kind, after in (("upload", 1), ("delete", 0)):
        words = "Object 'bucket/x' is subject to bucket's retention policy"
        store.faults.add(Fault(kind, "status", code=403, message=words, reason="retentionPolicyNotMet", after=after))
        with pytest.raises(CallerError, match="is subject to bucket's retention policy"):
            bucket.require_writable()
        assert store.faults.left == []
        store.faults.clear()


def test_a_rate_that_is_exceeded_passes_with_whatever_status_it_is_told(store: FakeStore, bucket: Bucket) -> None:
    store.faults.add(Fault("upload", "status", code=403, reason="rateLimitExceeded", times=2))
    bucket.write("x", CONTENT)
    assert store.get("bucket", "a/prefix/x") == CONTENT


def test_faults_that_last_are_told_as_the_stores_answers(store: FakeStore) -> None:
    store.faults.add(Fault("upload", "status", code=429, message="The rate of changes is exceeded.", times=None))
    with pytest.raises(
        Unavailable, match=r"x: could not write it for 1 s: the store answers: The rate .*HTTP status 429"
    ):
        open_bucket("gs://bucket/a/prefix", patience=1).write("x", b"")


def test_an_upload_in_parts_that_the_store_has_lost_is_begun_anew(store: FakeStore, bucket: Bucket) -> None:
    store.faults.add(Fault("upload", "status", code=410, message="The upload session is gone.", after=1))
    content = bytes(9_000_000)
    bucket.write("x", content)
    assert store.get("bucket", "a/prefix/x") == content


@pytest.mark.parametrize("ask", [lambda b: b.list(), lambda b: b.find("x"), lambda b: b.write("x", b"")])
@pytest.mark.parametrize("code", [403, 404, 412])
def test_the_page_of_another_server_is_no_refusal_of_the_store_and_no_missing_object(
    store: FakeStore, bucket: Bucket, ask, code: int
) -> None:
    page = b"<!DOCTYPE html><html><head><style>b{}</style></head><body><b>Access Denied</b> by the proxy</body></html>"
    for kind in ("list", "metadata", "upload"):
        store.faults.add(Fault(kind, "status", code=code, content=page, times=None))
    with pytest.raises(CallerError) as caught:
        ask(bucket)
    told = f"what answers at {store.host} is no store: Access Denied by the proxy (HTTP status {code})"
    assert told in str(caught.value)


def test_a_bucket_whose_reader_pays_wants_a_project_and_gets_the_one_of_the_environment(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "x")
    store.requester_pays = True
    for ask in (lambda: bucket.list(), lambda: bucket.read("x"), lambda: bucket.write("x", b"")):
        with pytest.raises(
            CallerError, match=r"requester pays bucket.*let GOOGLE_CLOUD_QUOTA_PROJECT name the project"
        ):
            ask()
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "mine")
    before = len(store.requests)
    bucket.require_writable()
    bucket.write("y", bytes(9_000_000))  # in parts
    assert bucket.list() == ["x", "y"] and fetched(bucket, "x", tmp_path / "x") == CONTENT
    assert {request.query["userProject"] for request in store.requests[before:]} == {"mine"}


@pytest.mark.parametrize("ask", [lambda b: b.read("x"), lambda b: b.stats(["x", "y"])])
def test_an_object_that_is_stored_compressed_is_refused_with_what_to_do(store: FakeStore, bucket: Bucket, ask) -> None:
    store.put("bucket", "a/prefix/x", gzip.compress(CONTENT), "gzip")
    put(store, "y")
    with pytest.raises(CallerError, match=r"a/prefix/x: is stored with Content-Encoding: gzip.*upload the file again"):
        ask(bucket)
    assert bucket.list() == ["x", "y"] and bucket.read("y") == CONTENT


def test_the_stores_own_clock_is_told_by_its_answers(store: FakeStore, bucket: Bucket) -> None:
    store.ahead = 3600
    bucket.write("x", b"")
    assert abs(bucket.now() - bucket.times()["x"]) < 5
    store.ahead = 0
    bucket.list()
    assert abs(bucket.now() - time.time()) < 5


@pytest.mark.parametrize("kind", ["metadata", "download"])
def test_credentials_that_are_not_taken_are_told_at_once(store: FakeStore, bucket: Bucket, kind) -> None:
    put(store, "x")
    store.faults.add(Fault(kind, "status", code=401, times=None))
    with pytest.raises(CallerError, match=r"x: no valid credentials.*gcloud auth"):
        bucket.read("x")


def fail_first(monkeypatch: pytest.MonkeyPatch, store: FakeStore, error: Exception, times: int) -> list[Exception]:
    """Have the client's next requests fail before they are made, as they do without a token; what is left of them."""
    http = google._client(store.host)._http
    request, errors = http.request, [error] * times

    def fail(*args, **kwargs):
        if errors:
            raise errors.pop()
        return request(*args, **kwargs)

    monkeypatch.setattr(http, "request", fail)
    return errors


def refusal_because_of(cause: Exception) -> RefreshError:
    error = RefreshError("told otherwise")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TransportError("the metadata server is away"),
        TransportError(ConnectionError("reset")),
        RefreshError(TransportError("the metadata server is away")),
        refusal_because_of(TransportError()),
        RefreshError("internal_failure", {}, retryable=True),
    ],
)
def test_a_token_that_cannot_be_had_for_a_moment_is_waited_for(
    store: FakeStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    put(store, "x")
    errors = fail_first(monkeypatch, store, error, 2)
    assert bucket.read("x") == CONTENT and errors == []


def test_a_token_that_is_refused_is_told_at_once(
    store: FakeStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = RefreshError("invalid_grant: Token has been expired or revoked.", {"error": "invalid_grant"})
    errors = fail_first(monkeypatch, store, refusal, 2)
    with pytest.raises(
        CallerError, match=r"x: no valid credentials: invalid_grant: Token has been expired or revoked$"
    ):
        bucket.read("x")
    assert len(errors) == 1


@pytest.mark.parametrize("what", [SSLError, lambda text: TransportError(SSLError(text))])
def test_a_certificate_that_is_not_trusted_is_told_at_once(
    store: FakeStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, what
) -> None:
    text = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1032)"
    errors = fail_first(monkeypatch, store, what(text), 2)
    with pytest.raises(CallerError, match=r"x: .*not trusted.*REQUESTS_CA_BUNDLE.*self-signed"):
        bucket.read("x")
    assert len(errors) == 1


@pytest.mark.parametrize("address", ["localhost:9023", "http://", "http://[::1", "http://x:99999"])
def test_an_emulators_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    with pytest.raises(CallerError) as caught:
        open_bucket("gs://bucket/x").list()
    assert f"STORAGE_EMULATOR_HOST={address}: is no address of the form http://HOST:PORT" in str(caught.value)


def nobody_listens() -> str:
    """An address on this machine where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def without_bucket(monkeypatch: pytest.MonkeyPatch, emulator: str, patience: float = 0.5) -> str:
    """What is told of a store that cannot be had at an address."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    with pytest.raises((CallerError, RunError)) as caught:
        open_bucket("gs://bucket/x", patience=patience).list()
    return str(caught.value)


def test_only_a_connection_that_is_refused_where_the_emulator_should_be_is_told_as_its_being_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulator = f"http://{nobody_listens()}"
    told = without_bucket(monkeypatch, emulator)
    assert told.endswith(f"Connection refused by {emulator}; does `make bucket` still run?")


def test_a_host_that_has_no_address_is_named_with_the_systems_words(monkeypatch: pytest.MonkeyPatch) -> None:
    told = without_bucket(monkeypatch, "http://nowhere.invalid:80")
    assert "nowhere.invalid:80: " in told and "make bucket" not in told
    assert re.search("not known|resolution|No address", told)


def test_what_speaks_no_tls_is_told_so(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    told = without_bucket(monkeypatch, store.host.replace("http", "https"))
    assert "SSL" in told and "make bucket" not in told


class _Proxy(http.server.BaseHTTPRequestHandler):
    """One that lets nobody through."""

    status, page = 403, b"<html><body>Not without a name</body></html>"

    def refuse(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    do_CONNECT = do_GET = do_POST = refuse

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HOST:PORT of a proxy that lets nobody through, and that all requests are to go through."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://me:secret@{place}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield place
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named_without_its_password_and_told_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, proxy: str, scheme: str
) -> None:
    for status, phrase in ((403, "Forbidden"), (407, "Proxy Authentication Required")):
        monkeypatch.setattr(_Proxy, "status", status)
        began = time.monotonic()
        told = without_bucket(monkeypatch, f"{scheme}://store.example:9023", patience=600)
        assert time.monotonic() - began < within(5)
        if scheme == "https":
            assert told.endswith(f"the proxy {proxy}: Tunnel connection failed: {status} {phrase}")
        else:
            assert f"through the proxy {proxy}, is no store: Not without a name (HTTP status {status})" in told
        assert "make bucket" not in told and "secret" not in told and "roles/" not in told


@pytest.mark.parametrize("proxy", ["ftp://proxy:1", "http://", "http://[::1"])
def test_a_proxy_whose_address_is_none_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    key = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (tmp_path / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    google._client.cache_clear()
    began = time.monotonic()
    with pytest.raises(CallerError, match=r"[Pp]roxy URL|Failed to parse") as caught:
        open_bucket("gs://bucket/x", patience=600).list()
    assert time.monotonic() - began < within(5) and "credentials" not in str(caught.value)
    google._client.cache_clear()


def test_a_proxy_that_is_not_there_is_told_as_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    place = nobody_listens()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://{place}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert without_bucket(monkeypatch, "http://127.0.0.1:9023").endswith(f"the proxy {place}: Connection refused")


@pytest.mark.parametrize("ask", [lambda b: b.read("x"), lambda b: b.list(), lambda b: b.write("x", b"")])
def test_a_bucket_that_does_not_exist_is_told_at_once(store: FakeStore, ask) -> None:
    with pytest.raises(CallerError, match="there is no bucket missing"):
        ask(open_bucket("gs://missing/prefix"))


@pytest.mark.parametrize(
    "ask",
    [load_manifest, finished_recipe, lambda bucket: prepare("drawn", bucket)],
    ids=["a data set", "a run", "to prepare"],
)
def test_in_a_bucket_that_does_not_exist_nothing_is_looked_for_and_nothing_begun(store: FakeStore, ask) -> None:
    with pytest.raises(CallerError, match="there is no bucket missing"):
        ask(open_bucket("gs://missing/prefix"))


def test_swap_puts_an_object_only_over_what_was_expected(store: FakeStore, bucket: Bucket) -> None:
    first = bucket.swap("x", b"one", None)
    with pytest.raises(Changed):
        bucket.swap("x", b"two", None)
    second = bucket.swap("x", b"two", first)
    with pytest.raises(Changed):
        bucket.swap("x", b"three", first)
    assert bucket.read("x") == b"two" and bucket.stat("x") == second


@pytest.mark.parametrize("what", ["lost_reply", "reset"])
def test_an_upload_whose_reply_is_lost_is_made_once(store: FakeStore, bucket: Bucket, what) -> None:
    store.faults.add(Fault("upload", what))
    stat = bucket.swap("x", b"mine", None)
    assert bucket.read("x") == b"mine" and bucket.stat("x") == stat


def test_a_swap_whose_reply_is_lost_does_not_take_anothers_content_for_its_own(
    store: FakeStore, bucket: Bucket
) -> None:
    store.faults.add(Fault("upload", "lost_reply"), Fault("upload", "replace", content=b"theirs"))
    with pytest.raises(Changed):
        bucket.swap("x", b"mine", None)
    assert bucket.read("x") == b"theirs"


@pytest.mark.parametrize("size", [1_000, 9_000_000])  # in one request, and in a resumable one
def test_what_is_new_replaces_nothing_even_if_a_reply_is_lost(store: FakeStore, bucket: Bucket, size: int) -> None:
    def write(content: bytes) -> None:
        with bucket.writing("x", new=True) as path:
            path.write_bytes(content)

    mine = (CONTENT * 90)[:size]
    store.faults.add(Fault("upload", "lost_reply", after=size // 9_000_000))
    write(mine)
    with pytest.raises(Changed):
        write(bytes(size))
    assert bucket.read("x") == mine


@pytest.mark.parametrize("size", [0, 1, 9_000_000])
def test_uploads_of_any_size_survive_faults(store: FakeStore, bucket: Bucket, size: int) -> None:
    store.faults.add(
        Fault("upload", "status", code=503, times=2), Fault("upload", "reset"), Fault("upload", "lost_reply")
    )
    content = (CONTENT * 90)[:size]
    bucket.write("x", content)
    assert store.get("bucket", "a/prefix/x") == content


PASSING_UPLOADS = [
    Fault("upload", "status", code=429, times=3),
    Fault("upload", "status", code=503, times=3),
    Fault("upload", "reset", times=2),
    Fault("upload", "unread", at=50_000, times=2),
    Fault("upload", "unread", at=50_000, seconds=within(30)),
    Fault("upload", "stall", at=0, seconds=within(30)),
    Fault("upload", "stall", at=20, seconds=within(30)),
    Fault("upload", "trickle", seconds=0.05),
    Fault("upload", "truncate", at=20, times=2),
    Fault("upload", "short", at=20, times=2),
    Fault("upload", "flip", at=0, times=2),
    Fault("upload", "flip_sent", at=5000, times=2),
    Fault("upload", "lost_reply", times=2),
]


@pytest.mark.parametrize(
    "fault",
    PASSING_UPLOADS,
    ids=[f"{f.what}-{f.code}-{f.at}-{'long' if f.seconds > 1 else ''}" for f in PASSING_UPLOADS],
)
@pytest.mark.parametrize("size", [200_000, 9_000_000])  # in one request, and in a resumable one
def test_a_fault_in_an_upload_that_passes_leaves_the_right_bytes(
    store: FakeStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, fault: Fault, size: int
) -> None:
    monkeypatch.setattr(google, "TIMEOUT", (within(0.5), within(0.5)))
    monkeypatch.setattr(google, "SLOWEST", 10_000_000)
    resumable = size > 8 << 20
    store.faults.add(replace(fault, after=1 if resumable else 0))  # the first request of a resumable one brings nothing
    content = os.urandom(size)
    bucket.write("x", content)
    assert store.get("bucket", "a/prefix/x") == content
    assert store.count("upload") > 1 + resumable


@pytest.mark.parametrize("size", [200_000, 9_000_000])
def test_an_upload_whose_reply_tells_no_hash_is_made(store: FakeStore, bucket: Bucket, size: int) -> None:
    store.faults.add(Fault("upload", "no_hash", times=2))
    content = os.urandom(size)
    bucket.write("x", content)
    assert store.get("bucket", "a/prefix/x") == content


def test_an_object_that_is_replaced_while_it_is_uploaded_is_not_overwritten(store: FakeStore, bucket: Bucket) -> None:
    before = bucket.swap("x", b"before", None)
    store.faults.add(Fault("upload", "replace", content=b"theirs", after=1))
    with pytest.raises(Changed, match=r"a/prefix/x: was written"):
        bucket.swap("x", bytes(9_000_000), before)
    assert bucket.read("x") == b"theirs"


def test_bytes_that_stay_wrong_on_their_way_into_the_store_end_with_the_name_and_store_nothing(
    store: FakeStore,
) -> None:
    store.faults.add(Fault("upload", "flip_sent", times=None))
    with pytest.raises(Unavailable, match=rf"a/prefix/x: could not write it for {within(1):.0f} s: .*CRC32C"):
        open_bucket("gs://bucket/a/prefix", patience=within(1)).write("x", CONTENT)
    assert store.names("bucket") == []


def test_a_fetch_may_take_longer_than_any_timeout(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "TIMEOUT", (within(2), within(2)))
    content = 10 * CONTENT
    put(store, "x", content)
    store.rate = len(content) / within(4)
    assert fetched(bucket, "x", tmp_path / "x") == content
    assert store.count("download") == 1


@pytest.mark.parametrize("size", [6_000_000, 9_000_000])  # in one request, and in a resumable one
def test_an_upload_may_take_longer_than_any_timeout(store: FakeStore, bucket: Bucket, size: int) -> None:
    store.upload_rate = size / within(2)
    content = bytes(size)
    bucket.write("x", content)
    assert store.get("bucket", "a/prefix/x") == content
    assert store.count("upload") <= 2


def test_what_a_killed_writer_left_on_this_machine_is_swept_and_what_is_in_use_is_not(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(google, "_JUST_MADE", -1.0)
    program = """
import os, signal, sys
from catdog.storage import open_bucket
with open_bucket("gs://bucket/x").writing("state.npz") as path:
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    (left,) = tmp_path.iterdir()
    with bucket.writing("mine") as path:
        bucket.sweep(lambda name: True)
        assert list(tmp_path.iterdir()) == [path] != [left]
        path.write_bytes(b"mine")
    assert bucket.read("mine") == b"mine"


def test_what_only_looks_like_a_temporary_file_is_not_swept(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(google, "_JUST_MADE", -1.0)
    theirs = ["catdog-photos.zip", "catdog-abcdefgh", "catdog-part-1.zip", "catdog-part-abcdefgh-old.tar.gz"]
    for name in [*theirs, "catdog-part-abcd_fg1.npz"]:
        (tmp_path / name).touch()
    bucket.sweep(lambda name: True)
    assert sorted(os.listdir(tmp_path)) == sorted(theirs)


def test_a_block_that_ends_badly_writes_nothing(
    store: FakeStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def write_half() -> None:
        with bucket.writing("x.json") as path:
            assert path.suffix == ".json"
            path.write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert bucket.list() == [] and list(tmp_path.iterdir()) == []


def test_many_threads_share_the_client(store: FakeStore, bucket: Bucket, tmp_path: Path) -> None:
    for number in range(16):
        put(store, f"x{number}", CONTENT[number:])
    wrong: list[int] = []

    def fetch(number: int) -> None:
        if fetched(bucket, f"x{number}", tmp_path / f"{number}") != CONTENT[number:]:
            wrong.append(number)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_bucket_goes_to_another_process(bucket: Bucket) -> None:
    assert pickle.loads(pickle.dumps(bucket)) == bucket


def test_without_credentials_one_line_tells_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(CallerError, match="gcloud auth application-default login") as caught:
        open_bucket("gs://bucket/x").list()
    assert "\n" not in str(caught.value)


KEY = {"type": "service_account", "client_email": "a@b", "token_uri": "https://token", "private_key": "no key"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not a valid json file"),
        (b"\xff\xfe\x00", "is not a valid json file"),
        (b"[]", "'list' object has no attribute"),
        (b"[" * 100_000, "recursion"),
        (b'{"type": "none of them"}', "Type is none of them"),
        (b'{"type": "authorized_user"}', "missing fields"),
        (json.dumps(KEY).encode(), "Failed to load service account credentials|Unable to load PEM|key"),
        (None, "Is a directory"),
    ],
)
def test_a_key_file_that_is_none_is_told_in_the_words_of_who_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, words: str
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    file = tmp_path / "key.json"
    file.mkdir() if content is None else file.write_bytes(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(CallerError) as caught:
        open_bucket("gs://bucket/x").list()
    told = str(caught.value)
    assert told.startswith(f"gs://bucket/x: no Google credentials: GOOGLE_APPLICATION_CREDENTIALS={file}: ")
    assert re.search(words, told) and "\n" not in told and "gcloud" not in told and "make bucket" not in told


def test_an_object_without_a_known_checksum_is_not_taken(store: FakeStore, bucket: Bucket, tmp_path: Path) -> None:
    put(store, "x")
    with pytest.raises(RunError, match="unknown to the store"):
        bucket.fetch("x", Stat(len(CONTENT), ""), tmp_path / "x")


NO_JSON_OF_A_STORE = (b"[]", b"null", b'"x"', b"[" * 100_000)
NO_LISTS = (
    b'{"items": 1}',
    b'{"items": [1]}',
    b'{"items": [{"name": 1}]}',
    b'{"items": [{"name": "a/prefix/x"}]}',
    b'{"items": [{"name": "a/prefix/x", "updated": "once"}]}',
)


@pytest.mark.parametrize("answer", [*NO_JSON_OF_A_STORE, b"{}", b'{"name": "a/prefix/x", "size": {}}'])
def test_json_that_tells_of_no_object_ends_in_one_line(store: FakeStore, answer: bytes) -> None:
    store.faults.add(Fault("metadata", "status", code=200, content=answer, times=None))
    with pytest.raises(Unavailable, match=r"^gs://bucket/a/prefix/x: could not read it for 0 s: [^\n]{10,300}$"):
        open_bucket("gs://bucket/a/prefix", patience=0.5).stat("x")


@pytest.mark.parametrize("answer", [*NO_JSON_OF_A_STORE, *NO_LISTS])
def test_json_that_lists_no_objects_ends_in_one_line(store: FakeStore, answer: bytes) -> None:
    store.faults.add(Fault("list", "status", code=200, content=answer, times=None))
    with pytest.raises(Unavailable, match=r"^gs://bucket/a/prefix/: could not list it for 0 s: [^\n]{10,300}$"):
        open_bucket("gs://bucket/a/prefix", patience=0.5).times()
