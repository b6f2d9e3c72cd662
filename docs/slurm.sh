#!/bin/bash
# Trains on several GPUs of several nodes under SLURM, and resumes by itself after a time limit or preemption:
#   sbatch docs/slurm.sh --config configs/librispeech_crdnn.yaml --qat stochastic
# The folder of the project (with checkpoints/) must be one that all nodes see.
#SBATCH --job-name=speech-qat
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

run="slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}"
resume=()
[ -f "checkpoints/$run/last.ckpt" ] && resume=(--ckpt_path last)

srun .venv/bin/python train.py "$@" --run "$run" "${resume[@]}" --save_every_steps 500 \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.strategy ddp
status=$?

# SIGUSR1, two minutes before the time limit: the run has saved and left with 128 + 10
[ "$status" -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$status"
