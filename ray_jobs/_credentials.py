"""MLflow's credentials on their way to a job: in two halves, each of which is noise.

Ray writes a job's environment variables into its nodes' logs (runtime_env_agent.log) and onto the command lines of the workers
that it starts, and shows a job's metadata on its dashboard. So the variables carry the credentials sealed with a one-time pad,
the metadata the pad; the driver, which has both, opens them.
"""

from __future__ import annotations

import json
import os
import secrets

NAMES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SEALED = "HARDNEG_SEALED"
PAD = "hardneg_pad"


def here() -> dict[str, str]:
    """Those that this process has."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def seal(values: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(environment variables, metadata) of a job; empty where there is nothing to seal."""
    if not values:
        return {}, {}
    text = json.dumps(values).encode()
    pad = secrets.token_bytes(len(text))
    return {SEALED: _xor(text, pad).hex()}, {PAD: pad.hex()}


def may_go_to(tracking_uri: str, known: str) -> bool:
    """Whether MLflow there may be asked: it is the one that is `known`, or a file, or nothing is here to be sent to it."""
    return not here() or tracking_uri.startswith("sqlite:") or tracking_uri.rstrip("/") == known.rstrip("/")


def unseal() -> None:
    """Puts a submitted job's credentials into this process's environment."""
    metadata = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata") or {}
    if SEALED in os.environ and PAD in metadata:
        os.environ |= json.loads(_xor(bytes.fromhex(os.environ[SEALED]), bytes.fromhex(metadata[PAD])))


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
