"""Model versions in object storage, and their copies in a served folder.

Below the URL of a model, ``7/`` has the files of version 7, and ``7.json``
lists them with sizes and checksums. The list is written last, so a version
without it is incomplete and is not used.

URLs are those of `pyarrow.fs`: ``s3://bucket/models/muse``, ``gs://…``,
``hdfs://…``, or ``file:///mounted/volume``. Keys and regions come from where
the vendors' tools find them. The environment variable AWS_ENDPOINT_URL names an
S3 server other than Amazon's.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import urllib.parse
import zlib
from typing import Any

from pyarrow import fs

from serving.files import appearing, find_versions

_LIST = re.compile(r"([1-9][0-9]{0,18})\.json")
_CHUNK = 8 * 2**20
_TRANSFERS = 8
_KEPT = 1
"""Older versions that stay in a served folder."""


def stored_versions(url: str) -> list[int]:
    """Returns the complete versions of a model, in ascending order."""
    system, base = open_storage(url)
    found = system.get_file_info(fs.FileSelector(base, allow_not_found=True))
    matches = (_LIST.fullmatch(info.base_name) for info in found)
    return sorted(int(match[1]) for match in matches if match)


def store_version(model: pathlib.Path, url: str, version: int) -> None:
    """Copies a SavedModel to a version of a model's URL.

    A copy that was interrupted is overwritten by the next one.

    Raises:
        ValueError: the version is there, or the folder has no SavedModel.
        OSError: the storage does not take it.
    """
    if not (model / "saved_model.pb").is_file():
        raise ValueError(
            "model: expected a folder with saved_model.pb, such as an export. "
            f"Received: {model}"
        )
    if version in stored_versions(url):
        raise ValueError(
            f"version: expected one that is not in {url}. Received: {version}"
        )
    system, base = open_storage(url)
    names = sorted(
        path.relative_to(model).as_posix()
        for path in model.rglob("*")
        if path.is_file()
    )

    def send(name: str) -> tuple[str, list[int]]:
        target = f"{base}/{version}/{name}"
        system.create_dir(target.rpartition("/")[0], recursive=True)
        with (
            (model / name).open("rb") as source,
            system.open_output_stream(target) as output,
        ):
            return name, _copy(source, output)

    with concurrent.futures.ThreadPoolExecutor(_TRANSFERS) as pool:
        files = dict(pool.map(send, names))
    text = json.dumps({"files": files}, indent=1)
    with system.open_output_stream(f"{base}/{version}.json") as output:
        output.write(text.encode())


def fetch_newest(url: str, folder: pathlib.Path) -> int | None:
    """Makes the newest version of a model's URL the newest one of a folder.

    A server that polls the folder finds whole versions only. Newer ones in the
    folder, which were withdrawn from the URL, are removed afterwards, and so
    are old ones. If the URL has no version, nothing changes. A copy that was
    interrupted is continued.

    Returns the version if it was copied, or None.

    Raises:
        OSError: the storage does not answer, or a file is not as listed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = stored_versions(url)
    if not stored:
        return None
    newest = stored[-1]
    fetched = newest not in find_versions(folder)
    if fetched:
        _fetch(url, newest, folder)
    there = find_versions(folder)
    older = sorted(version for version in there if version < newest)
    for version, path in there.items():
        if version > newest or version in older[:-_KEPT]:
            # A server must not see a version without some of its files.
            withdrawn = folder / f".{version}.gone"
            os.rename(path, withdrawn)
            shutil.rmtree(withdrawn)
    return newest if fetched else None


def fetch_file(url: str, path: pathlib.Path) -> bool:
    """Copies a file, if its time or size changed. It appears atomically.

    Returns whether it was copied. Without such a file, nothing changes.
    """
    system, place = open_storage(url)
    info = system.get_file_info(place)
    if info.type != fs.FileType.File:
        return False
    if path.exists():
        known = path.stat()
        if (known.st_size, known.st_mtime_ns) == (info.size, info.mtime_ns):
            return False
    with appearing(path) as temporary:
        with (
            system.open_input_stream(place) as source,
            temporary.open("wb") as output,
        ):
            _copy(source, output)
        os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
    return True


def _fetch(url: str, version: int, folder: pathlib.Path) -> None:
    system, base = open_storage(url)
    with system.open_input_stream(f"{base}/{version}.json") as stream:
        files = json.loads(stream.read())["files"]
    copy = folder / f".{version}.tmp"
    for name in files:
        if copy not in pathlib.Path(os.path.normpath(copy / name)).parents:
            raise OSError(f"{url}/{version}.json: {name!r} leaves the folder")

    def fetch(entry: tuple[str, list[int]]) -> None:
        name, listed = entry
        path = copy / name
        if path.is_file():
            with path.open("rb") as known:
                if _copy(known, None) == listed:
                    return
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            system.open_input_stream(f"{base}/{version}/{name}") as source,
            path.open("wb") as output,
        ):
            found = _copy(source, output)
        if found != listed:
            raise OSError(
                f"{url}/{version}/{name}: expected size and CRC-32 {listed}, "
                f"as listed. Received: {found}"
            )

    with concurrent.futures.ThreadPoolExecutor(_TRANSFERS) as pool:
        list(pool.map(fetch, files.items()))
    for path in copy.rglob("*"):
        name = path.relative_to(copy).as_posix()
        if path.is_file() and name not in files:
            path.unlink()
    os.rename(copy, folder / str(version))


def _copy(source: Any, output: Any) -> list[int]:
    """Copies a stream; returns its size in bytes and its CRC-32."""
    size = checksum = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        checksum = zlib.crc32(chunk, checksum)
        if output is not None:
            output.write(chunk)
    return [size, checksum]


def open_storage(url: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of a URL, and the path in it.

    An `OSError` or an `pyarrow.ArrowException` says what is wrong.
    """
    server = os.environ.get("AWS_ENDPOINT_URL")
    if server and url.startswith("s3://"):
        scheme, host, *_ = urllib.parse.urlsplit(server)
        options = {"scheme": scheme, "endpoint_override": host}
        url += f"?{urllib.parse.urlencode(options)}"
    system, path = fs.FileSystem.from_uri(url)
    return system, path.rstrip("/")
