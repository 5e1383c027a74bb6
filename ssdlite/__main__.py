"""``python -m ssdlite COMMAND ...`` is ``ssdlite COMMAND ...``."""

import sys

from ssdlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
