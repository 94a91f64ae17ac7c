"""The benchmark of loading: it fails where the bench takes too long, and names the method."""

from __future__ import annotations

import pytest

from tests import bench_loading


def test_a_method_that_is_too_slow_fails_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_loading, "measure", lambda _name, method, *_: (10.0, 13.1 if method == "kexec" else 13.0))
    assert bench_loading.main(["grub"]) == 0
    assert capsys.readouterr().err == ""
    assert bench_loading.main([]) == 1
    said = "too slow: host-bios-grub by kexec: 1.31 times the recipe's time; at most 1.3 is allowed\n"
    assert capsys.readouterr().err == said
