"""dask.distributed's executor runs the crash laboratory's recoveries: the same answer as one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu import guest
from emu.config import BackendConfig, MachineConfig, NvdimmConfig
from emu.persistence.lab.investigation import Question, investigate
from emu.persistence.report.document import document
from emu.persistence.report.symbols import Symbols
from emu.units import MIB

distributed = pytest.importorskip("distributed", reason="pip install 'emu[cluster]'")


@pytest.mark.filterwarnings("default")
def test_a_local_cluster_gives_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emu.persistence.lab import jobs

    monkeypatch.setattr(jobs, "_WORTH_SENDING", 1)
    image = guest.find("list-broken")
    assert image is not None
    backend = BackendConfig(id="m", path=str(tmp_path / "pool.img"), size=2 * MIB, share=True)
    config = MachineConfig(image=str(image.path), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=32 * MIB)
    question = Question(config, config)
    alone = document(investigate(question), Symbols())
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        together = document(investigate(question, executor=client.get_executor()), Symbols())
    assert together == alone
    assert alone["executed"] > 5
