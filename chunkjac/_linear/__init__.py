"""The linear program: a chunk's step recorded once, made simpler, and replayed."""

from chunkjac._linear._programs import Programs
from chunkjac._linear._recorder import NotLinearError
from chunkjac._linear._shortcut import Shortcut

__all__ = ["NotLinearError", "Programs", "Shortcut"]
