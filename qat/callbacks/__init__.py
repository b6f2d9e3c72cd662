"""When things happen in a run: fold, calibrate, round, save, evaluate."""

from qat.callbacks.ada_round import AdaRound
from qat.callbacks.agreement import RanksAgree
from qat.callbacks.calibrate import Calibrate
from qat.callbacks.final_evaluation import FinalEvaluation
from qat.callbacks.fold import FoldBatchNorm
from qat.callbacks.plain_progress import PlainProgress
from qat.callbacks.resumable import Resumable, Stopped

__all__ = [
    "AdaRound",
    "Calibrate",
    "FinalEvaluation",
    "FoldBatchNorm",
    "PlainProgress",
    "RanksAgree",
    "Resumable",
    "Stopped",
]
