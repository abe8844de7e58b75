"""`Bucket`: whole objects under one URI, in a folder or in Google Cloud Storage, read and written all or nothing."""

from catdog.errors import CallerError
from catdog.parsing import brief
from catdog.storage.bucket import PATIENCE, Bucket, Changed, Stat, TooLarge, Unavailable, crc32c
from catdog.storage.google import GoogleBucket
from catdog.storage.local import Folder, expanded, unwaiting

__all__ = [
    "Bucket",
    "Changed",
    "Folder",
    "GoogleBucket",
    "Stat",
    "TooLarge",
    "Unavailable",
    "crc32c",
    "expanded",
    "open_bucket",
    "unwaiting",
]


_LONGEST = 4096


def open_bucket(uri: str, *, patience: float = PATIENCE) -> Bucket:
    """The bucket at a folder's path or at `gs://bucket/prefix`, whose faults are borne for `patience` seconds.

    Nothing is looked up yet. Raises CallerError for a URI that is neither.
    """
    if not uri:
        raise CallerError("an empty URI: give a folder's path or gs://bucket/prefix")
    if "\0" in uri or len(uri) > _LONGEST:
        raise CallerError(f"{brief(uri)}: has more than {_LONGEST:,} characters, or one of code 0: it is no place")
    shown = uri if len(uri) < 200 else brief(uri)
    if uri.startswith("gs:") and not uri.startswith("gs://"):
        raise CallerError(f"{shown}: is no place in object storage; is gs://{uri[3:].lstrip('/')[:200]} meant?")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Folder(uri, patience)
    if scheme != "gs":
        raise CallerError(f"{shown}: {scheme[:20]}:// is not supported; give a folder's path or gs://bucket/prefix")
    if not rest.partition("/")[0]:
        raise CallerError(f"{shown}: names no bucket; give gs://bucket/prefix")
    return GoogleBucket(uri.rstrip("/"), patience)
