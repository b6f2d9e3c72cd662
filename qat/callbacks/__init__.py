"""When things happen in a run: fold, calibrate, evaluate."""

from qat.callbacks.calibrate import Calibrate
from qat.callbacks.final_evaluation import FinalEvaluation
from qat.callbacks.fold import FoldBatchNorm
from qat.callbacks.plain_progress import PlainProgress

__all__ = ["Calibrate", "FinalEvaluation", "FoldBatchNorm", "PlainProgress"]
