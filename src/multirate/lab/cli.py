"""The entry of the `multirate` command: it only checks that the lab's own dependencies are there."""

import sys


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from multirate.lab.commands.group import command_line
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "multirate":
            raise
        sys.exit(
            f"multirate: the command line needs the package {missing!r}, which is not installed.\n"
            "Install the lab with:  pip install 'multirate[lab]'"
        )
    except KeyboardInterrupt:  # while everything is still being imported
        sys.exit(130)
    command_line(prog_name="multirate")
