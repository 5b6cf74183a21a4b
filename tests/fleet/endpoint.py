"""A host's edge as a client outside of the sandbox sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

QUESTION = {"model": "vicuna", "max_tokens": 24, "messages": [{"role": "user", "content": "Give me three numbers."}]}


@dataclass
class Endpoint:
    host: str
    url: str
    key: str
    patience: float = 60.0  # seconds for one request
    session: requests.Session = field(default_factory=requests.Session)

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | kwargs.pop("headers", {})
        return self.session.request(method, self.url + path, headers=headers, timeout=self.patience, **kwargs)

    def ask(self) -> requests.Response:
        return self.request("POST", "/v1/chat/completions", json=QUESTION)

    def answers(self) -> str:
        """What is wrong with the answer to a question; empty for a valid one."""
        try:
            response = self.ask()
            if response.status_code == 200 and response.json()["choices"][0]["message"]["content"].strip():
                return ""
            return f"{response.status_code} {response.text[:200]}"
        except (requests.RequestException, ValueError, KeyError) as error:
            return repr(error)

    def wait_for_answer(self, limit: float) -> float:
        """Return the seconds until the next valid answer; fail after ``limit``."""
        started = time.monotonic()
        last = "nothing was asked"
        while (waited := time.monotonic() - started) < limit:
            last = self.answers()
            if not last:
                return time.monotonic() - started
            time.sleep(0.5)
        return pytest.fail(f"no valid answer of {self.host} within {waited:.0f} s; the last: {last}")
