"""The notice that a sweep is to end reaches every trial that trains, and is not waited for without end."""

from __future__ import annotations

import threading

from stm.tune.notice import Listener, give, open_notice


def wait_for(notice, trials):
    import ray

    while ray.get(notice.unanswered.remote()) != trials:
        pass


def test_trials_answer_a_notice_and_those_that_ended_are_not_waited_for(ray_cluster):
    kept, never = [], threading.Event()
    with open_notice() as notice:
        Listener(notice, "a", kept.append)
        Listener(notice, "b", lambda seconds: never.wait())
        ended = Listener(notice, "c", kept.append)
        wait_for(notice, ["a", "b", "c"])
        ended.close()
        wait_for(notice, ["a", "b"])
        assert give(notice, 1.0) == ["b"]
        assert kept.count(30.0) >= 1
        never.set()
        wait_for(notice, [])
