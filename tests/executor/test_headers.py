"""Headers that no writer can send are dropped on both ways, whether the name or the value holds the control character."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from executor.gateway.headers import forwarded, returned
from executor.gateway.keys import KeyRing


@pytest.mark.parametrize(("name", "value"), [("x-note", "a\x01b"), ("x-\x7fnote", "plain"), ("x-note", "a\nx-other: b")])
def test_a_control_character_drops_its_header_and_no_other(name: str, value: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict({name: value, "x-kept": "yes", "x-city": "Zürich"}))
    assert dict(forwarded(headers, KeyRing([]))) == {"x-kept": "yes", "x-city": "Zürich"}
    assert dict(returned(headers, "m-0")) == {"x-kept": "yes", "x-city": "Zürich", "x-scepsy-instance": "m-0"}
