"""Why a request to the store failed, in the words of whoever knows: the store, a proxy, the system, Google's library."""

import contextlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError

_LONGEST = 300
"""Characters that are shown of what another program says."""


@dataclass(frozen=True)
class Answer:
    """What an answer that is no success says."""

    status: int
    words: str
    """What whoever answers says itself, in one line; empty where that is nothing."""
    reason: str = ""
    """The store's own name for it, such as `retentionPolicyNotMet`; empty where it gives none."""
    by_store: bool = True
    """Whether it may be a store's, and is not a proxy's or another server's page."""
    server: str = ""
    """Who was asked, as http://HOST:PORT."""

    def __str__(self) -> str:
        phrase = next((status.phrase for status in HTTPStatus if status == self.status), "")
        told = ", ".join(filter(None, (self.reason, f"HTTP status {self.status}")))
        return f"{self.words or phrase or 'no reason given'} ({told})"

    @property
    def of_permission(self) -> bool:
        """Whether it is about what the account may do with the objects of the bucket, and not with something else."""
        named = re.search(r"\bstorage\.[a-z]+\.[a-z]+", self.words, re.IGNORECASE)
        said = re.sub(r"'[^']*'", "", self.words)  # without the names of objects
        told = re.search(r"permission|access denied|not authori[sz]ed", said, re.IGNORECASE)
        other = re.search(r"kms|cryptokey|scope|serviceusage|billing|policy|organi[sz]ation", said, re.IGNORECASE)
        return named is not None or (told is not None and other is None)

    @property
    def wants_payer(self) -> bool:
        """Whether the bucket's reader pays, and no project was named for that."""
        return self.reason == "UserProjectMissing" or "requester pays" in self.words.lower()


def answer(error: "GoogleAPICallError") -> Answer:
    """What the answer says that the client has made an error of."""
    response = error.response
    if response is None:
        return Answer(error.code or 0, readable(error.message))
    words, reason, by_store = parse_answer(response.text, response.status_code)
    url = urlsplit(response.url)
    return Answer(response.status_code, words, reason, by_store, f"{url.scheme}://{url.netloc.rpartition('@')[2]}")


def parse_answer(text: str, status: int) -> tuple[str, str, bool]:
    """The words, the reason and whether they may be a store's, of the body of an answer that is no success."""
    text = text.strip()
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(text)
        inner = told.get("error") if isinstance(told, dict) else None
        if isinstance(inner, dict):
            return readable(inner.get("message") or ""), _first_reason(inner), True
        return readable(text), "", False
    if re.match(r"(<\?xml[^>]*>)?\s*<Error>", text):
        parts = [html.unescape(_element(text, name)) for name in ("Message", "Details")]
        return readable(": ".join(filter(None, parts))), readable(_element(text, "Code")), True
    if text.startswith("<"):
        # What stands in a page's head for programs is not for people.
        text = re.sub(r"<(script|style)\b.*?</\1>", " ", text[:4_000], flags=re.IGNORECASE | re.DOTALL)
        return readable(html.unescape(re.sub(r"<[^>]*>", " ", text))), "", False
    # The store itself refuses a download in plain text.
    return readable(text), "", status != 404 or re.match("no such object|not found|$", text, re.IGNORECASE) is not None


def cause(error: BaseException) -> str:
    """What has come in the way of a request: the innermost error, with the proxy or the host that it was met at."""
    from urllib3.exceptions import ProxyError

    chain = _chain(error)
    words, pool = _text(chain[-1]), _pool(chain)
    if pool is None:
        return words
    if proxy := getattr(pool, "proxy", None):
        at = "the proxy" if any(isinstance(each, ProxyError) for each in chain) else "through the proxy"
        return f"{at} {proxy.host}:{proxy.port}: {words}"
    return f"{pool.host}:{pool.port}: {words}"


def is_refused(error: BaseException) -> bool:
    """Whether nothing listens where the request was to go; a proxy that is not there is another matter."""
    chain = _chain(error)
    return isinstance(chain[-1], ConnectionRefusedError) and getattr(_pool(chain), "proxy", None) is None


def is_misaddressed(error: BaseException) -> bool:
    """Whether an address is none, as that of a proxy in the environment, so that nothing was asked."""
    from requests.exceptions import InvalidSchema, InvalidURL
    from urllib3.exceptions import LocationValueError

    return isinstance(_chain(error)[-1], (InvalidSchema, InvalidURL, LocationValueError))


def library_words(error: BaseException) -> str:
    """What an error of Google's library says: its texts, and those of errors that it was made of."""
    if isinstance(error, OSError) and error.strerror:
        return readable(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    texts = [
        cause(part) if isinstance(part, Exception) else part
        for part in error.args
        if isinstance(part, (str, Exception)) and part
    ]
    return readable(": ".join(text.rstrip(". ") for text in texts)) or type(error).__name__


def readable(text: object) -> str:
    """Another program's text on one line of bounded length, without what would steer a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[:20_000]).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def _chain(error: BaseException) -> list[BaseException]:
    """An error, the one that it was made of, and so on."""
    chain = [error]
    while True:
        last = chain[-1]
        parts = (getattr(last, "reason", None), getattr(last, "original_error", None), *last.args, last.__cause__)
        inner = next((part for part in parts if isinstance(part, Exception) and part not in chain), None)
        if inner is None:
            return chain
        chain.append(inner)


def _pool(chain: Sequence[BaseException]) -> Any:
    """The connections of urllib3 to the host that the request was to go to, or to the proxy on the way."""
    from urllib3.exceptions import PoolError

    return next((error.pool for error in chain if isinstance(error, PoolError)), None)


def _text(error: BaseException) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return readable(re.sub(r"^HTTPS?ConnectionPool\(.*?\): ", "", told)) or type(error).__name__


def _first_reason(error: dict[str, Any]) -> str:
    errors = error.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    reason = first.get("reason") if isinstance(first, dict) else None
    return readable(reason or error.get("status") or "")


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found[1] if found else ""
