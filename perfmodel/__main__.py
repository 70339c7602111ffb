# PYTHON_ARGCOMPLETE_OK
"""`python -m perfmodel` is the command `perfmodel`."""

from perfmodel.cli.main import entry

if __name__ == "__main__":
    entry()
