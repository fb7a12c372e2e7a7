"""`python -m gstk` is `gstk`: what torchrun starts."""

from gstk.cli import main

if __name__ == "__main__":
    main()
