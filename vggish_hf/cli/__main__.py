"""`python -m vggish_hf.cli`."""

import sys

from vggish_hf.cli import main

sys.exit(main())
