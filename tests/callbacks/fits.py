"""A short fit with the callbacks that change a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from datamodules.base import SpeechDataModule
from qat.callbacks.calibrate import Calibrate
from qat.callbacks.fold import FoldBatchNorm
from qat.models.ctc import CTCModule


def fit(
    model: CTCModule,
    data: SpeechDataModule,
    folder: Path | None = None,
    ckpt_path: str | None = None,
    **arguments: Any,
) -> L.Trainer:
    trainer = L.Trainer(
        **{"max_steps": 3, "accelerator": "cpu", **arguments},
        callbacks=[FoldBatchNorm(), Calibrate(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer
