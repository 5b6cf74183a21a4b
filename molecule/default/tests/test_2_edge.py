"""What answers from outside, and what does not."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import openai
import pytest
import requests
from endpoint import QUESTION


def test_the_seeds_own_request_gets_the_seeds_own_shape(endpoint: Any) -> None:
    response = endpoint.ask()
    answer = response.json()
    assert response.status_code == 200
    assert list(answer) == ["id", "object", "created", "model", "choices", "usage"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "vicuna"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_openai_client_chats_and_streams(endpoint: Any) -> None:
    client = openai.OpenAI(base_url=endpoint.url + "/v1", api_key=endpoint.key, timeout=60)
    assert [model.id for model in client.models.list()] == ["vicuna"]
    messages: Any = [{"role": "user", "content": 'Say "hello", \\ $HOME and grüß dich'}]
    answer = client.chat.completions.create(model="vicuna", messages=messages, max_tokens=24)
    assert answer.choices[0].message.content
    pieces = list(client.chat.completions.create(model="vicuna", messages=messages, max_tokens=24, stream=True))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text.strip()
    assert len(pieces) > 2


def test_embeddings_are_computed_beside_the_answers(endpoint: Any) -> None:
    """A batch of them, and the host stays well meanwhile."""
    client = openai.OpenAI(base_url=endpoint.url + "/v1", api_key=endpoint.key, timeout=60, max_retries=0)
    found = client.embeddings.create(model="vicuna", input=["one two three " * 100] * 8, encoding_format="float")
    assert len(found.data) == 8
    assert any(found.data[0].embedding)
    assert found.data[0].embedding == pytest.approx(found.data[7].embedding, abs=1e-3)
    assert requests.get(endpoint.url + "/health", timeout=10).status_code == 200


def test_a_stream_is_not_buffered(endpoint: Any) -> None:
    body = QUESTION | {"stream": True, "max_tokens": 200}
    with endpoint.request("POST", "/v1/chat/completions", json=body, stream=True) as response:
        chunks = [chunk for chunk in response.iter_content(chunk_size=None) if chunk]
    assert len(chunks) > 5, "the answer came in one piece"
    assert chunks[-1].strip().endswith(b"data: [DONE]")


@pytest.mark.parametrize("path", [
    "/api/v1/chat/completions", "/api/v1/token_check", "/docs", "/openapi.json", "/redoc", "/", "/register_worker",
    "/v1/../api/v1/token_check", "/v1/%2e%2e/docs", "//api/v1/chat/completions", "/V1/models", "/v1",
])  # fmt: skip
def test_everything_but_v1_is_refused(endpoint: Any, path: str) -> None:
    # A raw request: a client library would tidy the path.
    host, port = endpoint.url.removeprefix("http://").split(":")
    body = json.dumps(QUESTION)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {endpoint.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b'"not_found"' in answer


@pytest.mark.parametrize("authorization", [
    None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic KEY", "KEY", "Bearer KEYx", "Bearer HASH",
])  # fmt: skip
def test_no_answer_without_the_key(endpoint: Any, authorization: str | None) -> None:
    import hashlib

    headers = {}
    if authorization is not None:
        hashed = hashlib.sha256(endpoint.key.encode()).hexdigest()
        headers["Authorization"] = authorization.replace("KEY", endpoint.key).replace("HASH", hashed)
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
        response = requests.request(method, endpoint.url + path, headers=headers, json=QUESTION, timeout=30)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"


def test_the_body_is_limited(endpoint: Any) -> None:
    too_large = endpoint.request("POST", "/v1/chat/completions", data=b" " * 1048577)
    assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "request_too_large")
    chunked = endpoint.request("POST", "/v1/chat/completions", data=iter([json.dumps(QUESTION).encode()]))
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (411, "length_required")


def test_only_the_edge_answers_outside(host: Any) -> None:
    listening = host.check_output("ss -Hltn").splitlines()
    outside = {line.split()[3].rsplit(":", 1)[1] for line in listening if not line.split()[3].startswith("127.")}
    assert outside == {"22", "8000"}


@pytest.mark.parametrize("port", [21001, 21002])
def test_the_control_plane_answers_nobody(name: str, inventory: dict[str, Any], port: int) -> None:
    """Ask from every other host of the network, the hub among them, at the host's own address."""
    neighbours = [f"vicuna-sandbox-{other}" for other in inventory if other != name] + ["vicuna-sandbox-hub"]
    for neighbour in neighbours:
        for target, expected in ((8000, 0), (port, 7)):
            command = ["curl", "-s", "-o", "/dev/null", "--max-time", "5", f"http://{name}:{target}/"]
            result = subprocess.run(["docker", "exec", neighbour, *command], check=False, timeout=30)
            assert result.returncode == expected, f"{neighbour} -> {name}:{target}"


def test_vicuna_call(host: Any) -> None:
    answer = json.loads(host.check_output("vicuna-call 'It'\\''s \"quoted\" \\ $HOME'"))
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].strip()


def test_vicuna_chat(host: Any) -> None:
    result = host.run("printf 'Who are you?\\nAnd \"now\"?\\n' | vicuna-chat")
    assert result.rc == 0, result.stderr
    assert result.stdout.strip()
