"""docs/slurm.sh, with stand-ins for SLURM's own programs: two nodes of one task, a time limit, a requeue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT

SRUN = """#!/bin/bash
# one task on each of two nodes; the status of the job is the largest of its tasks
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 "$@" >"log.$rank" 2>&1 &
    tasks[rank]=$!
done
status=0
for task in "${tasks[@]}"; do
    wait "$task" || { code=$?; [ $code -gt $status ] && status=$code; }
done
exit $status
"""
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "speech-qat",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NODELIST": "127.0.0.1",
}


def program(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crdnn"])
def test_a_job_that_ran_out_of_time_is_requeued_and_resumes(tiny: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["data"]["init_args"] |= {"max_batch_s": 2.5}
    content["trainer"] |= {
        "num_sanity_val_steps": 0,
        "callbacks": [
            {"class_path": "tests.test_kill.Signal", "init_args": {"step": 1, "number": 10, "rank": 1}}
        ],
    }
    content |= {"evaluation": {"enabled": False}, "wandb": {"enabled": False}}
    tiny.write_text(yaml.safe_dump(content))
    folder = tmp_path / "project"
    program(folder / ".venv/bin/python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    program(folder / "bin/srun", SRUN)
    program(folder / "bin/scontrol", '#!/bin/bash\necho "$@" >>requeued\n')
    (folder / "train.py").symlink_to(ROOT / "train.py")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    environment |= {**JOB, "PATH": f"{folder}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "docs/slurm.sh"), "--config", str(tiny), "--qat", "stochastic"]
    run = folder / "checkpoints" / "slurm-4711"

    def log() -> str:
        return (folder / "log.0").read_text() + (folder / "log.1").read_text()

    first = subprocess.run(command, cwd=folder, env=environment, timeout=120)
    assert first.returncode == 138, log()
    assert (folder / "requeued").read_text() == "requeue 4711\n"
    step = torch.load(run / "last.ckpt", weights_only=True)["global_step"]
    assert step == 2 and not (run / "model.ckpt").exists()

    second = subprocess.run(command, cwd=folder, env=environment, timeout=120)
    assert second.returncode == 0, log()
    last = torch.load(run / "last.ckpt", weights_only=True)
    assert last["processes"] == 2 and last["epoch"] == 0 and last["global_step"] > step
    assert (folder / "requeued").read_text() == "requeue 4711\n"
