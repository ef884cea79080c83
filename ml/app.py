"""The HTTP face of the ML service, beside message_queue_consumer.py: the same as `spheroseg worker-http`."""

import sys

from spheroseg.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["worker-http", *sys.argv[1:]]
    main()
