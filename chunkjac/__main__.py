"""Run the command line with ``python -m chunkjac``."""

import sys

from chunkjac._cli import main

sys.exit(main())
