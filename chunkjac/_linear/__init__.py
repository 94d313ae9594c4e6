"""The linear program: a chunk's step recorded once, made simpler, and replayed."""

from chunkjac._linear._recorder import NotLinearError
from chunkjac._linear._shortcut import Programs, Shortcut

__all__ = ["NotLinearError", "Programs", "Shortcut"]
