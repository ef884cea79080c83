"""All rules of a task: every state, every cause, every outcome."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spheroseg.tasks import FINISHED, STEPS, UNFINISHED, Attempt, Cause, Outcome, RetryPolicy, TaskState, after
from tests.support.states_page import render

POLICY = RetryPolicy(max_retries=3, max_losses=2, backoff=5.0, backoff_max=60.0)
OUTCOMES = [cause for cause in Cause if cause not in (Cause.CANCEL, Cause.RETRY)]

attempts = st.builds(Attempt, number=st.integers(1, 50), retries=st.integers(0, 10), losses=st.integers(0, 10))
outcomes = st.builds(
    Outcome, cause=st.sampled_from(OUTCOMES), reason=st.text(), error=st.text(), retryable=st.booleans()
)


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("state", TaskState)
def test_only_a_person_moves_a_finished_task(state: TaskState, cause: Cause) -> None:
    if state in FINISHED and state in STEPS[cause].sources:
        assert (state, cause) == (TaskState.FAILED, Cause.RETRY)


@pytest.mark.parametrize("cause", OUTCOMES)
@pytest.mark.parametrize("retryable", [True, False])
@pytest.mark.parametrize("retries", range(6))
@pytest.mark.parametrize("losses", range(6))
def test_every_decision_is_a_legal_step(cause: Cause, retryable: bool, retries: int, losses: int) -> None:
    decision = after(Outcome(cause, retryable=retryable), Attempt(9, retries, losses), POLICY)
    assert decision.state in STEPS[cause].targets


@pytest.mark.parametrize("cause", OUTCOMES)
@pytest.mark.parametrize("state", TaskState)
def test_every_outcome_is_allowed_in_exactly_the_states_of_the_table(state: TaskState, cause: Cause) -> None:
    allowed = {
        Cause.STARTED: {TaskState.QUEUED},
        Cause.UNDELIVERED: {TaskState.QUEUED},
    }.get(cause, {TaskState.QUEUED, TaskState.PROCESSING})
    assert (state in STEPS[cause].sources) == (state in allowed)


@given(outcomes, attempts)
def test_a_message_follows_exactly_when_the_task_is_queued_again(outcome: Outcome, attempt: Attempt) -> None:
    decision = after(outcome, attempt, POLICY)
    assert (decision.delay_ceiling is not None) == (decision.state == TaskState.QUEUED)


@given(outcomes, attempts)
def test_counters_never_fall_and_grow_by_one_at_most(outcome: Outcome, attempt: Attempt) -> None:
    following = after(outcome, attempt, POLICY).attempt
    grown = (
        following.number - attempt.number,
        following.retries - attempt.retries,
        following.losses - attempt.losses,
    )
    assert grown in {(0, 0, 0), (1, 1, 0), (1, 0, 1)}


def test_three_retries_then_failed() -> None:
    attempt, seen = Attempt(), []
    while (decision := after(Outcome(Cause.FAILED), attempt, POLICY)).state == TaskState.QUEUED:
        seen.append(decision.delay_ceiling)
        attempt = decision.attempt
    assert seen == [5.0, 10.0, 20.0]
    assert attempt.number == 4
    assert decision.state == TaskState.FAILED


def test_an_error_that_is_not_retryable_is_not_retried() -> None:
    decision = after(Outcome(Cause.FAILED, "bad_image", retryable=False), Attempt(), POLICY)
    assert decision.state == TaskState.FAILED


def test_losses_have_their_own_limit_and_use_up_no_retry() -> None:
    attempt = Attempt()
    for _ in range(POLICY.max_losses):
        decision = after(Outcome(Cause.LOST), attempt, POLICY)
        assert decision.state == TaskState.QUEUED
        attempt = decision.attempt
    assert (attempt.retries, attempt.losses) == (0, 2)
    assert after(Outcome(Cause.LOST), attempt, POLICY).state == TaskState.FAILED


@pytest.mark.parametrize("cause", [Cause.UNDELIVERED, Cause.HANDED_BACK])
def test_undelivered_and_handed_back_attempts_use_up_nothing(cause: Cause) -> None:
    attempt = Attempt(4, 3, 2)
    for _ in range(100):
        decision = after(Outcome(cause), attempt, POLICY)
        assert (decision.state, decision.attempt) == (TaskState.QUEUED, attempt)


def test_backoff_doubles_up_to_its_limit_however_often() -> None:
    assert [POLICY.ceiling(n) for n in (1, 2, 3, 4, 5, 5000)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


@pytest.mark.parametrize("cause", [Cause.CANCEL, Cause.RETRY])
def test_a_cancel_or_a_retry_by_a_person_is_no_outcome(cause: Cause) -> None:
    with pytest.raises(ValueError, match="person"):
        after(Outcome(cause), Attempt(), POLICY)


def test_states_are_either_finished_or_not() -> None:
    assert frozenset(TaskState) == FINISHED | UNFINISHED
    assert not FINISHED & UNFINISHED


def test_the_page_of_states_is_rendered_from_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "states.md"
    assert page.read_text() == render(), "docs/states.md is old: python -m tests.support.states_page > docs/states.md"
