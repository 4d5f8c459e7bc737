"""Where a follower is, without any connection."""

from __future__ import annotations

import unittest
from typing import Any

import kairo
from kairo.follow import WINDOW, Place


def event(seq: int, topic: str = "a", data: Any = None) -> kairo.Event:
    return kairo.Event(
        id=str(seq), topic=topic, source="kairod", specversion="1.0", time="", data=data, seq=seq,
        aliases=[], correlation_id=None, causation_id=None, traceparent=None, stream=None,
        stream_version=None, replay=False, subscription=None,
    )


def gap(begins: int, ends: int) -> kairo.Event:
    return event(begins, "kairo.system.event.gap", {"from_seq": begins, "to_seq": ends})


class Places(unittest.TestCase):
    def test_what_was_given_is_not_given_again_and_what_came_late_is(self) -> None:
        place = Place(("a",), None)
        self.assertNotIn("from", place.params())
        self.assertIsNone(place.subscribed({"from_seq": 5}))
        # Live, 8 came before 7, and then the connection ended.
        self.assertTrue(place.take(event(6)) and place.take(event(8)))
        self.assertEqual(place.params()["from"], 5)
        self.assertEqual(place.subscribed({"from_seq": 5}), kairo.Resumed(5))
        again = [seq for seq in range(4, 10) if place.take(event(seq))]
        self.assertEqual(again, [5, 7, 9])

    def test_what_is_remembered_is_bounded(self) -> None:
        place = Place((), "start")
        place.subscribed({"from_seq": 1})
        for seq in range(1, 6000):
            self.assertIsNotNone(place.take(event(seq)))
        self.assertLessEqual(len(place._given), 2 * WINDOW)
        self.assertEqual(place.params()["from"], 6000 - WINDOW)

    def test_only_what_is_behind_the_newest_counts_as_lost_after_a_break(self) -> None:
        place = Place(("a",), None)
        place.subscribed({"from_seq": 1})
        place.take(event(10))
        place.subscribed({"from_seq": 1})
        self.assertIsNone(place.take(gap(1, 11)))
        self.assertEqual(place.take(gap(1, 20)), kairo.Lost(11, 20))
        place.take(event(20))
        self.assertEqual(place.take(gap(5, 7)), kairo.Lost(5, 7))


if __name__ == "__main__":
    unittest.main()
