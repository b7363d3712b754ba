"""Inspect paths and URLs without reading them, and show them without secrets."""

import os
import re
from collections.abc import Collection
from urllib.parse import unquote_plus

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WEB = re.compile(r"https?://", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
# A word with a query or a fragment, up to the punctuation around it.
_QUERY = re.compile(r"([^\s?#]+)(\?[^\s#]*?)?(#\S*?)?(?=[])}>'\",;.:]*(?:\s|$))")

# Substrings of names of parameters that sign or that identify readers.
_SECRET_NAME = re.compile(
    r"sig|token|auth|secret|pass|pwd|credential|key|accessid|session|policy|hmac|jwt|ticket|bearer"
    r"|login|user|expir|^x-?(amz|goog|oss|cos|obs|ms)-"
)
# Parameters with another meaning without Azure's `sig`.
_AZURE_NAME = re.compile("s([veprst]|rt|pr|ip|dd|es|cid|k[tesv]|koid|ktid|aoid|uoid)")
# Not a clip's name: a JSON Web Token, a digest, a signature under an unusual name.
_SECRET_VALUE = re.compile(
    r"eyJ[\w-]+\..*|[0-9A-Fa-f]{40,}|(?=.*\d)(?=.*[a-z])[A-Za-z0-9+/=_-]{40,}"
)


def is_url(path: str) -> bool:
    """Tell URLs from local paths."""
    return _URL.match(path) is not None


def is_web_url(path: str) -> bool:
    """Tell URLs of the web, in which text after a `?` is not part of a name."""
    return _WEB.match(path) is not None


def ending_of(path: str, endings: Collection[str]) -> str | None:
    """Find which of these endings a file's name has, in either case, if any.

    Example:
        >>> ending_of("https://host/shard.TAR.gz?part=3", {".tar", ".tar.gz"})
        '.tar.gz'
    """
    if is_web_url(path):
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    stem, ending = os.path.splitext(path.lower())
    for found in (os.path.splitext(stem)[1] + ending, ending):
        if found in endings:
            return found
    return None


def has_ending(path: str, endings: Collection[str]) -> bool:
    """Tell whether a file's name ends in one of these, in either case."""
    return ending_of(path, endings) is not None


def without_secrets(text: str) -> str:
    """Remove users, passwords and signatures from a URL, or from the URLs in a text.

    Parameters of a URL that sign or identify readers, or look like it, are removed; others, which
    may distinguish clips, stay. Applying it twice changes nothing more.

    Args:
        text: A URL, a path, or any text.

    Example:
        >>> without_secrets("503, url='https://me:word@host/a.wav?n=3&X-Amz-Signature=1f'")
        "503, url='https://host/a.wav?n=3'"
    """
    return _QUERY.sub(_without_secret_parameters, _USER.sub("", text))


def _without_secret_parameters(match: re.Match[str]) -> str:
    start, query, fragment = match.group(1), match.group(2) or "", match.group(3) or ""
    on_web = _WEB.search(start) is not None
    parameters = [part for part in re.split("[&;]", query[1:]) if part]
    is_azure = "sig" in {_name(part) for part in parameters}
    kept = [
        part
        for part in parameters
        if not _is_secret(part, on_web) and not (is_azure and _AZURE_NAME.fullmatch(_name(part)))
    ]
    if len(kept) < len(parameters):
        query = f"?{'&'.join(kept)}" if kept else ""
    # The second member of a name ends in `#2`.
    if not re.fullmatch(r"#\d+", fragment) and (
        on_web or any(_is_secret(part, on_web) for part in re.split("[&;?]", fragment[1:]))
    ):
        fragment = ""
    return f"{start}{query}{fragment}"


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0]).lower()


def _is_secret(parameter: str, on_web: bool) -> bool:
    _, is_named, value = parameter.partition("=")
    if not is_named:
        return on_web and not parameter.isdecimal()
    plain = unquote_plus(value)
    return (
        _SECRET_NAME.search(_name(parameter).replace("_", "-")) is not None
        or _SECRET_VALUE.fullmatch(plain) is not None
        or ("://" in plain and without_secrets(plain) != plain)
    )
