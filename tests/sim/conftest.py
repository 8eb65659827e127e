"""What the simulator's tests share."""

from __future__ import annotations

from functools import partial

import pytest


@pytest.fixture(params=["simpy", "compiled"])
def on_both_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module's ``simulate`` runs each engine in turn, unless a test says which."""
    engine: str = request.param
    monkeypatch.setattr(request.module, "simulate", partial(request.module.simulate, engine=engine))
    return engine
