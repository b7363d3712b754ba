"""NIST SPHERE files: find the end of the samples.

libsndfile reads all after the header as samples.
"""

import re

from vggish_hf.audio.parts import FilePart

_FIELDS = ("sample_count", "sample_n_bytes", "channel_count")


def find_ends(content: FilePart, start: int) -> tuple[int, int] | None:
    """Find the samples.

    Args:
        content: The file.
        start: Its header's start.

    Returns:
        Their end, twice, as the file ends with them; None if the header does not say or they are
        cut off.
    """
    head = content.read_at(start, 1024)
    header_size = re.match(rb"NIST_1A\n +(\d+)\n", head)
    found = [re.search(rf"\n{name} -(?:i|s\d+) (\d+)".encode(), head) for name in _FIELDS]
    is_compressed = re.search(rb"\nsample_coding -s\d+ [^\n]*,", head)
    if header_size is None or not all(found) or is_compressed:
        return None
    sizes = [int(match[1]) for match in found if match]
    end = start + int(header_size[1]) + sizes[0] * sizes[1] * sizes[2]
    return (end, end) if sizes[0] and end <= content.size else None
