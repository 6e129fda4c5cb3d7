"""Progress of a run or a step, taken from TFX's log, and the complete log."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import re
import time
from collections.abc import Callable, Iterator

from absl import logging as absl_logging

from tfx_pipeline import progress

Report = Callable[[str], None]

_RUNNING = re.compile(r"Component (\S+) is running\.")
_FINISHED = re.compile(r"Component (\S+) is finished\.")
_CACHED = re.compile(r"A cached execution .* is used\.")


@dataclasses.dataclass
class ComponentFailed(RuntimeError):
    """A component failed.

    Attributes:
        component: id of the component, e.g. ``Trainer``.
        reason: the error in one line.
        log_path: path of the complete log.
    """

    component: str
    reason: str
    log_path: pathlib.Path

    def __str__(self) -> str:
        return f"{self.component} failed: {self.reason} Log: {self.log_path}"


class Watch(logging.Handler):
    """Converts the runner's log to progress."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._start = 0.0
        self._cached = False
        self.component = "pipeline"

    def emit(self, record: logging.LogRecord) -> None:
        """Reports the start and the end of components."""
        message = record.getMessage()
        if match := _RUNNING.match(message):
            self.component = match.group(1)
            self._start = time.monotonic()
            self._cached = False
            self._report(f"{self.component} …")
        elif _CACHED.match(message):
            self._cached = True
        elif match := _FINISHED.match(message):
            seconds = time.monotonic() - self._start
            how = "from the cache" if self._cached else "done"
            self._report(f"{match.group(1)} {how} in {seconds:.1f} s")


@contextlib.contextmanager
def watched(log_path: pathlib.Path, report: Report) -> Iterator[Watch]:
    """Writes all log records to a file and progress to ``report``.

    Raises:
        ComponentFailed: instead of any error.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(log_path, encoding="utf-8")
    file.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    watch = Watch(report)
    lines = logging.Handler()
    lines.emit = lambda record: report(record.getMessage())  # type: ignore[method-assign]
    root, own = logging.getLogger(), logging.getLogger(progress.LOGGER_NAME)
    before = (root.handlers[:], root.level, own.propagate, own.level)
    root.handlers = [file, watch]
    root.setLevel(logging.INFO)
    own.setLevel(logging.INFO)
    own.addHandler(lines)
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    # These have their own handlers, which write to the console.
    noisy = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    noisy_before = [(log.handlers[:], log.propagate) for log in noisy]
    for log in noisy:
        log.handlers, log.propagate = [], True
    try:
        yield watch
    except Exception as error:
        logging.getLogger(__name__).exception("Run failed")
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ComponentFailed(watch.component, reason, log_path) from error
    finally:
        root.handlers, own.propagate = before[0], before[2]
        root.setLevel(before[1])
        own.setLevel(before[3])
        own.removeHandler(lines)
        for log, (handlers, propagate) in zip(noisy, noisy_before, strict=True):
            log.handlers, log.propagate = handlers, propagate
        absl_logging.set_verbosity(verbosity)
        file.close()
