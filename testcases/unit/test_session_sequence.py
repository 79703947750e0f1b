"""The session as a sequence: order, counts, refusals, and its drawing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.drawings import Actor, SessionSequence
from harness.model.protection import AttemptEnd, SealedRecords, SessionCommand, SessionEvidence
from harness.model.session_sequence import STEPS_MAX, sequence_of
from harness.report.sequence import draw_sequence


def done(name: str, count: int = 1, **more: object) -> SessionCommand:
    return replace(SessionCommand(name=name, count=count), **more)  # type: ignore[arg-type]  # fields by name


SOURCE = (done("send-start"), done("send-update-data", 9), *(done("send-update-vmsa", vcpu=n) for n in range(2)))
MOVE = SessionEvidence(
    end=AttemptEnd.COMPLETED,
    source=(*SOURCE, done("send-finish")),
    destination=(
        done("receive-start"),
        done("activate"),
        done("receive-update-data", 9),
        done("receive-update-vmsa", 2),
        done("receive-finish"),
    ),
)
RECORDS = SealedRecords(starts=1, pages=9, plain_pages=3, lists=1, vcpu_packets=(0, 1))


def told(sequence: SessionSequence) -> list[str]:
    return [f"{step.label} {step.count}" for step in sequence.steps]


def test_commands_of_both_sides_are_woven_with_what_crossed_the_wire() -> None:
    sequence = sequence_of(MOVE, RECORDS, title="hop 1")
    assert told(sequence) == [
        "send-start 1",
        "session 1",
        "receive-start 1",
        "send-update-data 9",
        "packets 9",
        "plain pages 3",
        "shared list 1",
        "activate 1",
        "receive-update-data 9",
        "send-update-vmsa 2",
        "CPU state 2",
        "receive-update-vmsa 2",
        "send-finish 1",
        "receive-finish 1",
    ]
    assert (sequence.title, sequence.end) == ("hop 1", "completed")
    assert {(step.sender, step.receiver) for step in sequence.steps} == {
        (Actor.SOURCE_HOST, Actor.SOURCE_PROCESSOR),
        (Actor.SOURCE_HOST, Actor.DESTINATION_HOST),
        (Actor.DESTINATION_HOST, Actor.DESTINATION_PROCESSOR),
    }


def test_without_an_observer_nothing_is_drawn_between_the_hosts() -> None:
    assert all(step.receiver is not Actor.DESTINATION_HOST for step in sequence_of(MOVE).steps)


names = st.sampled_from(["send-start", "send-update-data", "receive-start", "receive-update-data", "activate", "run"])
traces = st.lists(
    st.builds(SessionCommand, name=names, status=st.sampled_from([0, 0, 2]), count=st.just(1)), max_size=9
)


@given(traces, traces)
@settings(deadline=None, derandomize=True)
def test_no_command_is_lost_and_each_side_keeps_its_order(
    source: list[SessionCommand], destination: list[SessionCommand]
) -> None:
    evidence = SessionEvidence(end=AttemptEnd.FAILED, source=tuple(source), destination=tuple(destination))
    steps = sequence_of(evidence, RECORDS).steps
    for host, commands in ((Actor.SOURCE_HOST, source), (Actor.DESTINATION_HOST, destination)):
        asked = [step for step in steps if step.sender is host and step.receiver is not Actor.DESTINATION_HOST]
        assert [(step.label, step.status) for step in asked for _ in range(step.count)] == [
            (command.name, command.status) for command in commands
        ]


def test_a_refusal_carries_the_firmwares_word_in_red() -> None:
    refused = done("receive-update-data", status=0x18, detail="packet 8 came, 7 is next")
    destination = (*MOVE.destination[:3], refused)
    drawing = draw_sequence(sequence_of(replace(MOVE, end=AttemptEnd.FAILED, destination=destination), RECORDS))
    (arrow,) = [arrow for arrow in drawing.arrows if arrow.tone == "refused"]
    assert arrow.note == "✗ SECURE_DATA_INVALID (0x18): packet 8 came, 7 is next"
    assert arrow.note_anchor == "end"
    assert not drawing.is_good
    order = [arrow.label for arrow in drawing.arrows]
    assert order.index("send-update-vmsa \u00d7 2") > order.index("receive-update-data")


def test_a_guest_that_was_sent_is_denied_and_that_is_no_alarm() -> None:
    run = done("run", status=2, detail="VMRUN of a guest in state sent")
    drawing = draw_sequence(sequence_of(replace(MOVE, source=(run, *MOVE.source, run)), RECORDS))
    tones = [(arrow.label, arrow.tone) for arrow in drawing.arrows if arrow.tone in {"refused", "denied"}]
    assert tones == [("run", "refused"), ("run", "denied")]
    assert drawing.arrows[-1].note.startswith("✓ denied, the guest was sent: INVALID_GUEST_STATE")


def test_the_drawing_keeps_within_its_page() -> None:
    drawing = draw_sequence(sequence_of(MOVE, RECORDS))
    assert [name for name, _ in drawing.lanes] == list(Actor)
    assert {arrow.tone for arrow in drawing.arrows} == {"asked", "crossing"}
    assert all(0 < value < 1080 for arrow in drawing.arrows for value in (arrow.x1, arrow.x2, arrow.label_x))
    assert [arrow.y for arrow in drawing.arrows] == sorted({arrow.y for arrow in drawing.arrows})
    assert drawing.arrows[-1].y < drawing.bottom < drawing.height


def test_a_long_story_is_cut_and_says_so() -> None:
    source = tuple(done("send-start", status=7, detail="x" * 500) for _ in range(STEPS_MAX + 5))
    sequence = sequence_of(replace(MOVE, source=source, destination=()))
    assert (len(sequence.steps), sequence.steps_left_out) == (STEPS_MAX, 5)
    drawing = draw_sequence(sequence)
    assert drawing.left_out == 5
    assert max(len(arrow.note) for arrow in drawing.arrows) < 100


def test_an_attempt_without_any_command_can_be_drawn() -> None:
    drawing = draw_sequence(sequence_of(replace(MOVE, source=(), destination=())))
    assert drawing.arrows == ()
    assert drawing.height > drawing.bottom > 0
