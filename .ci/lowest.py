"""Print pyproject.toml's lower bounds as constraints for pip."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in (*project["dependencies"], *extras["audioset"], *extras["lightning"]):
    match = re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement)
    if match is None:
        sys.exit(f"Expected a lower bound, got {requirement!r}")
    sys.stdout.write(f"{match[1]}=={match[2]}\n")
