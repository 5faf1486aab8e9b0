"""Redaction of secrets in text that is printed, saved or logged; all patterns of secrets are here.

Secrets occur in addresses (`postgresql://user:password@host/db`, `https://host/x?X-Amz-Signature=…`) and in settings that an error quotes
(`AWS_SECRET_ACCESS_KEY=…`, `Authorization: …`). Doubtful text is removed too: a missing host does less harm than a leaked password.
`vos.errors.InputError`, the streams of a job (`redacted_streams`), saved configurations and everything sent to MLflow are redacted here.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO
from urllib.parse import unquote

HIDDEN = "***"
LEAST_LITERAL = 8
"""Shortest value of the environment, in characters, that is searched for in text: shorter ones may be ordinary words."""
_ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30}:/+)((?:(?![\"'][,:;)}\]])\S)+)")
"""A scheme and all text after it up to a space; in a list, an object or a call, up to the end of the string."""
_PORT_OR_NONE = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:\d*)?")
_CONTAINER_BEFORE_AT = ("abfs", "abfss", "wasb", "wasbs", "hdfs", "viewfs", "ssh", "git+ssh")
"""Schemes in which a name before @, without a password, is a container or an account and not a secret."""
_ANONYMOUS = ("gs", "gcs")
_BUCKETS = ("s3", "s3a", "s3n", *_ANONYMOUS)
"""Schemes whose addresses have a bucket and never a port: a colon means a secret."""
_SECRET_NAME = re.compile(
    r"(?i)secret|token|passw|pwd|signature|credential|access.?key|api.?key|account.?key|private.?key|^(sig|sas|key|auth|authorization)$"
)
_QUERY = re.compile(r"([?&;])([A-Za-z0-9_.%~-]{1,64})=([^&#\s\"'<>]+)")
_SETTING = re.compile(
    r"""(?x)
    (\b[A-Z0-9_]{0,40}(?:SECRET|PASSWORD|PASSWD|TOKEN|ACCESS_KEY|API_KEY)[A-Z0-9_]{0,40}["']?\s*[=:]\s*|  # a variable
     \b(?:password|passwd|pwd|[a-z_]{0,40}secret[a-z_]{0,40}|[a-z_]{0,40}access_key(?:_id)?|(?:session|auth|access)_token|api_key)=\s*|
     ["'](?i:password|passwd|pwd|[a-z_]{0,40}secret[a-z_]{0,40}|[a-z_]{0,40}access_?key(?:_?id)?|[a-z_]{0,40}token|api_?key)["']\s*:\s*
     (?=["']))
    ("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&"')}\]]+)
    """
)
_HEADER = re.compile(
    r"(?i)(\b(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:(basic|bearer|digest|aws4-\S+)\s+)?([^\s\"'][^\n\"']*)"
)
_BEARER = re.compile(r"(\b(?:Bearer|Basic) )([A-Za-z0-9+/=._~-]{8,})")
_VARIABLE = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|ACCESS_KEY|API_KEY")
_NO_SECRET = re.compile(r"(_FILE|_PATH|_DIR|_MODE|CREDENTIALS|PARALLELISM)$")


def redact(text: str) -> str:
    """Return `text` with the secrets of its addresses and settings replaced.

    Users and passwords of addresses become `***`, secret query parameters `name=***`. Applying it twice changes nothing.
    """
    if "=" not in text and ":" not in text and "earer " not in text and "asic " not in text:
        return text
    if ":/" in text:
        text = _ADDRESS.sub(_without_user, text)
    text = _QUERY.sub(lambda m: m[0] if not _SECRET_NAME.search(unquote(m[2])) else f"{m[1]}{m[2]}={HIDDEN}", text)
    text = _SETTING.sub(_hidden_setting, text)
    text = _HEADER.sub(lambda m: f"{m[1]}{HIDDEN}", text)
    return _BEARER.sub(lambda m: f"{m[1]}{HIDDEN}", text)


def redact_all(text: str) -> str:
    """Return `redact(text)` with the secrets of this process's environment replaced wherever they occur.

    These are the values of variables with a secret's name (`AWS_SECRET_ACCESS_KEY`) and passwords in addresses (`MLFLOW_TRACKING_URI`).
    """
    for secret in _secrets_of_environment():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return redact(text)


def redact_values(value: Any, by: Callable[[str], str] = redact) -> Any:
    """Return JSON with every string redacted, names included."""
    if isinstance(value, str):
        return by(value)
    if isinstance(value, dict):
        return {by(name) if isinstance(name, str) else name: redact_values(one, by) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact_values(one, by) for one in value)
    return value


def has_secret(address: str) -> bool:
    """Return whether an address or path holds a user, a password or a signature."""
    match = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*:/+)(.*)", address, re.DOTALL)  # one address: spaces do not end it
    return redact(address) != address or (match is not None and _cut(match[1], match[2]) != match[2])


def without_secret(address: str) -> str:
    """Return one whole address without its secrets."""
    match = re.match(r"(\s*[A-Za-z][A-Za-z0-9+.-]*:/+)(.*)", address, re.DOTALL)
    return redact(match[1] + _cut(match[1].strip(), match[2]) if match else address)


def hide(text: str, address: str) -> str:
    """Return `text` without the parts of an address's user and password. A library may quote them cut or decoded."""
    match = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/+(.*)", address, re.DOTALL)
    rest = match[1] if match else ""
    head = rest[: rest.rfind("@")] if _cut(match[1] if match else "", rest) != rest else ""
    parts = {one for part in re.split(r"[:@/]", head) for one in (part, unquote(part)) if len(one) > 2}
    for part in sorted({head, unquote(head), *parts} - {""}, key=len, reverse=True):
        text = text.replace(part, HIDDEN)
    return redact_all(text)


def _without_user(match: re.Match[str]) -> str:
    return match[1] + _cut(match[1], match[2])


def _cut(scheme: str, rest: str) -> str:
    """Return the text after a scheme without user and password. A password may hold unencoded characters: @ : / ? #."""
    if "@" not in rest:
        return rest
    name, slashes = scheme.rstrip("/").rstrip(":").lower(), scheme.count("/")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    plain = _PORT_OR_NONE.fullmatch(authority)
    if "@" in authority:
        user = authority[: authority.rfind("@")]
        if user.startswith(HIDDEN) and ":" not in user:
            return rest
        if ":" not in user:  # a user alone
            known = name in _CONTAINER_BEFORE_AT or (name in _ANONYMOUS and user == "anonymous")
            return rest if known or slashes < 2 else HIDDEN + authority[authority.rfind("@") :] + rest[len(authority) :]
        place = re.split(r"[?#]", rest, maxsplit=1)[0]
        end = max(place.rfind("@"), authority.rfind("@"))
        return HIDDEN + rest[end:]
    if plain is not None and not (plain[2] and name in _BUCKETS):
        return rest
    return HIDDEN + rest[rest.rfind("@") :] if slashes >= 2 or ":" in authority else rest


def _hidden_setting(match: re.Match[str]) -> str:
    quote = match[2][0] if match[2][0] in "\"'" else ""
    return match[0] if match[2] == quote * 2 else f"{match[1]}{quote}{HIDDEN}{quote}"


def _secrets_of_environment() -> list[str]:
    """Return secrets of the environment, longest first, so that one that contains another is replaced completely."""
    found: set[str] = set()
    for name in list(os.environ):
        value = os.environ.get(name, "")  # a thread of a library may have removed it
        if "@" in value and "://" in value:
            rest = value.partition("://")[2]
            if _cut(value.partition("://")[0] + "://", rest) != rest:
                password = rest[: rest.rfind("@")].partition(":")[2]
                found |= {password, unquote(password)}
        elif _VARIABLE.search(name) and not _NO_SECRET.search(name):
            found.add(value)
    return sorted((one for one in found if len(one) >= LEAST_LITERAL), key=len, reverse=True)


class RedactedStream:
    """A text stream that redacts text before it is written, and escapes control characters.

    Line ends, tabs, carriage returns, colours and the cursor movement of progress bars are kept. Characters that the stream's encoding
    lacks are escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        shown = visible(redact_all(text))
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_INVISIBLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[A|[^\n\t\r -~]")


def visible(text: str) -> str:
    """Return `text` safe for a terminal: control characters and marks that change the writing direction are escaped; line ends stay."""
    return text if text.isprintable() else _INVISIBLE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    found = match[0]
    return found if len(found) > 1 or found.isprintable() else repr(found)[1:-1]


@contextmanager
def redacted_streams() -> Iterator[None]:
    """Redact standard output and error within a `with` block; an exception that leaves the block is printed redacted too."""
    before = sys.stdout, sys.stderr
    if isinstance(before[0], RedactedStream):
        yield
        return
    sys.stdout, sys.stderr = RedactedStream(before[0]), RedactedStream(before[1])
    try:
        yield
    except Exception:
        sys.excepthook = _print_exception  # the interpreter prints it after the streams are restored
        raise
    finally:
        sys.stdout, sys.stderr = before


def _print_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    RedactedStream(sys.stderr).write(text)
