"""Run the command line as `python -m jalign`."""

from jalign.cli.main import run

if __name__ == "__main__":
    run()
