"""The host of this scenario, and a look at it that two moments can be compared by."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import scenario

HOST = scenario.SERVING[0]
PORT = scenario.HOSTS["serving"]["hosts"][HOST]["sandbox_api_port"]
LOOK = Path(__file__).with_name("look.py").read_text(encoding="utf-8")


def look() -> dict[str, Any]:
    """What lies on the host, what runs there, and which process has read another file than the one that lies there."""
    command = ["docker", "exec", "-i", f"vicuna-sandbox-{HOST}", "python3", "-"]
    done = subprocess.run(command, input=LOOK, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
