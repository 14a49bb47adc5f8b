"""The index of subscriptions answers as a plain search through all of them would."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from twd.bus.base import matches
from twd.bus.interest import InterestTable

PATTERNS = ["a", "a.b", "a.*", "*.b", "a.>", ">", "a.b.c", "a.*.c"]
SUBJECTS = ["a", "a.b", "a.c", "a.b.c", "x.b"]


@dataclass(eq=False)
class Sub:
    pattern: str
    queue: str


@given(
    st.lists(st.tuples(st.sampled_from([*SUBJECTS, "out"]), st.sampled_from(PATTERNS), st.sampled_from(["", "q", "r"])))
)
def test_equals_a_plain_search(steps: list[tuple[str, str, str]]) -> None:
    interest: InterestTable[Sub] = InterestTable()
    here: list[Sub] = []
    for subject, pattern, queue in steps:
        if subject == "out":
            if here:
                interest.remove(here.pop(0))
            continue
        here.append(Sub(pattern, queue))
        interest.add(here[-1])
        wanted = interest.in_subject(subject)
        matching = [sub for sub in here if matches(sub.pattern, subject)]
        assert {id(sub) for sub in wanted.everybody} == {id(sub) for sub in matching if not sub.queue}
        keys = {(sub.pattern, sub.queue) for sub in matching if sub.queue}
        assert {(group[0].pattern, group[0].queue) for group in wanted.groups} == keys
        assert sum(len(group) for group in wanted.groups) == sum(1 for sub in matching if sub.queue)


def test_removing_a_stranger_is_no_matter() -> None:
    interest: InterestTable[Sub] = InterestTable()
    interest.remove(Sub("a", ""))
    interest.remove(Sub("a.*", ""))
    assert interest.in_subject("a.b").everybody == []


def test_what_is_remembered_is_bounded() -> None:
    interest: InterestTable[Sub] = InterestTable()
    one = Sub("a.*", "")
    interest.add(one)
    for i in range(10_000):
        assert interest.in_subject(f"a.{i}").everybody == [one]
    assert len(interest._found) <= 4096
