"""The way in: what the ``scepsy`` command runs. Nothing of ours is imported before signals are in hand."""

from scepsy.signals import arm


def main() -> None:
    """The ``scepsy`` command."""
    arm()
    from scepsy.cli import main as run

    run()
