"""The command `octet`."""

from octet.cli import octet


def main() -> None:
    """Runs the command line."""
    octet(prog_name="octet")


if __name__ == "__main__":
    main()
