"""The one table: every event has its place in it, and subjects are what NATS takes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.bus.base import check_subject, matches
from twd.wire import draft, embedding, failures, job, life, model, node, placement, ring, service, swarm, trace
from twd.wire.base import Event, InstanceId, JobId
from twd.wire.failures import ADVICE, FailureCode
from twd.wire.job import JobCancelled
from twd.wire.names import subject_token
from twd.wire.routes import ROUTE_OF_TAG, ROUTES, Delivery, Route, route_of_subject, subject_of


def test_every_event_has_one_route() -> None:
    modules = (draft, embedding, job, life, model, node, placement, ring, service, swarm, trace)
    events = {v for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, Event)} - {Event}
    assert events == {route.event for route in ROUTES}
    assert len(ROUTE_OF_TAG) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.tag)
def test_names_are_one_name(route: Route) -> None:
    words = re.findall("[A-Z][a-z]+", route.event.__name__)
    domain, verb = route.tag.split(".")[2:]
    assert [domain, verb] == [words[0].lower(), words[1].lower()]
    assert route.event.__doc__
    assert {*route.keys, *route.own, *filter(None, [route.to])} <= set(route.event.__struct_fields__)
    assert (route.delivery is Delivery.REQUEST) == bool(route.group)


@given(st.text(max_size=50))
def test_any_id_makes_a_subject_that_finds_its_route(name: str) -> None:
    subject = subject_of(JobCancelled(job=JobId(name), source=InstanceId(name)))
    check_subject(subject)
    route = route_of_subject(subject)
    assert route is not None
    assert route.event is JobCancelled
    assert matches(route.pattern, subject)


@given(st.text(max_size=30), st.text(max_size=30))
def test_two_ids_never_share_a_subject(one: str, other: str) -> None:
    assert (subject_token(one) == subject_token(other)) == (one == other)


def test_every_failure_code_has_its_advice() -> None:
    assert set(ADVICE) == set(FailureCode)
    assert all(400 <= advice.status < 600 and advice.advice.endswith(".") for advice in ADVICE.values())
    assert failures.Failure(code=FailureCode.BUSY, message="m").retry


@pytest.mark.parametrize(("message", "words"), [("no file", "no file. "), ("It is so.", "It is so. "), ("", "")])
def test_a_message_ends_before_its_advice_begins(message: str, words: str) -> None:
    failure = failures.Failure(code=FailureCode.MODEL_LOAD, message=message)
    assert failure.with_advice == words + failure.advice
    assert failures.sentences(message, "") == message
