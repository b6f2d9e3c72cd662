"""Whether Weights & Biases is available: online, offline or not at all; never asks, never waits long."""

from __future__ import annotations

import netrc
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["online", "offline", "disabled"]
NETWORK_TIMEOUT_S = 3.0


def choose_mode(offline: bool | None) -> tuple[Mode, str]:
    """The mode and why, without a prompt and without waiting long."""
    if not installed():
        return "disabled", "wandb is not installed"
    wanted = os.environ.get("WANDB_MODE", "").lower()
    wanted = {"dryrun": "offline", "run": "online", "shared": "online"}.get(wanted, wanted)
    if wanted == "offline":
        return "offline", "WANDB_MODE=offline"
    if wanted == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    if offline:
        return "offline", "as asked"
    if not has_key():
        return "offline", "no W&B key is stored; `wandb sync` uploads later"
    if not server_answers():
        return "offline", "the W&B server does not answer; `wandb sync` uploads later"
    return "online", f"WANDB_MODE={wanted}" if wanted else "a key is stored"


def installed() -> bool:
    """Whether wandb can be imported."""
    try:
        return find_spec("wandb") is not None
    except ValueError:  # what stands for it in sys.modules is no module
        return False


def has_key() -> bool:
    """Whether a key is stored where wandb looks for one (nothing is read but that)."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(server()[0]) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server() -> tuple[str, int]:
    """Host and port of the W&B server."""
    import wandb

    address = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)
    return address.hostname or "localhost", address.port or (80 if address.scheme == "http" else 443)


def server_answers() -> bool:
    """Whether the server (or the proxy before it, which is then trusted) accepts a connection in seconds."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    try:
        socket.create_connection(server(), timeout=NETWORK_TIMEOUT_S).close()
    except OSError:
        return False
    return True
