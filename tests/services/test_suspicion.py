"""Who is suspected of a crash, and until when."""

from services.worker.suspicion import Suspicion


def test_one_that_was_alone_is_known_at_once() -> None:
    suspicion = Suspicion()
    assert suspicion.crashed(["a"])
    assert suspicion.falls_on("a")


def test_several_are_suspected_until_it_is_known_who_it_was() -> None:
    suspicion = Suspicion()
    assert not suspicion.crashed(["a", "b", "c"])
    assert [suspicion.falls_on(run) for run in "abcd"] == [True, True, True, False]
    suspicion.cleared("a")
    assert [suspicion.falls_on(run) for run in "abc"] == [False, True, True]
    assert suspicion.crashed(["c"])
    assert [suspicion.falls_on(run) for run in "abc"] == [False, False, True]


def test_another_crash_is_another_matter() -> None:
    suspicion = Suspicion()
    suspicion.crashed(["a", "b"])
    suspicion.crashed(["c", "d"])
    suspicion.crashed(["b"])
    assert [suspicion.falls_on(run) for run in "abcd"] == [False, True, True, True]


def test_nobody_is_left_when_all_are_over() -> None:
    suspicion = Suspicion()
    suspicion.crashed(["a", "b"])
    assert suspicion
    for run in "aabb":
        suspicion.cleared(run)
    assert not suspicion
