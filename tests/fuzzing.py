"""How many cases the fuzz tests try."""

import os

_ALL = os.environ.get("VGGISH_HF_TESTS") == "all"


def cases(number: int, *, quick: int) -> int:
    """Return `number` in `make test-all`, which sets VGGISH_HF_TESTS, and `quick` elsewhere."""
    return number if _ALL else quick
