"""What clients asked of the S3 server, and it answered, as it counts itself.

SeaweedFS counts a request at its end, and then all bytes that it wrote for it: of an answer that a client broke off, up
to 4 MB that the client did not read. Heads of requests and answers do not count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import urlopen

_FIGURE = re.compile(rb"^SeaweedFS_s3_(\w+?)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_REQUESTS = b"request_total"
_SENT = b"bucket_traffic_received_bytes_total"
_FETCHED = b"bucket_traffic_sent_bytes_total"
_UNDER_WAY = b"in_flight_requests"
_QUIET_SECONDS = 1.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests, and bytes *sent* by clients and *fetched* by them."""

    requests: int = 0
    sent: int = 0
    fetched: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.requests - other.requests, self.sent - other.sent, self.fetched - other.fetched)


class ServerCounts:
    """The figures that SeaweedFS gives at *url*. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url

    def counts(self) -> Traffic:
        """Return what ended since the server began."""
        return self._read()[0]

    def quiet_counts(self, quiet_seconds: float = _QUIET_SECONDS) -> Traffic:
        """Return the counts as soon as nothing was under way, or ended, for *quiet_seconds*. See `when_quiet`."""
        return when_quiet(self._read, quiet_seconds)

    def _read(self) -> tuple[Traffic, bool]:
        """Return the counts, and whether requests are under way."""
        with urlopen(self._url, timeout=10) as answer:
            told: bytes = answer.read()
        sums: dict[bytes, float] = {}
        for name, figure in _FIGURE.findall(told):
            sums[name] = sums.get(name, 0.0) + float(figure)
        requests, sent, fetched = (int(sums.get(name, 0)) for name in (_REQUESTS, _SENT, _FETCHED))
        return Traffic(requests, sent, fetched), sums.get(_UNDER_WAY, 0) > 0


def when_quiet(read: Callable[[], tuple[Traffic, bool]], quiet_seconds: float) -> Traffic:
    """Return the traffic of *read* once it stood still for *quiet_seconds*, or after thirty times that.

    *read* also tells whether more is under way.
    """
    deadline = time.monotonic() + 30 * quiet_seconds
    (last, _), since = read(), time.monotonic()
    while time.monotonic() < min(since + quiet_seconds, deadline):
        time.sleep(_POLL_SECONDS)
        now, is_busy = read()
        if is_busy or now != last:
            last, since = now, time.monotonic()
    return last
