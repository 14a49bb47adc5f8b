"""`python -m twd` is `twd`."""

from twd.cli import main

if __name__ == "__main__":
    main()
