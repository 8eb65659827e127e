"""``scepsy operate --act`` beside real vLLM on two cores: as with stubs in ``tests/executor/test_operate_live.py``."""

import os

import pytest

from executor.local.deployment import delete
from executor.local.options import LocalOptions, engine_python
from executor.profiler.instance import engine_version
from executor.random_models import write_model
from scepsy.errors import BackendError
from tests.executor.local_deployments import left
from tests.executor.operated import MODEL, Operated, whole_story

pytestmark = pytest.mark.engine


def test_real_engines_follow_the_load_whatever_is_killed(tmp_path):
    try:
        engine_version(engine_python(LocalOptions()))
    except BackendError as error:
        pytest.skip(f"no engine: {error}")
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("cores 0 and 1 are not here")
    model = write_model(MODEL, tmp_path / "models")
    config, away = model / "config.json", model / "config.json.away"
    one = Operated(tmp_path, engine_python(LocalOptions()), {MODEL.name: str(model)}, start_s=240.0)
    try:
        whole_story(one, lambda: config.rename(away), lambda: away.rename(config), quiet_s=8.0, wait_s=240.0)
    finally:
        delete(one.folder, 30)
    assert left(one.folder) == []
