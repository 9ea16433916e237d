"""``python -m jaxem show FILE``: what a saved model or a checkpoint holds."""

import argparse
import sys

from jaxem.files.show import show


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxem", description="Look at the files of jaxem.")
    commands = parser.add_subparsers(dest="command", required=True)
    looks = commands.add_parser("show", help="print the card of a saved model, or what a checkpoint is of")
    looks.add_argument("files", nargs="+", metavar="FILE")
    wanted = parser.parse_args(arguments)
    for number, file in enumerate(wanted.files):
        try:
            text = show(file)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        print(("\n" * (number > 0)) + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
