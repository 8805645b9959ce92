"""Processes meet, and who is missing, late, doubled or gone is known; here they are threads."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jalign.train.processes import Place
from jalign.train.rendezvous import Meeting, Unreachable


def places(num: int) -> list[Place]:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return [Place("test", f"localhost:{port}", num, i) for i in range(num)]


def run(*calls):
    """Run calls at once and return their results, or what they raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
    return [f.exception() or f.result() for f in futures]


def attend(place, rounds=1, timeout_s=30.0):
    """Meet, say the round and number, leave; return what was heard in the last round."""
    meeting = Meeting(place, timeout_s)
    try:
        for number in range(rounds):
            heard = meeting.gather([number, place.process_id])
        return heard, meeting.lost, meeting.problems, meeting.skew_s
    finally:
        meeting.close()


def test_all_hear_the_same_in_every_round():
    for heard, lost, problems, skew in run(*(lambda p=p: attend(p, rounds=2) for p in places(3))):
        assert heard == {0: [1, 0], 1: [1, 1], 2: [1, 2]}
        assert (lost, problems) == ([], []) and abs(skew) < 1


def test_whoever_does_not_come_is_missing_for_all():
    first, second, _ = places(3)
    begin = time.monotonic()
    for heard, *_ in run(lambda: attend(first, timeout_s=1), lambda: attend(second)):
        assert sorted(heard) == [0, 1]
    assert time.monotonic() - begin < 20


def test_who_comes_and_ends_is_lost_and_not_waited_for():
    first, second = places(2)

    def leave():
        meeting = Meeting(second, 60)
        meeting.gather("here")
        meeting.close()

    def stay():
        meeting = Meeting(first, 60)
        meeting.gather("here")
        begin = time.monotonic()
        heard = meeting.gather("still here")
        meeting.close()
        return heard, meeting.lost, time.monotonic() - begin

    heard, lost, waited = run(stay, leave)[0]
    assert heard == {0: "still here"} and lost == [1] and waited < 30


def test_two_with_one_number_are_told_apart():
    first, second = places(2)
    results = run(*(lambda p=p: attend(p, timeout_s=5) for p in (first, second, second)))
    assert any("two processes say that they are number 1" in "".join(r[2]) for r in results)


def test_unequal_counts_are_named():
    first, second = places(2)
    other = Place("test", second.coordinator, 3, 1)
    heard, _, problems, _ = run(lambda: attend(first), lambda: attend(other))[0]
    assert "process 1" in problems[0] and "counts 3 processes, process 0 2" in problems[0]


def test_other_visitors_are_sent_away():
    first, second = places(2)

    def knock():
        attempt = 0
        while attempt < 100:
            try:
                with socket.create_connection(first.address, timeout=5) as visitor:
                    visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    visitor.recv(100)
                break
            except OSError:
                attempt += 1
                time.sleep(0.05)
        return attend(second)

    (heard, lost, problems, _), _ = run(lambda: attend(first), knock)
    assert sorted(heard) == [0, 1] and (lost, problems) == ([], [])


def test_the_door_closes_and_the_port_is_free_while_they_still_talk():
    first, second = places(2)

    def host():
        meeting = Meeting(first, 30)
        meeting.gather(0)
        meeting.close_door()
        with socket.create_server(("", first.address[1])):  # as JAX's service does
            heard = meeting.gather("after")
        meeting.close()
        return heard

    assert run(host, lambda: attend(second, rounds=2))[0] == {0: "after", 1: [1, 1]}


def test_an_absent_coordinator_is_named_with_the_reason():
    _, second = places(2)
    with pytest.raises(Unreachable, match="refuses port .* process 0 is missing"):
        Meeting(second, 0.5)
    nowhere = Place("test", "no-such-host.invalid:1234", 2, 1)
    with pytest.raises(Unreachable, match="'no-such-host.invalid' does not resolve"):
        Meeting(nowhere, 0.5)


def test_a_port_that_is_taken_is_named():
    first, _ = places(2)
    with socket.socket() as other:
        other.bind(("", first.address[1]))
        other.listen()
        with pytest.raises(Unreachable, match="cannot listen on port"):
            Meeting(first, 0.5)


def test_a_coordinator_that_answers_otherwise_is_found_out():
    _, second = places(2)
    with socket.create_server(("", second.address[1])) as other:

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        error = run(lambda: Meeting(second, 5), answer)[0]
    assert isinstance(error, Unreachable) and "no jalign doctor" in str(error)
