"""What a service could not read is counted by subject, and told without a flood."""

from twd.bus.base import BusMessage, BusStats
from twd.kit.messages.unread_messages import SUBJECTS_MAX, UnreadMessages


def test_a_rejected_message_is_told_at_each_power_of_two() -> None:
    unread = UnreadMessages()
    told = [unread.reject(BusMessage("a.b", b"{"), "no JSON") for _ in range(9)]
    assert [one.repeated for one in told if one is not None] == [1, 2, 4, 8]
    assert unread.rejected == {"a.b": 9}


def test_the_count_of_subjects_has_a_bound() -> None:
    unread = UnreadMessages()
    for number in range(SUBJECTS_MAX + 1):
        unread.reject(BusMessage(f"s.{number}", b""), "empty")
    assert len(unread.rejected) <= SUBJECTS_MAX


def test_drops_are_told_once() -> None:
    unread, stats = UnreadMessages(), BusStats()
    stats.dropped_by_subject["a"] = 2
    assert [(one.subject, one.count) for one in unread.dropped(stats)] == [("a", 2)]
    stats.dropped_by_subject["b"] = 1
    assert [(one.subject, one.count) for one in unread.dropped(stats)] == [("b", 1)]
    assert not unread.dropped(stats)
