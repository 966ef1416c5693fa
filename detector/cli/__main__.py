"""`python -m detector.cli` is the command `detect`."""

import sys

from detector.cli.detect import main

sys.exit(main())
