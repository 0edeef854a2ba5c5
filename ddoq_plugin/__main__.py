"""``ddoq``, the command: signals are taken before anything slow is imported."""

from .interruptions import run


def main() -> None:
    """Run the command line and end the process."""
    run(_command)


def _command() -> None:
    from .cli import main as command

    command()


if __name__ == "__main__":
    main()
