"""`python -m multirate.lab` is the `multirate` command."""

from multirate.lab.cli import main

if __name__ == "__main__":
    main()
