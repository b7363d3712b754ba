"""Where things lie, for tests in any folder."""

from pathlib import Path

#: The folder of the tests, with `data/` and `golden/`.
TESTS = Path(__file__).parent
#: The project.
ROOT = TESTS.parent
#: Facts beside the project, which a user who clones it does not have.
SHARED = ROOT.parent / "shared"
