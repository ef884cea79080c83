"""The consumer of the ML service: the same as `spheroseg worker`."""

import sys

from spheroseg.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["worker", *sys.argv[1:]]
    main()
