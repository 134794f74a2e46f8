"""`python -m hanok`."""

from hanok.cli import main

if __name__ == "__main__":
    main()
