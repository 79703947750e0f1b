"""What ``--set`` says of a word that it cannot take: which setting, what is wrong, and what to do."""

from __future__ import annotations

import pytest

from harness.cases.ask import Words, requests_of
from harness.model.errors import UsageError


@pytest.mark.parametrize(
    ("word", "says", "hint"),
    [
        ("memory_mb=64", "memory_mb: unknown name", "did you mean memory_mib?"),
        ("protection.cache=true", "protection.cache: unknown name", "did you mean protection.caches?"),
        ("memory-mib=64", "memory-mib: unknown name", "did you mean memory_mib?"),
        ("capabilities.return-path=perhaps", "capabilities.return-path: Input should be a valid boolean", "cvmig plan"),
        ("zzz=1", "zzz: unknown name", "known names: memory_mib, "),
        ("protection.zzz=1", "protection.zzz: unknown name", "known names: policy, "),
        ("trim_kib=soon", "trim_kib: should be auto, or 0 to 1024 in steps of 8", "cvmig plan CASE"),
        ("trim_kib=3", "trim_kib: should be auto, or 0 to 1024 in steps of 8", "cvmig plan CASE"),
        ("capabilities.xbzrle=perhaps", "capabilities.xbzrle: Input should be a valid boolean", "cvmig plan CASE"),
    ],
)
def test_a_bad_word_is_told_in_one_line(word: str, says: str, hint: str) -> None:
    with pytest.raises(UsageError) as told:
        requests_of(["memory/precopy"], Words(sets=(word,)))
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert told.value.hint.startswith(hint)
