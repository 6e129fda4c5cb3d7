"""Estimates, places, servers by user and the wire form, each alone."""

from __future__ import annotations

import asyncio
import collections
import pathlib
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2

from serving.client import ranking_messages as wire
from serving.service.admission import Admission, Overloaded
from serving.service.latencies import Latencies
from serving.service.service import PRIORS
from serving.service.targets import by_user

ROOT = pathlib.Path(__file__).parents[3]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def latencies(clock: Clock | None = None) -> Latencies:
    return Latencies({"a": (0.01, 0.001)}, clock or Clock())


def test_prior_counts_until_something_is_known() -> None:
    assert latencies().estimate("a", 4) == pytest.approx(0.014)


def test_one_outlier_does_not_count_among_few_or_many() -> None:
    few, many = latencies(), latencies()
    few.learn("a", 9.0, 4)
    for index in range(20):
        many.learn("a", 9.0 if index == 5 else 0.02 + index * 1e-4, 4)
    assert few.estimate("a", 4) < 0.02
    assert many.estimate("a", 4) < 0.05


def test_lasting_change_is_followed_and_alternation_is_steady() -> None:
    found = latencies()
    for _ in range(40):
        found.learn("a", 0.02, 4)
    for _ in range(20):
        found.learn("a", 0.2, 4)
    assert found.estimate("a", 4) >= 0.2
    seen = []
    for index in range(200):
        found.learn("a", 0.2 if index % 2 else 0.1, 4)
        seen.append(found.estimate("a", 4))
    assert min(seen[50:]) >= 0.2 and max(seen[50:]) < 1


def test_calls_given_up_raise_the_estimate_but_only_then() -> None:
    found = latencies()
    for _ in range(9):
        found.give_up("a", 0.001, 4)
    assert found.estimate("a", 4) == pytest.approx(0.014)
    for _ in range(9):
        found.give_up("a", 0.5, 4)
    assert found.estimate("a", 4) >= 0.4


def test_few_durations_far_from_the_prior_do_not_count_as_spread() -> None:
    """No estimate is above everything that was measured or assumed."""
    found = Latencies({"a": (1.36, 0.0)}, Clock())
    found.learn("a", 0.82)
    found.learn("a", 0.33)
    assert found.estimate("a") <= 1.36


def test_no_path_is_thought_too_slow_before_it_was_tried() -> None:
    """The longest history and a thousand candidates, in 300 ms."""
    found = Latencies(PRIORS, Clock())
    cells = 100_000 * 1_000
    for path in ("rank_cached", "rank_full"):
        assert found.estimate(path, cells) < 0.15
        # Two tries that were given up are enough to know better.
        for _ in range(2):
            found.give_up(path, 0.29, cells)
        assert found.estimate(path, cells) > 0.28


def test_what_is_never_tried_is_forgotten() -> None:
    clock = Clock()
    found = latencies(clock)
    for _ in range(33):
        found.learn("a", 8.0, 4)
    clock.now = 15.0
    assert found.estimate("a", 4) == pytest.approx(8.0)
    clock.now = 300.0
    assert found.estimate("a", 4) < 0.1


def test_sizes_not_measured_follow_those_that_are() -> None:
    found = latencies()
    for _ in range(33):
        found.learn("a", 1.01, 1024)
    assert 3 < found.estimate("a", 4096) < 5
    assert found.estimate("a", 64) < 1.01
    assert found.estimate("a", 1024) == pytest.approx(1.01)


def test_places_are_given_in_order_and_never_lost() -> None:
    async def run() -> tuple[int, int, list[int], list[str]]:
        places = Admission(2, 3)
        inside = most = 0
        entered: list[int] = []
        refused: list[str] = []

        async def visit(number: int) -> None:
            nonlocal inside, most
            try:
                async with places.place(5):
                    entered.append(number)
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.01)
                    inside -= 1
            except Overloaded as error:
                refused.append(error.reason)

        tasks = [asyncio.create_task(visit(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()  # It waits.
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await places.close(1)
        with pytest.raises(Overloaded, match="stopping"):
            async with places.place(1):
                pass
        return most, places.inside, entered, refused

    most, left, entered, refused = asyncio.run(run())
    assert (most, left) == (2, 0)
    assert entered == [0, 1, 2, 4]
    assert refused == ["queue_full"]


def test_users_share_servers_evenly_and_few_move() -> None:
    servers = [f"10.0.0.{n}:8500" for n in range(4)]
    first = {user: by_user(user, servers)[0] for user in range(4000)}
    counts = collections.Counter(first.values())
    assert min(counts.values()) > 800
    for user in range(4000):
        fewer = by_user(user, servers[:3])[0]
        if first[user] != servers[3]:
            assert fewer == first[user]


def test_messages_are_those_of_the_proto_file(tmp_path) -> None:
    out = tmp_path / "ranking.bin"
    folder = ROOT / "serving" / "service"
    # A process of its own: its protobuf library is not this one's.
    protoc = (
        "import sys; from grpc_tools._protoc_compiler import run_main; "
        "sys.exit(run_main([part.encode() for part in sys.argv]))"
    )
    subprocess.run(
        [
            *(sys.executable, "-c", protoc, f"-I{folder}"),
            *(f"--descriptor_set_out={out}", str(folder / "ranking.proto")),
        ],
        check=True,
    )
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert file.package + "." + file.service[0].name == wire.SERVICE
    assert [m.name for m in file.service[0].method] == ["Rank", "AppendEvents"]
    for message in file.message_type:
        built = descriptor_pb2.DescriptorProto()
        getattr(wire, message.name).DESCRIPTOR.CopyToProto(built)

        def known(proto):
            return [
                (f.name, f.number, f.label, f.type, f.type_name)
                for f in proto.field
            ]

        assert known(built) == known(message)
