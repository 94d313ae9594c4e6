"""The command line and the demonstration."""

from chunkjac._cli.commands import main
