"""Train, calibrate or fine-tune a recogniser from a configuration, then report on its integer file."""

import os
import sys

# oneDNN prepares a convolution for each shape and keeps the last 1024; batches have more (read once, at the first
# convolution)
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

from qat.cli.ending import run_command


def train(args: list[str]) -> None:
    """Parse, fit, evaluate (the `FinalEvaluation` callback), print; help and mistakes come before torch is imported."""
    from qat.cli.flags import help_text

    if not {"-h", "--help"}.isdisjoint(args):
        print(help_text())
        return
    from qat.cli.auto import keep, searched, split
    from qat.cli.check import check_arguments

    check_arguments(split(args)[0])
    args = searched(args)
    from qat.cli.train import build_cli
    from qat.system.lock import release

    try:
        run = build_cli(["--help" if item == "--help_all" else item for item in args])
        run.save_config()
        for path in keep(args, run.run_folder):
            print(f"search: {path}", flush=True)
        print(f"run folder: {run.run_folder}", flush=True)
        run.trainer.fit(run.model, datamodule=run.datamodule, ckpt_path=run.checkpoint)
    finally:
        release()  # of the run's folder


if __name__ == "__main__":
    run_command(train, sys.argv[1:])
