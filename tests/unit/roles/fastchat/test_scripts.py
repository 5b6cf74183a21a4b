# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real vicuna-chat and vicuna-call against a fake API: a scripted HTTP server on the loopback.

The bodies that it answers with have the shapes that FastChat 0.2.36 and the edge answer with.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).resolve().parents[4] / "roles" / "fastchat" / "files"
CALL = str(FILES / "vicuna-call")
CHAT = str(FILES / "vicuna-chat")
KEY = "sk-test-0123456789abcdef"

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("bash", "curl", "jq", "setsid")),
    reason="needs bash, curl, jq and setsid",
)

STRANGE = [
    """He said "it's" \\ and \\n and $(touch /tmp/never) `id` ${HOME} !! %s %d &amp; <b>""",
    "größe 你好 🦙 é",
    "-n --help -- -e",
    "*  two  spaces  ? [a-z] ~ # ; | > /dev/null",
    '{"role": "system"}',
    "\\",
    "  leading and trailing  ",
]


def completion(content: str = "1, 5 and 9", model: str = "vicuna", **changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-UFWP9BqDg3s7DDfc5eXLS3",
        "object": "chat.completion",
        "created": 1701329914,
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 51, "total_tokens": 81, "completion_tokens": 30},
        **changes,
    }


def error(message: str, code: int) -> dict[str, Any]:
    return {"object": "error", "message": message, "code": code}


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    body: dict[str, Any] = {"id": "chatcmpl-x", "model": "vicuna"}
    body["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
    if finish:
        body.update(object="chat.completion.chunk", created=1701329914)
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def spoken(*pieces: str, finish: str = "stop") -> list[Any]:
    """A whole streamed answer as FastChat sends it."""
    return [chunk({"role": "assistant"}), *(chunk({"content": p}) for p in pieces), chunk({}, finish), DONE]


class FakeApi:
    """Answers each request with the next of `replies`; keeps what it was asked.

    A reply is (status, body) or a list of a stream's pieces: bytes are sent, a float is a pause in seconds and an
    Event is waited for. `cut` breaks a stream's framing at its end, as a dying server does.
    """

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cut = False
        self.seen_processes = ""
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None: ...

            def do_POST(self) -> None:
                api.seen_processes += processes()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api.requests.append(json.loads(body))
                api.headers.append({**{k.lower(): v for k, v in self.headers.items()}, "path": self.path})
                reply = api.replies.pop(0) if api.replies else (599, {"message": "the fake API has no reply left"})
                try:
                    if isinstance(reply, list):
                        self.stream(reply)
                    else:
                        status, payload = reply
                        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                        self.send_response(status)
                        self.send_header("Content-Length", str(len(data)))
                        self.end_headers()
                        self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def stream(self, pieces: list[Any]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in pieces:
                    if isinstance(piece, float):
                        time.sleep(piece)
                    elif isinstance(piece, threading.Event):
                        piece.wait(10)
                    else:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                if api.cut:
                    self.close_connection = True
                else:
                    self.wfile.write(b"0\r\n\r\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def questions(self) -> list[list[str]]:
        return [[message["content"] for message in request["messages"]] for request in self.requests]


def processes() -> str:
    """The arguments of every process, and the environment of every curl and jq: what others, or a dump, could see."""
    seen = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes()
            name = arguments.split(b"\0")[0].rsplit(b"/", 1)[-1]
            environment = (entry / "environ").read_bytes() if name in (b"curl", b"jq") else b""
        except OSError:
            continue
        seen.append((arguments + environment).replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(seen)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def environment(api: FakeApi, tmp_path: Path) -> dict[str, str]:
    settings = tmp_path / "client.env"
    settings.write_text(f"# made by a test\nVICUNA_URL={api.url}\nVICUNA_MODEL=vicuna\n\nVICUNA_API_KEY={KEY}\n")
    settings.chmod(0o600)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # A proxy that answers nothing: the loopback must be asked without it.
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "TERM": "xterm",
        "VICUNA_CLIENT_ENV": str(settings),
        "http_proxy": "http://127.0.0.1:9",
    }


def run(environment: dict[str, str], *command: str, text: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, input=text, env=environment, capture_output=True, encoding="utf-8", timeout=20, check=False, **options
    )
    assert list(Path(environment["TMPDIR"]).iterdir()) == [], "a temporary file was left"
    return done


# vicuna-call


def test_call_asks_the_seeds_question_and_prints_the_raw_answer(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(200, completion())]
    done = run(environment, CALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == json.dumps(completion()) + "\n"
    assert api.headers[0]["path"] == "/v1/chat/completions"
    assert api.headers[0]["authorization"] == f"Bearer {KEY}"
    assert api.requests == [
        {
            "model": "vicuna",
            "messages": [{"role": "user", "content": "Give me three numbers between 1 and 10"}],
            "max_tokens": 512,
        }
    ]


def test_call_takes_its_options_in_any_order(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(200, completion(content="7", model="other"))]
    options = ["--model=other", "hello", "--max-tokens", "16", "--temperature", "0.5", "--text", "--timeout", "20"]
    done = run(environment, CALL, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
    message = {"role": "user", "content": "hello"}
    assert api.requests == [{"model": "other", "messages": [message], "max_tokens": 16, "temperature": 0.5}]


@pytest.mark.parametrize("question", [*STRANGE, "two\nlines", "tab\tand \x01"])
def test_call_sends_any_characters_as_they_are(api: FakeApi, environment: dict[str, str], question: str) -> None:
    api.replies = [(200, completion(content=question))]
    done = run(environment, CALL, "--text", "--", question)
    assert (done.returncode, done.stdout) == (0, question + "\n"), done.stderr
    assert api.questions() == [[question]]


def test_call_reads_a_question_from_standard_input(api: FakeApi, environment: dict[str, str]) -> None:
    question = "\n".join(STRANGE)
    api.replies = [(200, completion(content=question))]
    done = run(environment, CALL, "--text", "-", text=question + "\n")
    assert (done.returncode, done.stdout) == (0, question + "\n"), done.stderr
    assert api.questions() == [[question]]


def test_call_sends_a_question_larger_than_an_argument_may_be(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(200, completion())]
    question = "llama " * 200_000
    assert run(environment, CALL, "-", text=question).returncode == 0
    assert api.questions() == [[question]]


def test_environment_wins_over_the_file(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(200, completion(model="mine"))]
    environment = {**environment, "VICUNA_MODEL": "mine", "VICUNA_API_KEY": "sk-mine"}
    assert run(environment, CALL).returncode == 0
    assert api.requests[0]["model"] == "mine"
    assert api.headers[0]["authorization"] == "Bearer sk-mine"
    assert "sk-mine" not in api.seen_processes


@pytest.mark.parametrize(
    ("line", "given", "asked"),
    [
        ("MODEL_NAMES=mine,other", {}, "mine"),
        ("MODEL_NAMES=$(exit)", {}, "$(exit)"),
        ("MODEL_PATH=/m", {}, "vicuna"),
        ("MODEL_NAMES=mine", {"VICUNA_MODEL": "yours"}, "yours"),
    ],
)
def test_the_releases_own_settings_name_the_model(
    api: FakeApi, environment: dict[str, str], line: str, given: dict[str, str], asked: str
) -> None:
    settings = Path(environment["VICUNA_CLIENT_ENV"])
    settings.write_text(f"VICUNA_URL={api.url}\nVICUNA_API_KEY={KEY}\n")
    (settings.parent / ".env").write_text(f"# made by a test\n{line}\n")
    api.replies = [(200, completion(model=asked))]
    assert run({**environment, **given}, CALL).returncode == 0
    assert api.requests[0]["model"] == asked


def test_no_key_sends_no_header(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(200, completion())]
    assert run({**environment, "VICUNA_API_KEY": ""}, CALL).returncode == 0
    assert "authorization" not in api.headers[0]


def test_the_settings_are_parsed_and_never_run(api: FakeApi, environment: dict[str, str], tmp_path: Path) -> None:
    trap = tmp_path / "scratch" / "trap"
    Path(environment["VICUNA_CLIENT_ENV"]).write_text(
        f"touch {trap}\nPATH=/nowhere\n"
        f"VICUNA_URL={api.url}\nVICUNA_MODEL=$(touch {trap})\nVICUNA_API_KEY=a=b;touch {trap}\n"
    )
    api.replies = [(200, completion(model=f"$(touch {trap})"))]
    assert run(environment, CALL).returncode == 0
    assert api.headers[0]["authorization"] == f"Bearer a=b;touch {trap}"
    assert api.requests[0]["model"] == f"$(touch {trap})"


@pytest.mark.parametrize("script", [CALL, CHAT])
def test_unreadable_settings_say_sudo(environment: dict[str, str], script: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        Path(environment["VICUNA_CLIENT_ENV"]).chmod(0)
        done = run(environment, script)
    else:
        # To root every file is readable: ask as another user, from a place that this user can reach.
        with_access = Path("/tmp") / f"vicuna-scripts-{os.getpid()}"
        shutil.copytree(FILES, with_access, copy_function=shutil.copy, ignore=lambda *_: [])
        with_access.chmod(0o755)
        try:
            done = run(environment, str(with_access / Path(script).name), user=65534, group=65534, cwd="/")
        finally:
            shutil.rmtree(with_access)
    assert done.returncode == 1
    assert "run it with sudo" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told that the file is missing")
def test_missing_settings_are_said_to_root(environment: dict[str, str]) -> None:
    done = run({**environment, "VICUNA_CLIENT_ENV": "/nonexistent/client.env"}, CALL)
    assert done.returncode == 1
    assert "/nonexistent/client.env is missing" in done.stderr


FAILURES = [
    pytest.param(
        400, error("Only  allowed now, your model vicuna", 40301), "No worker serves the model yet", id="loading"
    ),
    pytest.param(400, error("Only llama allowed now, your model vicuna", 40301), "asked was vicuna", id="other-name"),
    pytest.param(
        400, error("This model's maximum context length is 16 tokens.", 40303), "context (40303)", id="too-long"
    ),
    pytest.param(400, error("2.5 is not in range", 40302), "code 40302: 2.5 is not in range", id="bad-parameter"),
    pytest.param(400, error("NETWORK ERROR DUE TO HIGH TRAFFIC.", 50002), "out of memory", id="out-of-memory"),
    pytest.param(
        503, error("The api-server of this host hangs.", 50006), "The api-server of this host hangs.", id="hung"
    ),
    pytest.param(400, error("INTERNAL SERVER ERROR", 50001), "The worker died", id="killed-in-an-answer"),
    pytest.param(401, {"detail": {"error": {"code": "invalid_api_key"}}}, "key was refused", id="fastchats-401"),
    pytest.param(401, {"error": {"message": "no", "code": "invalid_api_key"}}, "key was refused", id="edges-401"),
    pytest.param(404, {"error": {"message": "no such path"}}, "without /v1", id="404"),
    pytest.param(413, {"error": {"message": "at most 1 MiB"}}, "too large for the edge (413): at most 1 MiB", id="413"),
    pytest.param(429, b"", "Too many requests", id="429"),
    pytest.param(500, b"Internal Server Error", "registering or has just died", id="500"),
    pytest.param(502, b"<html>", "registering or has just died (502)", id="502"),
    pytest.param(503, {"error": {"message": "down", "code": "service_unavailable"}}, "API server is down", id="503"),
    pytest.param(504, b"<html>", "too long (504)", id="504"),
    pytest.param(407, b"<html>", "HTTP 407", id="proxy"),
]


@pytest.mark.parametrize(("status", "body", "words"), FAILURES)
def test_a_failure_is_told_in_words(
    api: FakeApi, environment: dict[str, str], status: int, body: Any, words: str
) -> None:
    api.replies = [(status, body)]
    done = run(environment, CALL)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_chat_tells_the_same_failures_and_goes_on(api: FakeApi, environment: dict[str, str]) -> None:
    cases = [case.values for case in FAILURES[::3]]
    api.replies = [(status, body) for status, body, _words in cases]
    done = run(environment, CHAT, text="hello\n" * len(cases))
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()
    assert len(said) == len(cases)
    for line, (_status, _body, words) in zip(said, cases):
        assert str(words) in line


INVALID = [
    pytest.param(completion(object="text_completion"), 'object is "text_completion"', id="object"),
    pytest.param(completion(id=None), "id is null", id="id"),
    pytest.param(completion(created="now"), 'created is "now"', id="created"),
    pytest.param(completion(model="llama"), 'model is "llama", asked was "vicuna"', id="model"),
    pytest.param(completion(choices=[]), "choices is empty", id="no-choices"),
    pytest.param(completion(choices=None), "choices is empty", id="choices-null"),
    pytest.param(completion(choices=["x"]), "a choice has no message", id="choice-is-text"),
    pytest.param(completion(content=" \n"), "the content is empty", id="blank"),
    pytest.param(completion(usage={"prompt_tokens": 1}), "usage is", id="usage"),
    pytest.param([completion()], "no JSON object", id="list"),
    pytest.param(b"<html>hello</html>", "no JSON object", id="html"),
    pytest.param(b"", "no JSON object", id="nothing"),
]


@pytest.mark.parametrize(("body", "words"), INVALID)
def test_a_200_that_is_no_completion_fails(api: FakeApi, environment: dict[str, str], body: Any, words: str) -> None:
    api.replies = [(200, body)]
    done = run(environment, CALL)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


@pytest.mark.parametrize("command", [(CALL,), (CHAT,)])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{closed}", "Nothing answers"),
        ("https://127.0.0.1:{open}", "TLS with"),
        ("http://host.invalid:8000", "is unknown"),
        ("vicuna:8000", "no http(s) URL"),
    ],
)
def test_no_connection_is_told_in_words(
    api: FakeApi, environment: dict[str, str], command: tuple[str, ...], url: str, words: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = url.format(closed=unused.getsockname()[1], open=api.server.server_port)
        environment = {**environment, "VICUNA_URL": url, "no_proxy": "host.invalid"}
        done = run(environment, *command, text="hello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_a_silent_server_is_given_up(api: FakeApi, environment: dict[str, str]) -> None:
    never = threading.Event()
    api.replies = [[never], [never]]
    with ThreadPoolExecutor() as both:
        # curl needs some seconds more than the 1 to call a stream silent.
        for done in both.map(lambda script: run(environment, script, "--timeout", "1", text="hello\n"), (CALL, CHAT)):
            assert done.returncode == 1
            assert "in time" in done.stderr
    never.set()


@pytest.mark.parametrize(
    "arguments",
    [
        (CALL, "--nonsense"),
        (CALL, "-5 + 3"),
        (CALL, "two", "questions"),
        (CALL, "--model"),
        (CALL, "--max-tokens", "0"),
        (CALL, "--temperature", "hot"),
        (CALL, "--timeout", "-1"),
        (CALL, ""),
        (CHAT, "a question"),
        (CHAT, "--text"),
    ],
)
def test_wrong_usage_exits_2(api: FakeApi, environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    assert run(environment, *arguments).returncode == 2
    assert api.requests == []


@pytest.mark.parametrize("script", [CALL, CHAT])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(environment: dict[str, str], script: str, flag: str) -> None:
    done = run(environment, script, flag)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: vicuna-")


# vicuna-chat, from a pipe


def test_chat_answers_each_line_and_keeps_the_history(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [spoken("One", " two\n", "three"), spoken("back\\slash $(id) %s\n"), spoken("last")]
    done = run(environment, CHAT, "--temperature", "0", text="first\n\n  \nsecond\nthird without a newline")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "One two\nthree\nback\\slash $(id) %s\nlast\n"
    assert api.questions() == [
        ["first"],
        ["first", "One two\nthree", "second"],
        ["first", "One two\nthree", "second", "back\\slash $(id) %s\n", "third without a newline"],
    ]
    assert [m["role"] for m in api.requests[2]["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert all(r["stream"] is True and r["max_tokens"] == 512 and r["temperature"] == 0 for r in api.requests)


def test_chat_sends_any_characters_as_they_are(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [spoken(question) for question in STRANGE]
    done = run(environment, CHAT, text="".join(f"{question}\n" for question in STRANGE))
    assert done.returncode == 0, done.stderr
    assert [asked[-1] for asked in api.questions()] == STRANGE
    assert done.stdout == "".join(f"{question}\n" for question in STRANGE)


def test_chat_keeps_a_history_larger_than_an_argument_may_be(api: FakeApi, environment: dict[str, str]) -> None:
    long = "llama " * 100_000
    api.replies = [spoken(long), spoken("ok")]
    done = run(environment, CHAT, text="first\nsecond\n")
    assert done.returncode == 0, done.stderr
    assert api.questions()[1] == ["first", long, "second"]


def test_chat_prints_the_text_as_it_comes(api: FakeApi, environment: dict[str, str]) -> None:
    rest = threading.Event()
    api.replies = [[chunk({"role": "assistant"}), chunk({"content": "early"}), rest, *spoken(" late")]]
    with subprocess.Popen(
        [CHAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, encoding="utf-8"
    ) as chat:
        assert chat.stdin and chat.stdout
        chat.stdin.write("hello\n")
        chat.stdin.close()
        assert select.select([chat.stdout], [], [], 10)[0], "nothing was printed before the stream's end"
        assert os.read(chat.stdout.fileno(), 5) == b"early"
        rest.set()
        assert os.read(chat.stdout.fileno(), 100).strip() == b"late"
        assert chat.wait(10) == 0


CUT = [
    pytest.param([chunk({"content": "half"})], False, "half\n", id="ended-in-order"),
    pytest.param([chunk({"content": "half"})], True, "half\n", id="connection-lost"),
    pytest.param([], False, "", id="nothing-at-all"),
    pytest.param([], True, "", id="lost-at-once"),
]


@pytest.mark.parametrize(("pieces", "cut", "printed"), CUT)
def test_a_stream_without_done_is_a_failure(
    api: FakeApi, environment: dict[str, str], pieces: list[bytes], cut: bool, printed: str
) -> None:
    api.cut = cut
    api.replies = [[*pieces, 0.05]]
    done = run(environment, CHAT, text="hello\n")
    assert (done.returncode, done.stdout) == (1, printed)
    assert "The answer was cut off: the stream ended without [DONE]" in done.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"text": "**NETWORK ERROR DUE TO HIGH TRAFFIC**", "error_code": 50001}, "The worker died or failed"),
        ({"text": "**NETWORK ERROR DUE TO HIGH TRAFFIC**", "error_code": 50002}, "out of memory"),
        ({"object": "error", "message": "no", "code": 50004}, "The worker died or failed"),
        ({"error": {"message": "a reason", "code": "odd"}}, "a reason"),
    ],
)
def test_an_error_inside_a_stream_is_a_failure(
    api: FakeApi, environment: dict[str, str], data: dict[str, Any], words: str
) -> None:
    api.replies = [[chunk({"content": "half"}), b"data: " + json.dumps(data).encode() + b"\n\n", DONE]]
    done = run(environment, CHAT, text="hello\n")
    assert (done.returncode, done.stdout) == (1, "half\n")
    assert words in done.stderr


def test_an_empty_stream_is_a_failure(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [spoken()]
    done = run(environment, CHAT, text="hello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the model said nothing" in done.stderr


def test_a_page_in_place_of_a_stream_is_a_failure(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(200, b"<html>log in first</html>")]
    done = run(environment, CHAT, text="hello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is a proxy in between?" in done.stderr


def test_a_failed_question_is_not_remembered_and_the_next_is_asked(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(500, b"Internal Server Error"), spoken("fine")]
    done = run(environment, CHAT, text="first\nsecond\n")
    assert (done.returncode, done.stdout) == (1, "fine\n")
    assert api.questions() == [["first"], ["second"]]


@pytest.mark.parametrize("reply", [(400, error("too long", 40303)), (413, {"error": {"message": "too large"}})])
def test_an_outgrown_history_loses_its_oldest_exchanges(
    api: FakeApi, environment: dict[str, str], reply: tuple[int, Any]
) -> None:
    api.replies = [spoken("1"), spoken("2"), spoken("3"), reply, reply, spoken("4"), spoken("5")]
    done = run(environment, CHAT, text="a\nb\nc\nd\ne\n")
    assert (done.returncode, done.stdout) == (0, "1\n2\n3\n4\n5\n")
    assert "oldest exchanges are forgotten, 2 in all" in done.stderr
    assert api.questions()[3:] == [
        ["a", "1", "b", "2", "c", "3", "d"],
        ["b", "2", "c", "3", "d"],
        ["c", "3", "d"],
        ["c", "3", "d", "4", "e"],
    ]


def test_a_single_question_that_is_too_long_fails(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [(400, error("maximum context length is 16", 40303))]
    done = run(environment, CHAT, text="a\n")
    assert done.returncode == 1
    assert "does not fit" in done.stderr
    assert len(api.requests) == 1


def test_chat_commands(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [spoken("1"), spoken("2"), spoken("3")]
    done = run(environment, CHAT, text="a\n/reset\nb\n/help\n/etc/passwd is a file\n/quit\nnever\n")
    assert (done.returncode, done.stdout) == (0, "1\n2\n3\n")
    assert "Usage: vicuna-chat" in done.stderr
    assert api.questions() == [["a"], ["b"], ["b", "2", "/etc/passwd is a file"]]


def test_a_limited_answer_is_said_to_be_limited(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [spoken("and so on", finish="length")]
    done = run(environment, CHAT, text="a\n")
    assert (done.returncode, done.stdout) == (0, "and so on\n")
    assert "--max-tokens" in done.stderr


def test_neither_key_nor_question_stands_in_anyones_arguments(api: FakeApi, environment: dict[str, str]) -> None:
    api.replies = [spoken("1"), spoken("2"), (200, completion())]
    assert run(environment, CHAT, text="a-secret-question\nanother\n").returncode == 0
    assert run(environment, CALL, "-", text="a-secret-question").returncode == 0
    assert "curl" in api.seen_processes
    assert KEY not in api.seen_processes
    assert "a-secret-question" not in api.seen_processes


# vicuna-chat, at a terminal


class Terminal:
    """vicuna-chat with a pseudo-terminal as its controlling terminal."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.master, slave = os.openpty()
        # A terminal's shell has Ctrl-C in force; what a shell puts into the background, these tests maybe, has not.
        command = ["env", "--default-signal=INT", "setsid", "--ctty", CHAT]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
        )
        os.close(slave)
        self.screen = ""
        self.seen = 0

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, words: str, seconds: float = 10) -> str:
        """Everything on the screen since the last call, up to and with the words."""
        end = time.monotonic() + seconds
        while words not in self.screen[self.seen :]:
            assert time.monotonic() < end, f"never saw {words!r} in {self.screen[self.seen :]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    end = 0
        start, self.seen = self.seen, self.screen.index(words, self.seen) + len(words)
        return self.screen[start : self.seen]

    def ask(self, keys: str) -> None:
        # Readline draws the prompt again when Enter is pressed; only a new prompt turns bracketed paste on.
        self.wait_for("\x1b[?2004hyou> ")
        self.type(keys)

    def leave(self) -> int:
        self.ask("\x04")
        return self.process.wait(10)


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Terminal]:
    made = Terminal(environment)
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.master)


def test_terminal_converses_and_ctrl_d_leaves(api: FakeApi, terminal: Terminal) -> None:
    api.replies = [spoken("Hi", " there"), spoken("Bye")]
    terminal.ask("hello\r")
    assert "vicuna> " in terminal.wait_for("Hi there")
    terminal.ask("grüße 你\r")
    terminal.wait_for("Bye")
    assert terminal.leave() == 0
    assert api.questions() == [["hello"], ["hello", "Hi there", "grüße 你"]]


def test_terminal_edits_a_line(api: FakeApi, terminal: Terminal) -> None:
    api.replies = [spoken("1"), spoken("2")]
    terminal.ask("helo\x1b[Dl\r")  # the cursor goes one to the left
    terminal.ask("\x1b[A!\r")  # the question before, with one more character
    assert terminal.leave() == 0
    assert [asked[-1] for asked in api.questions()] == ["hello", "hello!"]


def test_terminal_takes_a_pasted_text_as_one_question(api: FakeApi, terminal: Terminal) -> None:
    api.replies = [spoken("1")]
    terminal.ask("\x1b[200~def f():\n    return '\\n' \"$(id)\"\n\x1b[201~\r")
    terminal.wait_for("vicuna> 1")
    assert terminal.leave() == 0
    assert api.questions() == [["def f():\n    return '\\n' \"$(id)\"\n"]]


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(api: FakeApi, terminal: Terminal) -> None:
    never = threading.Event()
    api.replies = [spoken("kept"), [chunk({"content": "endless"}), never], spoken("again")]
    terminal.ask("first\r")
    terminal.ask("second\r")
    terminal.wait_for("endless")
    started = time.monotonic()
    terminal.type("\x03")
    terminal.wait_for("stopped")
    assert time.monotonic() - started < 2
    terminal.ask("third\r")
    terminal.wait_for("again")
    assert terminal.leave() == 0
    never.set()
    assert api.questions()[2] == ["first", "kept", "third"]


def test_ctrl_c_at_the_prompt_drops_the_line(api: FakeApi, terminal: Terminal) -> None:
    api.replies = [spoken("fine")]
    terminal.ask("not this")
    terminal.wait_for("not this")
    time.sleep(0.3)  # in the instant before it waits for the next key, bash takes Ctrl-C only with that key
    terminal.type("\x03")
    terminal.ask("but this\r")
    terminal.wait_for("fine")
    assert terminal.leave() == 0
    assert api.questions() == [["but this"]]


def test_a_failure_at_the_terminal_does_not_end_the_conversation(api: FakeApi, terminal: Terminal) -> None:
    api.replies = [(500, b"Internal Server Error"), spoken("fine")]
    terminal.ask("first\r")
    terminal.wait_for("registering or has just died")
    terminal.ask("second\r")
    terminal.wait_for("fine")
    assert terminal.leave() == 0


def test_an_answer_cannot_steer_the_terminal(api: FakeApi, terminal: Terminal) -> None:
    api.replies = [spoken("red: \x1b[31m, title: \x1b]0;x\x07, bell \x9b end")]
    terminal.ask("hello\r")
    answer = re.sub(r"\A.*vicuna> ", "", terminal.wait_for(" end"), flags=re.DOTALL)
    assert answer == "red: [31m, title: ]0;x, bell  end"
    assert terminal.leave() == 0
