"""`python -m nvila` is the command `nvila`."""

from __future__ import annotations

import sys

from nvila.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
