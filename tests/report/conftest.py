"""The tests here share made-up rows; in pytest's importlib mode their folder is not on the path by itself."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
