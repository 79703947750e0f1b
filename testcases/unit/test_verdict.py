import pytest

from harness.model.verdict import Finding, Verdict, exit_status, verdict_of, worst


def finding(verdict: Verdict) -> Finding:
    return Finding(check="c", kind="k", where="w", detail="d", verdict=verdict)


def test_the_worst_verdict_wins() -> None:
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.BLOCKED]) is Verdict.FAIL
    assert worst([]) is Verdict.PASS


def test_an_error_never_hides_a_defect() -> None:
    assert verdict_of([finding(Verdict.ERROR), finding(Verdict.FAIL)]) is Verdict.FAIL
    assert verdict_of([finding(Verdict.ERROR)]) is Verdict.ERROR
    assert verdict_of([finding(Verdict.LOST), finding(Verdict.FAIL)]) is Verdict.LOST


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([], 0),
        ([Verdict.PASS], 0),
        ([Verdict.PASS, Verdict.UNSUPPORTED], 0),
        ([Verdict.UNSUPPORTED, Verdict.BLOCKED], 4),
        ([Verdict.PASS, Verdict.FAIL], 1),
        ([Verdict.TOO_SLOW], 1),
        ([Verdict.LOST], 1),
        ([Verdict.ERROR, Verdict.PASS], 3),
        ([Verdict.ERROR, Verdict.FAIL], 1),
    ],
)
def test_exit_status(verdicts: list[Verdict], status: int) -> None:
    assert exit_status(verdicts) == status
