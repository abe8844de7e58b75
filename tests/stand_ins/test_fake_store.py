"""The fake store as the real client sees it: that it answers like Google's, and that each fault does what it says."""

import base64
import hashlib
import io
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import google_crc32c
import pytest
import requests
from fake_store import FakeStore, Fault
from google.api_core import exceptions as api
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import InvalidOperation
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from tests.pace import within

NAMES = ["a", "b/c.json", "with space/and more+&=?#.txt", "100%/%2F", "ünï/コード/😀.png"]
CONTENT = random.Random(0).randbytes(300_000)
MIB = 1 << 20


def client_of(store: FakeStore) -> storage.Client:
    options = {"api_endpoint": store.host}
    return storage.Client(project="none", credentials=AnonymousCredentials(), client_options=options)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the client asks for the bucket's metadata now and then, in a thread of its own."""
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")


@pytest.fixture
def store() -> Iterator[FakeStore]:
    with FakeStore(buckets=("bucket", "other"), page_size=3) as store:
        yield store


@pytest.fixture
def bucket(store: FakeStore) -> Iterator[storage.Bucket]:
    with client_of(store) as client:
        yield client.bucket("bucket")


@pytest.fixture
def blob(store: FakeStore, bucket: storage.Bucket) -> storage.Blob:
    """A blob with CONTENT."""
    store.put("bucket", "blob", CONTENT)
    return bucket.blob("blob")


def connect(store: FakeStore) -> socket.socket:
    """A connection of our own, for what the client would not do."""
    return socket.create_connection(("127.0.0.1", int(store.host.rpartition(":")[2])), timeout=within(5))


def fetch(blob: storage.Blob, **options: object) -> bytes:
    return blob.download_as_bytes(**{"retry": None, "timeout": within(5), **options})


def fetch_part(blob: storage.Blob, error: type[Exception], **options: object) -> bytes:
    """What arrived before the download failed with this error."""
    file = io.BytesIO()
    with pytest.raises(error):
        blob.download_to_file(file, **{"retry": None, "timeout": within(5), **options})
    return file.getvalue()


def upload(blob: storage.Blob, content: bytes, generation: int | None = None) -> None:
    """A multipart upload: one request."""
    blob.upload_from_string(content, retry=None, if_generation_match=generation, timeout=within(5))


def upload_in_chunks(blob: storage.Blob, content: bytes, generation: int | None = None) -> None:
    """A resumable upload: one request to start it, and one for each MiB."""
    blob.chunk_size = MIB
    blob.upload_from_file(io.BytesIO(content), retry=None, if_generation_match=generation, timeout=within(5))


# What a store that behaves does.


@pytest.mark.parametrize("name", NAMES)
def test_an_object_can_be_written_read_listed_and_deleted_under_any_name(store, bucket, name):
    upload(bucket.blob(name), b"content")
    upload_in_chunks(bucket.blob(name + " 2"), b"content 2")
    assert store.names("bucket") == [name, name + " 2"] and store.names("other") == []
    assert store.get("bucket", name) == fetch(bucket.blob(name)) == b"content"
    assert fetch(bucket.blob(name + " 2")) == b"content 2"
    assert [found.name for found in bucket.list_blobs(retry=None)] == [name, name + " 2"]
    bucket.blob(name).delete(retry=None)
    store.delete("bucket", name + " 2")
    assert not bucket.blob(name).exists(retry=None) and store.names("bucket") == []
    assert {request.name for request in store.requests} == {name, name + " 2", ""}


def test_metadata_describe_the_object(store, bucket):
    generation = store.put("bucket", "a/b", b"content")
    blob = bucket.get_blob("a/b", retry=None)
    assert (blob.name, blob.size, blob.generation) == ("a/b", 7, generation)
    assert base64.b64decode(blob.crc32c) == google_crc32c.Checksum(b"content").digest()
    assert base64.b64decode(blob.md5_hash) == hashlib.md5(b"content").digest()
    assert abs(datetime.now(UTC) - blob.updated) < timedelta(seconds=within(10))
    assert fetch(blob) == b"content"  # by the URL that the metadata name
    assert bucket.get_blob("absent", retry=None) is None


def test_each_write_gives_a_higher_generation(store, bucket):
    generations = [store.put("bucket", "x", b"1"), store.put("other", "x", b"2")]
    for write in (upload, upload_in_chunks):
        blob = bucket.blob("x")
        write(blob, b"3")
        generations.append(blob.generation)
    assert generations == sorted(set(generations))


@pytest.mark.parametrize(
    ("first", "last"), [(0, None), (0, 0), (7, None), (7, 9), (299_999, None), (10, 999_999), (-5, None)]
)
def test_a_range_is_answered_with_just_that_range(store, blob, first, last):
    expected = CONTENT[first : None if last is None else last + 1]
    assert fetch(blob, start=first, end=last) == expected


def test_the_headers_of_a_download(store):
    generation = store.put("bucket", "x", b"0123456789")
    url = f"{store.host}/download/storage/v1/b/bucket/o/x?alt=media"
    whole, part = requests.get(url), requests.get(url, headers={"Range": "bytes=2-4"})
    crc32c = base64.b64encode(google_crc32c.Checksum(b"0123456789").digest()).decode()
    for response in (whole, part):
        assert f"crc32c={crc32c}" in response.headers["x-goog-hash"].split(",")
        assert response.headers["x-goog-generation"] == str(generation)
        assert response.headers["x-goog-stored-content-length"] == "10"
    assert (whole.status_code, whole.content, whole.headers["Content-Length"]) == (200, b"0123456789", "10")
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")


def test_a_range_behind_the_end_is_refused(store, bucket, blob):
    fetch_part(blob, api.RequestRangeNotSatisfiable, start=len(CONTENT))
    store.put("bucket", "empty", b"")
    assert fetch(bucket.blob("empty")) == b""
    fetch_part(bucket.blob("empty"), api.RequestRangeNotSatisfiable, start=0)


def test_reads_can_be_bound_to_a_generation(store, bucket):
    old, new = store.put("bucket", "x", b"old"), store.put("bucket", "x", b"new")
    assert fetch(bucket.blob("x", generation=new)) == fetch(bucket.blob("x"), if_generation_match=new) == b"new"
    fetch_part(bucket.blob("x", generation=old), api.NotFound)
    fetch_part(bucket.blob("x"), api.PreconditionFailed, if_generation_match=old)
    fetch_part(bucket.blob("x"), api.NotModified, if_generation_not_match=new)
    bucket.blob("x", generation=new).reload(retry=None, if_generation_match=new, if_generation_not_match=old)
    with pytest.raises(api.NotFound):
        bucket.blob("x", generation=old).reload(retry=None)
    with pytest.raises(api.PreconditionFailed):
        bucket.blob("x").reload(retry=None, if_generation_match=old)
    with pytest.raises(api.NotModified):
        bucket.blob("x").reload(retry=None, if_generation_not_match=new)
    assert fetch(bucket.blob("x")) == b"new"  # the answers without a body left the connection in order
    fetch_part(bucket.blob("absent"), api.NotFound, if_generation_match=new)


@pytest.mark.parametrize("write", [upload, upload_in_chunks])
def test_writes_and_deletes_can_be_bound_to_a_generation(store, bucket, write):
    write(bucket.blob("x"), b"first", 0)
    first = bucket.get_blob("x", retry=None).generation
    for generation in (0, first - 1):
        with pytest.raises(api.PreconditionFailed):
            write(bucket.blob("x"), b"not stored", generation)
    with pytest.raises(api.PreconditionFailed):
        write(bucket.blob("absent"), b"not stored", first)
    assert store.names("bucket") == ["x"] and store.get("bucket", "x") == b"first"
    write(bucket.blob("x"), b"second", first)
    assert store.get("bucket", "x") == b"second"
    with pytest.raises(api.PreconditionFailed):
        bucket.blob("x").delete(retry=None, if_generation_match=first)
    bucket.blob("x").delete(retry=None, if_generation_match=bucket.get_blob("x", retry=None).generation)
    with pytest.raises(api.NotFound):
        bucket.blob("x").delete(retry=None)


def test_of_many_writers_that_want_to_be_first_one_is(store):
    def write(i: int) -> bool:
        with client_of(store) as client:
            try:
                upload(client.bucket("bucket").blob("x"), b"%d" % i, 0)
            except api.PreconditionFailed:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        won = [i for i, first in enumerate(pool.map(write, range(16))) if first]
    assert [b"%d" % i for i in won] == [store.get("bucket", "x")]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB])
def test_a_resumable_upload_comes_in_chunks(store, bucket, size):
    content = random.Random(size).randbytes(size)
    upload_in_chunks(bucket.blob("x"), content)
    assert store.get("bucket", "x") == content
    assert store.count("upload", "x") == 2 + size // MIB  # after a full chunk there is another, which may be empty


def test_a_large_file_is_uploaded_in_one_chunk(store, bucket, tmp_path: Path):
    (tmp_path / "large").write_bytes(content := bytes(9 * MIB))
    bucket.blob("x").upload_from_filename(tmp_path / "large", retry=None, if_generation_match=0)
    assert store.get("bucket", "x") == content
    assert [request.range for request in store.requests] == ["", f"bytes 0-{9 * MIB - 1}/{9 * MIB}"]


def test_a_resumable_upload_tells_how_far_it_has_come(store):
    start = f"{store.host}/upload/storage/v1/b/bucket/o?uploadType=resumable"
    url = requests.post(start, json={"name": "x"}).headers["Location"]

    def put(content_range: str, body: bytes = b"") -> tuple[int, str | None]:
        response = requests.put(url, body, headers={"Content-Range": f"bytes {content_range}"})
        return response.status_code, response.headers.get("Range")

    assert put("*/10") == (308, None)
    assert put("0-3/*", b"0123") == put("*/10") == put("*/*") == (308, "bytes=0-3")
    assert put("8-9/10", b"89") == (400, None)  # a gap
    assert put("2-5/*", b"2345") == (308, "bytes=0-5")  # some of it once more
    assert store.names("bucket") == []
    assert put("6-9/10", b"6789") == put("*/10") == (200, None)
    assert store.get("bucket", "x") == b"0123456789"
    assert requests.put(url + "0", headers={"Content-Range": "bytes */10"}).status_code == 404


def test_an_upload_whose_client_dies_stores_nothing(store):
    with connect(store) as sent:
        head = "POST /upload/storage/v1/b/bucket/o?uploadType=multipart HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
        sent.sendall(head.encode() + b"--half of it")
    time.sleep(0.05)
    assert store.names("bucket") == [] and store.requests == []


def test_a_listing_comes_in_pages(store, bucket):
    names = [f"a/{i}" for i in range(7)]
    for name in ["Z", *names, "b"]:
        store.put("bucket", name, b"content")
    found = list(bucket.list_blobs(prefix="a/", retry=None))
    assert [blob.name for blob in found] == names and {blob.size for blob in found} == {7}
    assert store.count("list") == 3
    assert [blob.name for blob in bucket.list_blobs(retry=None)] == ["Z", *names, "b"]
    assert [blob.name for blob in bucket.list_blobs(prefix="a/", max_results=4, retry=None)] == names[:4]
    pages = bucket.list_blobs(prefix="a/", page_size=2, retry=None).pages
    assert [[blob.name for blob in page] for page in pages] == [names[0:2], names[2:4], names[4:6], names[6:]]
    assert list(bucket.list_blobs(prefix="none", retry=None)) == []


def test_a_listing_goes_on_behind_the_last_name_whatever_has_changed(store, bucket):
    for i in range(5):
        store.put("bucket", f"{i}", b"")
    pages = bucket.list_blobs(retry=None).pages
    assert [blob.name for blob in next(pages)] == ["0", "1", "2"]
    store.delete("bucket", "2")
    store.put("bucket", "00", b"")
    store.put("bucket", "22", b"")
    assert [blob.name for blob in next(pages)] == ["22", "3", "4"]


def test_a_listing_can_stop_at_a_delimiter(store, bucket):
    for name in ["d/a", "d/b", "d/e/f", "d/e/g", "d/h/i", "k"]:
        store.put("bucket", name, b"")
    listing = bucket.list_blobs(prefix="d/", delimiter="/", retry=None)
    assert [blob.name for blob in listing] == ["d/a", "d/b"] and listing.prefixes == {"d/e/", "d/h/"}


def test_a_bucket_that_is_not_there(store, bucket):
    absent = bucket.client.bucket("absent")
    bucket.reload(retry=None)
    assert bucket.exists(retry=None) and not absent.exists(retry=None)
    calls = [
        absent.reload,
        absent.blob("x").reload,
        absent.blob("x").delete,
        absent.blob("x").download_as_bytes,
        lambda retry: list(absent.list_blobs(retry=retry)),
        lambda retry: absent.blob("x").upload_from_string(b"content", retry=retry),
        lambda retry: absent.blob("x").upload_from_file(io.BytesIO(b"content"), retry=retry),
    ]
    for call in calls:
        with pytest.raises(api.NotFound, match="The specified bucket does not exist"):
            call(retry=None)
    answer = requests.get(f"{store.host}/storage/v1/b/absent").json()["error"]
    assert answer["code"] == 404 and answer["errors"][0]["reason"] == "notFound"


def test_one_connection_serves_many_requests(store, blob, caplog):
    with caplog.at_level(logging.DEBUG, "urllib3.connectionpool"):
        for _ in range(20):
            fetch(blob)
            blob.reload(retry=None)
    assert len(store.requests) == 40 and caplog.text.count("Starting new HTTP connection") == 1


def test_the_log_of_requests(store, bucket):
    before = time.monotonic()
    upload(bucket.blob("a/x"), b"content", 0)
    fetch(bucket.blob("a/x"), start=2)
    list(bucket.list_blobs(retry=None))
    bucket.blob("a/x").delete(retry=None)
    seen = [(request.method, request.kind, request.bucket, request.name, request.range) for request in store.requests]
    assert seen == [
        ("POST", "upload", "bucket", "a/x", ""),
        ("GET", "download", "bucket", "a/x", "bytes=2-"),
        ("GET", "list", "bucket", "", ""),
        ("DELETE", "delete", "bucket", "a/x", ""),
    ]
    times = [before, *(request.time for request in store.requests), time.monotonic()]
    assert times == sorted(times)
    assert store.requests[0].query["ifGenerationMatch"] == "0"
    assert (store.count("upload"), store.count("upload", "^a/"), store.count("upload", "^x")) == (1, 1, 0)


# What each fault does.


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (403, api.Forbidden),
        (404, api.NotFound),
        (412, api.PreconditionFailed),
        (429, api.TooManyRequests),
        (500, api.InternalServerError),
        (503, api.ServiceUnavailable),
        (401, InvalidOperation),  # the client tries to get new credentials, and anonymous ones have none
    ],
)
def test_status_on_requests_of_every_kind(store, bucket, blob, code, error):
    kinds = ["metadata", "download", "upload", "delete", "list", "bucket"]
    store.faults.add(*(Fault(kind, "status", code=code) for kind in kinds))
    calls = [
        lambda: blob.reload(retry=None),
        lambda: fetch(blob),
        lambda: upload(bucket.blob("new"), b"content"),
        lambda: blob.delete(retry=None),
        lambda: list(bucket.list_blobs(retry=None)),
        lambda: bucket.reload(retry=None),
    ]
    for call in calls:
        with pytest.raises(error):
            call()
    assert store.names("bucket") == ["blob"]
    for call in calls:
        call()
    assert store.names("bucket") == ["new"]


def test_status_with_a_time_to_wait(store, blob):
    store.faults.add(Fault("download", "status", code=429, retry_after=7))
    with pytest.raises(api.TooManyRequests) as caught:
        fetch(blob)
    assert caught.value.response.headers["Retry-After"] == "7"
    assert caught.value.response.json()["error"]["code"] == 429


@pytest.mark.parametrize("at", [0, 1, 8192, 100_000, 299_999])
def test_reset_sends_so_much_and_no_more(store, blob, at):
    store.faults.add(Fault("download", "reset", at=at))
    part = fetch_part(blob, requests.exceptions.ChunkedEncodingError)
    assert part == CONTENT[: at - at % 8192]  # of its last block of 8 KiB the client gives nothing
    assert fetch(blob) == CONTENT


def test_reset_is_a_reset(store, blob):
    store.faults.add(Fault("download", "reset", at=100_000))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="Connection reset by peer"):
        fetch(blob)


@pytest.mark.parametrize("write", [upload, upload_in_chunks])
def test_a_reset_upload_stores_nothing(store, bucket, write):
    store.faults.add(Fault("upload", "reset"), Fault("upload", "none"), Fault("upload", "reset"))
    for _ in range(2 if write is upload_in_chunks else 1):
        with pytest.raises(requests.exceptions.ConnectionError):
            write(bucket.blob("x"), b"content")
    assert store.names("bucket") == []


def test_a_reset_delete_deletes_nothing(store, blob):
    store.faults.add(Fault("delete", "reset"))
    with pytest.raises(requests.exceptions.ConnectionError):
        blob.delete(retry=None)
    assert store.names("bucket") == ["blob"]


@pytest.mark.parametrize("write", [upload, upload_in_chunks])
def test_lost_reply_stores_the_object(store, bucket, write):
    chunks = write is upload_in_chunks
    store.faults.add(Fault("upload", "lost_reply", after=1 if chunks else 0))
    with pytest.raises(requests.exceptions.ConnectionError):
        write(bucket.blob("x"), b"content", 0)
    assert store.get("bucket", "x") == b"content"
    with pytest.raises(api.PreconditionFailed):
        write(bucket.blob("x"), b"content", 0)


@pytest.mark.parametrize("write", [upload, upload_in_chunks])
def test_what_was_flipped_on_its_way_is_refused_and_not_stored(store, bucket, write):
    store.faults.add(Fault("upload", "flip_sent", at=5, after=1 if write is upload_in_chunks else 0))
    with pytest.raises(api.BadRequest, match="doesn't match calculated CRC32C"):
        write(bucket.blob("x"), b"content")
    assert store.names("bucket") == []


def test_an_upload_that_is_not_read_to_its_end_is_reset_and_stores_nothing(store, bucket):
    store.faults.add(Fault("upload", "unread", at=100_000), Fault("upload", "unread", at=100_000, seconds=within(60)))
    for told in ("reset by peer|Broken pipe", "timed out"):
        with pytest.raises(requests.exceptions.RequestException, match=told):
            bucket.blob("x").upload_from_string(CONTENT, retry=None, timeout=within(0.3))
    assert store.names("bucket") == [] and store.count("upload", "x") == 2


def test_lost_reply_deletes_the_object(store, blob):
    store.faults.add(Fault("delete", "lost_reply"))
    with pytest.raises(requests.exceptions.ConnectionError):
        blob.delete(retry=None)
    assert store.names("bucket") == []


def test_stall_until_the_client_gives_up(store, blob):
    store.faults.add(Fault("download", "stall", at=100_000, seconds=within(60), times=2))
    with pytest.raises(requests.exceptions.ConnectionError, match="Read timed out"):
        fetch(blob, timeout=within(0.2))
    part = fetch_part(blob, requests.exceptions.ConnectionError, timeout=within(0.2))
    assert part == CONTENT[: 100_000 - 100_000 % 8192]


def test_stall_ends_with_a_closed_connection(store, blob):
    store.faults.add(Fault("download", "stall", at=100_000, seconds=0.1))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="100000 bytes read, 200000 more expected"):
        fetch(blob)


def test_trickle_outlasts_every_read_timeout(store, bucket):
    store.put("bucket", "x", b"0123456789")
    store.faults.add(Fault("download", "trickle", seconds=within(0.05)))
    start = time.monotonic()
    assert fetch(bucket.blob("x"), timeout=within(0.3)) == b"0123456789"
    assert time.monotonic() - start > within(0.4)


def test_truncate_is_seen_by_the_length(store, blob):
    store.faults.add(Fault("download", "truncate", at=100_000))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="100000 bytes read, 200000 more expected"):
        fetch(blob, checksum=None)


def test_short_is_seen_by_the_hash_only(store, blob):
    store.faults.add(Fault("download", "short", at=100_000, times=3))
    assert fetch_part(blob, ConnectionError) == CONTENT[:100_000]
    assert fetch(blob, checksum=None) == CONTENT[:100_000]
    assert fetch(blob, start=1000) == CONTENT[1000:101_000]  # the client checks no hash of a range


def test_flip_changes_one_bit(store, bucket, blob):
    store.faults.add(Fault("download", "flip", at=5, times=3))
    wrong = fetch_part(blob, DataCorruption)
    assert [i for i in range(len(CONTENT)) if wrong[i] != CONTENT[i]] == [5] and (
        wrong[5] ^ CONTENT[5]
    ).bit_count() == 1
    assert fetch(bucket.blob("blob"), checksum=None) == wrong
    assert fetch(bucket.blob("blob"), start=1000) != CONTENT[1000:]
    assert fetch(bucket.blob("blob")) == CONTENT


def test_no_hash_hides_the_hashes_and_nothing_else(store, bucket, blob):
    store.faults.add(*(Fault(kind, "no_hash") for kind in ("download", "metadata", "list", "upload")))
    assert fetch(blob) == CONTENT and blob.crc32c is blob.md5_hash is None
    upload(new := bucket.blob("new"), b"content")
    for found in (bucket.get_blob("blob", retry=None), *bucket.list_blobs(retry=None), new):
        assert found.generation and found.size and found.crc32c is found.md5_hash is None
    assert all(found.crc32c and found.md5_hash for found in bucket.list_blobs(retry=None))


def test_replace_before_a_request(store, bucket):
    old = store.put("bucket", "x", b"old")
    store.faults.add(Fault("download", "replace", content=b"newer"))
    assert fetch(bucket.blob("x")) == b"newer"
    store.faults.add(Fault("download", "replace", content=b"newest", times=2))
    fetch_part(bucket.blob("x", generation=old), api.NotFound)
    fetch_part(bucket.blob("x"), api.PreconditionFailed, if_generation_match=old)
    store.faults.add(Fault("download", "replace", content=b"0123456789", only_ranges=True))
    assert fetch(bucket.blob("x"), start=0) == b"newest"
    assert fetch(bucket.blob("x"), start=4) == b"456789"


# Which requests a fault hits.


def outcomes(blob: storage.Blob, calls: int, **options: object) -> str:
    """A letter for each call: what went wrong, or a dot."""
    letters = ""
    for _ in range(calls):
        try:
            fetch(blob.bucket.blob(blob.name), **options)
            letters += "."
        except api.GoogleAPICallError as error:
            letters += {429: "a", 500: "b", 503: "c"}[error.code]
    return letters


def test_a_fault_hits_after_some_requests_and_so_many_times(store, blob):
    store.faults.add(Fault("download", "status", after=2, times=3))
    assert outcomes(blob, 7) == "..ccc.."
    store.faults.add(Fault("download", "status", code=429, times=None))
    assert outcomes(blob, 5) == "aaaaa"


def test_faults_come_one_after_the_other(store, blob):
    store.faults.add(Fault("download", "status", code=429, times=2), Fault("download", "none"))
    store.faults.add(Fault("download", "status", code=500), Fault("download", "status", after=1))
    assert outcomes(blob, 7) == "aa.b.c."


def test_faults_that_have_not_hit_often_enough_are_told(store, blob):
    some, all_of_them = Fault("download", "status", times=2, after=1), Fault("delete", "status", times=None)
    store.faults.add(some, all_of_them)
    assert outcomes(blob, 2) == ".c" and store.faults.left == [some, all_of_them]
    assert outcomes(blob, 1) == "c" and store.faults.left == [all_of_them]


def test_a_fault_hits_its_kind_and_name_only(store, bucket, blob):
    for name in ("shards/1", "shards/2", "other"):
        store.put("bucket", name, b"content")
    store.faults.add(Fault("download", "status", name="^shards/[12]$", times=None))
    assert [outcomes(bucket.blob(name), 1) for name in ("shards/1", "shards/2", "other")] == ["c", "c", "."]
    bucket.blob("shards/1").reload(retry=None)


def test_a_fault_can_tell_a_resumed_download_from_a_fresh_one(store, blob):
    store.faults.add(Fault("download", "status", code=429, times=None, only_ranges=True))
    store.faults.add(Fault("download", "status", code=500, times=None, only_ranges=False))
    assert outcomes(blob, 1) + outcomes(blob, 1, start=0) + outcomes(blob, 1, start=0, end=9) == "bbb"
    assert outcomes(blob, 1, start=1) + outcomes(blob, 1, start=10, end=19) == "aa"


def test_a_fault_can_hit_a_later_chunk_of_an_upload(store, bucket):
    store.faults.add(Fault("upload", "status", only_ranges=True))
    upload_in_chunks(bucket.blob("small"), b"content")
    with pytest.raises(api.ServiceUnavailable):
        upload_in_chunks(bucket.blob("large"), bytes(MIB + 1))
    assert store.names("bucket") == ["small"]


# The store as a whole.


def test_down_resets_every_connection(store, bucket, blob):
    store.rate = 100_000
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch, bucket.blob("blob"))
        while not store.requests:
            time.sleep(0.01)
        store.down = True
        with pytest.raises(requests.exceptions.RequestException, match="Connection reset by peer"):
            running.result(timeout=within(2))
    for call in (lambda: fetch(blob), lambda: blob.reload(retry=None), lambda: upload(bucket.blob("new"), b"content")):
        with pytest.raises(requests.exceptions.ConnectionError):
            call()
    assert store.down and len(store.requests) == 1 and store.names("bucket") == ["blob"]
    store.rate, store.down = None, False
    assert fetch(blob) == CONTENT


def test_down_resets_a_connection_that_waits_for_its_next_request(store):
    with connect(store) as idle:
        idle.sendall(b"GET /storage/v1/b/bucket HTTP/1.1\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += idle.recv(4096)
        store.down = True
        with pytest.raises(ConnectionResetError):
            idle.recv(1)


def test_the_upload_rate_holds_for_each_upload(store, bucket):
    store.upload_rate = 1_000_000 / within(1)
    start = time.monotonic()
    upload(bucket.blob("new"), CONTENT)
    assert within(len(CONTENT) / 1_000_000) < time.monotonic() - start < within(1)
    assert store.get("bucket", "new") == CONTENT


def test_the_rate_holds_for_each_download(store, blob):
    store.rate = 1_000_000 / within(1)
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: fetch(blob.bucket.blob("blob")), range(4))) == [CONTENT] * 4
    assert within(0.25) < time.monotonic() - start < within(1.1)  # one after the other they would take 1.2 seconds
    store.rate = 30_000 / within(1)
    start = time.monotonic()
    upload(blob.bucket.blob("new"), CONTENT)
    assert time.monotonic() - start < within(5)


def test_latency_comes_before_each_response(store, blob):
    store.latency = 0.1
    start = time.monotonic()
    blob.reload(retry=None)
    assert fetch(blob) == CONTENT
    assert time.monotonic() - start > 0.2
    store.latency = within(0.5)
    with pytest.raises(requests.exceptions.ReadTimeout):
        fetch(blob, timeout=within(0.2))


@pytest.mark.parametrize("hung", ["stall", "trickle", "rate", "latency", "unread", "idle", "half a request"])
def test_the_store_ends_at_once_with_whatever_hangs_on_it(hung):
    threads = threading.active_count()
    with FakeStore() as store, connect(store) as sent:
        store.put("bucket", "x", bytes(20 * MIB if hung == "unread" else MIB))
        store.rate, store.latency = 1000 if hung == "rate" else None, 60 if hung == "latency" else 0
        if hung in ("stall", "trickle"):
            store.faults.add(Fault("download", hung, at=10, seconds=within(60)))
        lines = "GET /download/storage/v1/b/bucket/o/x?alt=media HTTP/1.1\r\n", "Content-Length: 5\r\n", "\r\n"
        sent.sendall("".join({"idle": (), "half a request": lines}.get(hung, (lines[0], lines[2]))).encode())
        time.sleep(0.1)
        start = time.monotonic()
    assert time.monotonic() - start < within(2)
    with pytest.raises(ConnectionRefusedError):
        connect(store)
    while threading.active_count() > threads:
        assert time.monotonic() - start < within(5)
        time.sleep(0.01)
