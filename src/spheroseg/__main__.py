"""`python -m spheroseg` is the same program as `spheroseg`."""

from spheroseg.cli import main

if __name__ == "__main__":
    main()
