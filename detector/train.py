"""`python -m detector.train STAGE --config FILE --out RUN` is the command of `detector.cli.train`."""

import sys

from detector.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
