"""Make the tests' shared modules importable as `ranker_testing`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
