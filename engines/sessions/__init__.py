"""Sessions: one engine loaded on one device. Backends are a table; nothing is imported before one is opened."""

from engines.sessions.base import Session, SessionInfo, StageTimes
from engines.sessions.opening import BACKENDS, backend_of, open_session

__all__ = ["BACKENDS", "Session", "SessionInfo", "StageTimes", "backend_of", "open_session"]
