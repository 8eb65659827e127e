"""``scepsy operate --act`` as a process beside stub engines (``tests/engine/test_operate.py``: real ones)."""

import pytest

from executor.local.deployment import delete
from tests.executor.local_deployments import left, program
from tests.executor.operated import Operated, whole_story


@pytest.mark.slow
def test_the_load_changes_and_the_plan_with_it_whatever_is_killed(tmp_path, record_property) -> None:
    record_property("fault", "kill -9 of scepsy operate beside a deployment that serves ×3")
    refuse = tmp_path / "refuse"
    one = Operated(tmp_path, program(tmp_path, f"[ -e {refuse} ] && exit 7\nexport STUB_DELAY_S=0.2"))
    try:
        whole_story(one, refuse.touch, refuse.unlink, quiet_s=8.0, wait_s=60.0)
    finally:
        delete(one.folder, 5)
    assert left(one.folder) == []
