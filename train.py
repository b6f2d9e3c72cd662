"""Train, calibrate or fine-tune a recogniser from a configuration, then report on its integer file."""

import os
import sys

# oneDNN prepares every convolution anew for each shape and forgets the oldest of 1024; batches have more (read once, at
# the first convolution)
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

from qat.system.errors import UserError


def train(args: list[str]) -> None:
    """Parse, fit, evaluate (the `FinalEvaluation` callback), print."""
    from qat.cli.flags import HELP, preset_names
    from qat.cli.train import build_cli

    if not {"-h", "--help"}.isdisjoint(args):
        print(HELP.format(presets=", ".join(preset_names())))
        return
    run = build_cli(["--help" if item == "--help_all" else item for item in args])
    run.save_config()
    print(f"run folder: {run.run_folder}", flush=True)
    run.trainer.fit(run.model, datamodule=run.datamodule, ckpt_path=run.checkpoint)


if __name__ == "__main__":
    try:
        train(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
