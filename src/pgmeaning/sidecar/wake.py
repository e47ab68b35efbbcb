"""When a sidecar is awake and when it sleeps: triggers send a NOTIFY only while nobody is awake and somebody sleeps."""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.run import STOP_POLL, Run

# An awake sidecar looks for work this often; after this long without any, it sleeps until it is woken.
AWAKE_POLL = 0.005
AWAKE_FOR = 0.05
# How often it looks where triggers send no NOTIFY, and while draining.
SHORT_POLL = 0.1
WAKE_OTHERS_SECONDS = 1.0
# For so long triggers believe a sidecar that has died; one that lives shows its state anew this often.
SHOWN_SECONDS = 2.0
SHOW_SECONDS = 0.5


class Wakefulness:
    """Shows triggers whether to send a NOTIFY, over one connection."""

    def __init__(self, run: Run, connection: Connection, queue: Queue, *, drain: bool) -> None:
        self._run = run
        self._queue = queue
        self._woke_others = 0.0
        self._poll = SHORT_POLL if drain or _uses_prepared_transactions(connection) else run.settings.poll
        self.awake = False
        self._shown = 0.0  # when that was shown last
        self._asleep = False
        connection.execute(sql.query("listen"))

    def stay_awake(self) -> None:
        """Say that we are awake, unless another sidecar does."""
        if not self.awake or time.monotonic() - self._shown > SHOW_SECONDS:
            self.awake = self._queue.show_state("awake", SHOWN_SECONDS)
            self._shown = time.monotonic()
        if self._asleep:
            self._queue.hide_state("asleep")
            self._asleep = False

    def fall_asleep(self) -> None:
        """Say that we sleep. A trigger may have seen us awake just before: look once more, then sleep."""
        self._queue.hide_state("awake")
        self.awake = False
        self._lie_down()

    def leave(self) -> None:
        """Show nothing any more, as far as the connection lives: what is shown lapses by itself."""
        with suppress(psycopg.Error):
            self._queue.hide_state("awake")
            self._queue.hide_state("asleep")

    def _lie_down(self) -> None:
        """Say that we sleep, unless another sidecar does, or is awake."""
        self._asleep = self._queue.show_state("asleep", self._poll + SHOWN_SECONDS) or self._asleep

    def wake_others(self) -> None:
        """Tell the other sidecars that there is work for more than one; at most once a second."""
        if self.awake and time.monotonic() - self._woke_others > WAKE_OTHERS_SECONDS:
            self._woke_others = time.monotonic()
            self._queue.wake_others()

    def pause(self) -> None:
        """Wait a moment, awake."""
        self._run.stopping.wait(AWAKE_POLL)

    def sleep(self) -> None:
        """Sleep until woken or stopped, or the time is up."""
        self._lie_down()
        end = time.monotonic() + self._poll
        while not self._run.stopping.is_set() and (left := end - time.monotonic()) > 0:
            if self._queue.wait(min(left, STOP_POLL)):
                return


def _uses_prepared_transactions(connection: Connection) -> bool:
    """Whether the server allows them: triggers then send no NOTIFY, so a sleeping sidecar looks more often."""
    return connection.execute(sql.query("prepared_transactions")).fetchone() != ("0",)
