"""`python -m sglcore` is the `sglcore` command."""

from sglcore.cli.main import main

if __name__ == "__main__":
    main()
