"""Endings of names, and what is removed from the URLs that are shown and stored."""

import pytest

from vggish_hf.inputs import without_secrets
from vggish_hf.inputs.addresses import ending_of, has_ending, is_url


def test_urls_and_paths():
    assert is_url("s3://bucket/a.wav")
    assert not any(map(is_url, ("a.wav", "/a//b.wav", "C:\\a.wav", "a:/b.wav", "://a")))


def test_endings_of_names():
    endings = {".wav", ".tar.gz"}
    for name in ("a.wav", "x.y/b.WAV", "s.tar.gz", "x/s.1.TAR.gz"):
        assert has_ending(name, endings)
    for name in ("a.gz", "a.tar", ".wav", "x/.wav", "wav", "s.tar.gz/a", "a.tar.x.gz"):
        assert not has_ending(name, endings)
    assert ending_of("https://host/S.TAR.gz?name=a.wav#b.wav", endings) == ".tar.gz"
    assert has_ending("https://host/get?file=a.wav", endings) is False
    assert has_ending("s3://bucket/why?.wav", endings)


SIGNED = [
    "X-Amz-Signature=S&X-Amz-Credential=S&X-Amz-Security-Token=S&X-Amz-Date=S&X-Amz-Expires=S",
    "x-amz-signature=S&X-AMZ-CREDENTIAL=S",
    "AWSAccessKeyId=S&Signature=S&Expires=S",
    "AccessKeyId=S&SecretAccessKey=S",
    "OSSAccessKeyId=S&x-oss-security-token=S",
    "sv=S&ss=S&srt=S&sp=S&se=S&st=S&spr=S&sig=S",
    "SIG=S&SE=S",
    "sig=S;token=S",
    "sig=S&amp;token=S",
    "GoogleAccessId=S&X-Goog-Signature=S&X-Goog-Algorithm=S",
    "Policy=S&Key-Pair-Id=S",
    "access_token=S",
    "refresh-token=S",
    "api_key=S&apikey=S&API-Key=S",
    "client_secret=S&password=S&pwd=S&auth=S&jwt=S&session_id=S&user=S",
    "X%2DAmz%2DSignature=S",
    "to%6Ben=S",
    "__token__=S#access_token=S",
    "S",
    "x=eyJhbGciOiJIUzI1NiJ9.SSSSS.SSSS",
    "h=" + "5" * 40,
    "h=" + "aS9" * 20,
    "from=https%3A%2F%2Fme%3AS%40other",
    "from=https%3A%2F%2Fother%2F%3Ftoken%3DS",
]


@pytest.mark.parametrize("query", SIGNED)
@pytest.mark.parametrize("start", ["https://h/a.wav", "HTTP://me:S@h/clip", "https://S:S@h"])
def test_urls_hold_no_secrets(start, query):
    bare = start.replace("me:S@", "").replace("S:S@", "")
    assert without_secrets(f"{start}?{query}") == bare
    assert without_secrets(f"{start}?n=3&{query}") == f"{bare}?n=3"
    text = f"Expected '{start}?{query}', got ({start}?{query})."
    assert without_secrets(text) == f"Expected '{bare}', got ({bare})."


@pytest.mark.parametrize(
    "url",
    [
        "https://host/clip?number=3",
        "https://host/clip?id=550e8400-e29b-41d4-a716-446655440000&part=2",
        "https://host/clip?12",
        "https://host/s.tar/a@b.wav#2",
        "s3://bucket/why?.wav",
        "hf://datasets/org/name@main/a.wav",
        "hf://datasets/o/n@main/a.wav is #1? yes/no",
        "/data/why? because#3.wav",
        "https://host/clip?st=3&se=4",  # seconds: no signature is beside them
    ],
)
def test_what_is_no_secret_stays(url):
    assert without_secrets(url) == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:word@host/a@b.wav", "https://host/a@b.wav"),
        ("s3://key:word@bucket/a.wav", "s3://bucket/a.wav"),
        ("503, url='https://h/a.wav?Sig=S'", "503, url='https://h/a.wav'"),
        ('url="https://h/a?Sig=it\'s", 1', 'url="https://h/a", 1'),
        ("(https://me:wo@rd@h/a b)", "(https://h/a b)"),
        ("from https://h?S#S and http://u@h/b#S.", "from https://h and http://h/b."),
        (
            "exceeded with url: /a.wav?Sig=S (Caused by X)",
            "exceeded with url: /a.wav (Caused by X)",
        ),
    ],
)
def test_texts_hold_no_secrets(text, expected):
    assert without_secrets(text) == expected
    assert without_secrets(expected) == expected
