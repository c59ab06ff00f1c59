"""How a start is going: a bar for the phase at work on a terminal, a line for each phase that is over."""

from __future__ import annotations

import time
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from sglcore.engine.phases import Progress


class StartDisplay:
    """Shows news of phases on a stream. Use as a context manager, or call `close`; closing twice is fine."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._began = time.perf_counter()
        self._bars: Bars | None = _bars(stream) if stream.isatty() else None
        self._tasks: dict[str, TaskID] = {}
        self._closed = False

    @property
    def seconds(self) -> float:
        """Since the start was begun."""
        return time.perf_counter() - self._began

    def tell(self, news: Progress) -> None:
        """Show one piece of news; ignored after closing."""
        if self._closed:
            return
        if news.seconds is not None:
            self._finish(news.phase, news.seconds)
        elif self._bars is not None:
            self._move(self._bars, news)

    def close(self) -> None:
        """Take the bar away."""
        if not self._closed and self._bars is not None:
            self._bars.stop()
        self._closed = True

    def __enter__(self) -> StartDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _move(self, bars: Bars, news: Progress) -> None:
        if news.phase not in self._tasks:
            # A phase that does not say how far it is gets a bar without an end.
            self._tasks[news.phase] = bars.add_task(news.phase, total=None)
            bars.start()
        if news.fraction > 0:
            bars.update(self._tasks[news.phase], total=1.0, completed=news.fraction)

    def _finish(self, phase: str, seconds: float) -> None:
        line = f"  {phase:<20} {seconds:6.2f} s"
        if self._bars is None:
            self._stream.write(line + "\n")
            self._stream.flush()
            return
        if phase in self._tasks:
            self._bars.remove_task(self._tasks.pop(phase))
        self._bars.console.print(line, highlight=False, markup=False)


def _bars(stream: IO[str]) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("  {task.description:<20}"), BarColumn(bar_width=30), TimeElapsedColumn())
    return Progress(*columns, console=Console(file=stream), transient=True)
