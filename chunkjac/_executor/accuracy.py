"""How accurate finite differences were, in the room that a job has held."""

from __future__ import annotations

from chunkjac._memory import LiveBytes, drain_backward
from chunkjac._modes import FiniteDifference, Mode


def estimated_error(mode: Mode, tracker: LiveBytes) -> float | None:
    """Return the estimated error of finite differences, found in no more memory than the job has held.

    Args:
        mode: What made the blocks; its buffers are given back.
        tracker: What has counted the job's live bytes.

    Returns:
        The largest absolute error of an element; ``None`` for other modes, and where there is no room or
        the function cannot be evaluated farther away: the Jacobian is there, and must not be lost.
    """
    if not isinstance(mode, FiniteDifference):
        return None
    mode.release()
    left_bytes = max(0, tracker.highest_bytes - tracker.live_bytes)
    limited = LiveBytes(mode.problem.device, limit_bytes=left_bytes, is_guess=not tracker.is_strict)
    try:
        with limited:
            return mode.error_estimate()
    except Exception:
        pass
    drain_backward()
    return None
