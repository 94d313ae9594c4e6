"""Settings, and where each of them came from.

Strongest first: the call's argument, ``config_context``, ``set_config``, the
environment (``CHUNKJAC_MAX_MEMORY``, ...), ``chunkjac.toml`` in the working
directory or the file that ``CHUNKJAC_CONFIG`` names, the default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chunkjac._arguments import shown
from chunkjac._errors import ChunkjacError, ConfigError
from chunkjac._units import read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PREFIX = "CHUNKJAC_"
_FILE = "chunkjac.toml"


@dataclass(frozen=True, slots=True)
class Config:
    """Hold the settings that a call falls back to.

    Attributes:
        max_memory: As the argument of ``jacobian``; ``None`` takes the device's default budget.
        progress: Whether to show progress; ``None`` shows it when stderr is a terminal
            and the work takes over a second.
    """

    max_memory: int | str | None = None
    progress: bool | None = None


_KEYS = tuple(field.name for field in fields(Config))

# `set_config` holds for every thread: a limit that only the thread that set it obeyed would be
# exceeded silently by the others. `config_context` holds for its own thread or task.
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_process: Mapping[str, Any] = _NOTHING
_context: ContextVar[Mapping[str, Any]] = ContextVar("chunkjac_config", default=_NOTHING)


def get_config() -> Config:
    """Return the settings in force.

    Returns:
        A frozen :class:`Config`.

    Raises:
        ConfigError: The environment or the file holds an unknown key or an unreadable value.

    Example:
        >>> import chunkjac as cj
        >>> with cj.config_context(max_memory="2GiB"):
        ...     cj.get_config().max_memory
        '2GiB'
    """
    return Config(**{**_from_file(), **_from_environment(), **_process, **_context.get()})


def set_config(**settings: Any) -> None:
    """Set settings for the whole process, all threads.

    Args:
        **settings: Any of the fields of :class:`Config`; ``None`` takes a setting back.

    Raises:
        ConfigError: A key is unknown or a value cannot be read; nothing is changed then.

    Example:
        >>> import chunkjac as cj
        >>> cj.set_config(max_memory="6GiB")
        >>> cj.get_config().max_memory
        '6GiB'
        >>> cj.set_config(max_memory=None)
    """
    global _process
    merged = {**_process, **_checked(settings, "set_config")}
    # Bound at once: a thread that reads meanwhile sees the old settings or the new ones.
    _process = {key: value for key, value in merged.items() if value is not None}


@contextmanager
def config_context(**settings: Any) -> Iterator[None]:
    """Set settings within a ``with`` block, for this thread or task only.

    Args:
        **settings: Any of the fields of :class:`Config`; ``None`` hides the weaker places.

    Raises:
        ConfigError: A key is unknown or a value cannot be read.

    Example:
        >>> import chunkjac as cj
        >>> with cj.config_context(progress=False):
        ...     cj.get_config().progress
        False
    """
    token = _context.set({**_context.get(), **_checked(settings, "config_context")})
    try:
        yield
    finally:
        _context.reset(token)


def _from_environment() -> dict[str, Any]:
    """Read ``CHUNKJAC_*``; an unknown name is an error, since it is likely a slip."""
    found = {}
    for name in sorted(name for name in _names_in_environment() if name.startswith(_PREFIX)):
        # An empty variable is an unset one, as shells have it.
        if name != f"{_PREFIX}CONFIG" and os.environ[name]:
            key = name.removeprefix(_PREFIX).lower()
            place = f"the environment variable {name}"
            _known(key, place, f"{_PREFIX}{{}}", str.upper)
            found[key] = _read_text(key, os.environ[name], place)
    return found


def _names_in_environment() -> Iterable[str]:
    """Return the names of all variables; only ours are decoded, which is a twentieth of a small Jacobian's time."""
    if not os.supports_bytes_environ:
        return os.environ
    prefix = os.fsencode(_PREFIX)
    return [os.fsdecode(name) for name in os.environb if name.startswith(prefix)]


def _read_text(key: str, text: str, place: str) -> Any:
    """Turn the text of an environment variable into the value of its setting."""
    if key == "progress":
        words = {"1": True, "true": True, "0": False, "false": False}
        if text.lower() not in words:
            raise ConfigError(f"{place} must be 1, true, 0 or false, found {text!r}.")
        return words[text.lower()]
    return _checked({key: text}, place)[key]


def _from_file() -> dict[str, Any]:
    """Read the settings file, if there is one."""
    named = os.environ.get(f"{_PREFIX}CONFIG")
    if not named and not os.path.exists(_FILE):
        return {}
    path = Path(named or _FILE)
    try:
        with path.open("rb") as file:
            settings = tomllib.load(file)
    except FileNotFoundError:
        if named:
            raise ConfigError(f"CHUNKJAC_CONFIG names {named!r}, which does not exist.") from None
        return {}
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"the file {path} cannot be read: {error}.") from error
    return _checked(settings, f"the file {path}")


def _checked(settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Check keys and values; errors name the place."""
    read = {}
    for key, value in settings.items():
        _known(key, place, "{}", str)
        if key == "max_memory" and value is not None:
            try:
                value = read_bytes("max_memory", value)
            except ChunkjacError as error:
                raise ConfigError(f"{place}: {error}") from None
        if key == "progress" and not (value is None or isinstance(value, bool)):
            raise ConfigError(f"{place}: progress must be a bool, found {shown(value)}.")
        read[key] = value
    return read


def _known(key: str, place: str, spelling: str, case: Any) -> None:
    """Refuse a key that no setting has."""
    if key not in _KEYS:
        known = ", ".join(spelling.format(case(name)) for name in _KEYS)
        raise ConfigError(f"{place}: {shown(key)} is not a setting; known are {known}.")
