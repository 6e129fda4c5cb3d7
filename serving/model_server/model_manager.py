"""Keeps the required versions of every model in memory.

A new version is loaded and warmed up beside the old one, and then answers all
new requests in one step. Only then is the old version retired: it is removed
from the map, its running calls finish, and its memory is freed. A version that
fails to load does not affect the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from serving.files import find_versions
from serving.model_server.config import ServerConfig
from serving.model_server.errors import (
    ServingError,
    failed_precondition,
    invalid_argument,
    not_found,
)
from serving.model_server.metrics import Metrics
from serving.model_server.servable import Servable, SessionOptions
from serving.model_server.versions import (
    ModelSettings,
    check_folders,
    folder_stamp,
)
from serving.model_server.warmup import warm_up
from serving.startup import StartupError

_logger = logging.getLogger(__name__)

_COPY_SECONDS = 1.0  # An unfinished copy changes within this time.


class State(enum.IntEnum):
    """Life cycle of a version, as numbers of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version and the error that ended it."""

    state: State
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""


class ModelManager:
    """Loads, swaps, leases and retires versions."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._options = SessionOptions(
            intra_op=config.tensorflow_intra_op_parallelism,
            inter_op=config.tensorflow_inter_op_parallelism,
            runs=config.max_concurrent_runs,
        )
        self._settings: dict[str, ModelSettings] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._ready: dict[str, dict[int, Servable]] = {}
        self._states: dict[str, dict[int, VersionStatus]] = {}
        # Folders of versions that failed: their state at the last attempt,
        # and when they were last checked.
        self._failed: dict[str, tuple[object, object]] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()  # Guards the maps above.
        self._work = threading.Lock()  # Allows one reconciliation at a time.
        self._stop = threading.Event()
        self._unloader = ThreadPoolExecutor(1, thread_name_prefix="unload")
        self._poller: threading.Thread | None = None

    def start(
        self, models: Sequence[ModelSettings], poll_seconds: float = 0.0
    ) -> None:
        """Loads the models, then polls for new versions."""
        check_folders(models)
        while True:
            try:
                self.apply(models)
                break
            except ServingError as error:
                # A version may still be copied, so wait while it changes.
                if self._stop.wait(_COPY_SECONDS) or not self._changes():
                    raise StartupError(error.message) from error
        if poll_seconds > 0:
            self._poller = threading.Thread(
                target=self._poll, args=(poll_seconds,), daemon=True
            )
            self._poller.start()

    def apply(self, models: Sequence[ModelSettings]) -> None:
        """Makes these models the served ones, and waits for them.

        Other models are unloaded. Versions that load are served even if another
        version fails, or if a label names an unavailable one.
        """
        with self._work:
            named = {model.name: model for model in models}
            with self._lock:
                gone = [name for name in self._settings if name not in named]
                self._settings = named
            for name in gone:
                for version in list(self._ready.get(name, {})):
                    self._retire(name, version)
                with self._lock:
                    self._labels.pop(name, None)
            failures = []
            for model in models:
                failures += self._reconcile(model)
            for model in models:
                self._assign_labels(model)
        if failures:
            raise failures[0]

    def poll_once(self) -> None:
        """Looks for new versions once, and swaps them in."""
        with self._work:
            for model in list(self._settings.values()):
                self._reconcile(model)

    @contextlib.contextmanager
    def lease(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Keeps a version in memory during a call."""
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        what = f"Latest({name})"
        with self._lock:
            if label:
                version = self._resolve(name, label)
            ready = self._ready.get(name, {})
            if version is not None:
                what = f"Specific({name}, {version})"
            elif ready:
                version = max(ready)
            servable = None if version is None else ready.get(version)
            if servable is None:
                raise not_found(f"Servable not found for request: {what}")
            servable.acquire()
        try:
            yield servable
        finally:
            servable.release()

    def status(
        self, name: str, version: int | None = None
    ) -> dict[int, VersionStatus]:
        """Returns the states of a model's versions, newest first."""
        with self._lock:
            states = dict(self._states.get(name, {}))
        if version is not None:
            if version not in states:
                raise not_found(
                    f"Could not find version {version} of model {name}"
                )
            return {version: states[version]}
        if not states:
            raise not_found(f"Could not find any versions of model {name}")
        return dict(sorted(states.items(), reverse=True))

    def end_retries(self) -> None:
        """Stops polling and retries; a running attempt continues."""
        self._stop.set()

    def stop(self, timeout: float = 30.0) -> None:
        """Stops polling, and frees every version once it is unused."""
        self.end_retries()
        if self._poller is not None:
            self._poller.join(timeout)
        deadline = time.monotonic() + timeout
        with self._lock:
            left = [s for ready in self._ready.values() for s in ready.values()]
            self._ready.clear()
        for servable in left:
            if servable.wait_unused(max(0.0, deadline - time.monotonic())):
                servable.close()
        self._unloader.shutdown(wait=False)

    def _resolve(self, name: str, label: str) -> int:
        if name not in self._settings:
            raise not_found(f"Servable not found for request: Latest({name})")
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise invalid_argument(
                f"Unrecognized servable version label: {label}"
            )
        return version

    def _poll(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                self.poll_once()
            except Exception:
                _logger.exception("Looking for new versions failed")

    def _reconcile(self, model: ModelSettings) -> list[ServingError]:
        """Loads and retires versions as on disk; returns load failures."""
        name = model.name
        found = find_versions(model.base_path)
        wanted = model.policy.select(list(found))
        if wanted:
            self._warned.discard(name)
        elif name not in self._warned:
            self._warned.add(name)
            text = "No versions of servable %s found under base path %s"
            _logger.warning(text, name, model.base_path)
        self._forget(name, found)
        failures = []
        for version in wanted:
            with self._lock:
                status = self._states.get(name, {}).get(version)
            ended_well = (
                status is not None
                and status.state == State.END
                and status.code == grpc.StatusCode.OK
            )
            path = found[version]
            if status is None or ended_well or self._is_due(path):
                error = self._load(name, version, path)
                if error is not None:
                    failures.append(error)
            elif path in self._failed:
                failures.append(ServingError(status.code, status.message))
        with self._lock:
            ready = set(self._ready.get(name, {}))
        # A missing base path may be a volume that comes back.
        if ready & set(wanted) or (
            not wanted and _can_be_listed(model.base_path)
        ):
            for version in sorted(ready - set(wanted)):
                self._retire(name, version)
        return failures

    def _forget(self, name: str, found: Mapping[int, str]) -> None:
        """Forgets removed failed versions, which may come back repaired."""
        with self._lock:
            states = self._states.get(name, {})
            for version, status in list(states.items()):
                failed = status.code != grpc.StatusCode.OK
                if failed and version not in found:
                    del states[version]
            for path in set(self._failed) - set(found.values()):
                if not os.path.isdir(path):
                    del self._failed[path]

    def _is_due(self, path: str) -> bool:
        """Whether a failed version has changed and is now stable."""
        if path not in self._failed:
            return False
        (tried, seen), now = self._failed[path], folder_stamp(path)
        self._failed[path] = (tried, now)
        return now == seen != tried

    def _changes(self) -> bool:
        """Whether a failed version has changed since the last attempt."""
        return any(
            folder_stamp(path) != tried
            for path, (tried, _) in self._failed.items()
        )

    def _load(self, name: str, version: int, path: str) -> ServingError | None:
        pause = self._config.load_retry_interval_micros / 1e6
        for attempt in range(self._config.max_num_load_retries + 1):
            if attempt and self._stop.wait(pause):
                break
            self._set(name, version, VersionStatus(State.LOADING))
            started = time.perf_counter()
            before = folder_stamp(path)
            try:
                servable = self._load_once(name, version, path)
            except ServingError as error:
                failure = error
                self._metrics.load_attempts.labels(path, "fail").inc()
                _logger.error(
                    "Loading %s version %d failed: %s", name, version, error
                )
                continue
            seconds = time.perf_counter() - started
            self._failed.pop(path, None)
            self._metrics.load_attempts.labels(path, "success").inc()
            self._metrics.load_latency.labels(path).inc(seconds * 1e6)
            self._metrics.loaded.labels(name).inc()
            with self._lock:
                self._ready.setdefault(name, {})[version] = servable
                self._states[name][version] = VersionStatus(State.AVAILABLE)
            text = "Serving %s version %d, loaded in %.1f s"
            _logger.info(text, name, version, seconds)
            return None
        self._failed[path] = (before, None)
        status = VersionStatus(State.END, failure.code, failure.message)
        self._set(name, version, status)
        return ServingError(
            failure.code,
            f"model {name!r} version {version} cannot be loaded: "
            f"{failure.message}",
        )

    def _load_once(self, name: str, version: int, path: str) -> Servable:
        servable = Servable(name, version, path, self._options)
        if not self._config.enable_model_warmup:
            return servable
        started = time.perf_counter()
        status = "success"
        try:
            warm_up(servable)
        except ServingError:
            status = "fail"
            servable.close()
            raise
        finally:
            self._metrics.warmup_latency.labels(path, status).observe(
                (time.perf_counter() - started) * 1e6
            )
        return servable

    def _retire(self, name: str, version: int) -> None:
        with self._lock:
            servable = self._ready[name].pop(version)
        self._set(name, version, VersionStatus(State.UNLOADING))
        self._unloader.submit(self._unload, servable)

    def _unload(self, servable: Servable) -> None:
        servable.wait_unused()
        servable.close()
        self._metrics.loaded.labels(servable.name).dec()
        self._set(servable.name, servable.version, VersionStatus(State.END))
        _logger.info("Unloaded %s version %d", servable.name, servable.version)

    def _assign_labels(self, model: ModelSettings) -> None:
        with self._lock:
            ready = self._ready.get(model.name, {})
            unavailable = (
                self._config.allow_version_labels_for_unavailable_models
            )
            for label, version in model.labels.items():
                if version not in ready and not unavailable:
                    raise failed_precondition(
                        f"Request to assign label {label} to version "
                        f"{version} of model {model.name}, which is not "
                        f"currently available for inference"
                    )
            self._labels[model.name] = dict(model.labels)

    def _set(self, name: str, version: int, status: VersionStatus) -> None:
        with self._lock:
            self._states.setdefault(name, {})[version] = status


def _can_be_listed(folder: str) -> bool:
    """Distinguishes an empty folder from a temporarily unreadable one."""
    try:
        os.listdir(folder)
    except OSError:
        return False
    return True
