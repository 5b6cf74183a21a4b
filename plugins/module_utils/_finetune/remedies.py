# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What mends a dataset that cannot be used: commands for sh that a person can copy. Private to the collection.

Each command stands in one table, and a test runs each of them on a file that provokes it. They are written for jq 1.6
and later, GNU coreutils, and Python 3. No import beside the standard library.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

# What other formats call the two speakers. FastChat's own cleaning of ShareGPT knows most of them.
HUMAN = ("user", "prompter", "question", "instruction", "input", "me", "human")
GPT = (
    "assistant",
    "chatgpt",
    "gpt-4",
    "gpt4",
    "bing",
    "bard",
    "bot",
    "model",
    "ai",
    "answer",
    "output",
    "vicuna",
    "gpt",
)
SYSTEM = ("system", "developer")
SPEAKER_KEYS = ("from", "role", "speaker")
TEXT_KEYS = ("value", "content", "text")


class Remedy(NamedTuple):
    """What a command does, with what it drops; without a command, what a person has to decide.

    ``{file}`` is the file, ``{to}`` what is made of it, and other names are given by who found the fault. The
    command's output is the new file, unless the command is ``complete``.
    """

    words: str
    command: str = ""
    complete: bool = False


def _names(names: tuple[str, ...]) -> str:
    return rf'test("^\\s*({"|".join(names)})\\s*$";"i")'


def _first(names: tuple[str, ...]) -> str:
    return "//".join(f".{name}" for name in names)


# jq: the dialogues of a file one after the other, however deep the lists are that they stand in. A list of turns is a
# dialogue.
_ROWS = (
    'def rows: if type=="string" then fromjson|rows elif type=="array" then '
    'if any(.[]; type=="object" and (has("from") or has("role"))) then {conversations:.} else .[]|rows end else . end; '
)
# jq: turns as the check wants them. What it does not know stays as it is, and is named by the check.
_TURNS = (
    'def turns: (if type=="string" then fromjson? // . else . end)'
    ' | if type!="array" or any(.[]; type!="object") then . else'
    f" map(if ({_first(SPEAKER_KEYS)})!=null then . else to_entries[]|{{from:.key,value}} end"
    f' | {{from:({_first(SPEAKER_KEYS)} | if type!="string" then . elif {_names(HUMAN)} then "human"'
    f' elif {_names(GPT)} then "gpt" elif {_names(SYSTEM)} then "system" else . end),'
    f' value:({_first(TEXT_KEYS)} | if type=="array" and all(.[]; type=="string" or (.text?|type)=="string")'
    ' then map(.text? // .)|join("\\n") else . end)})'
    ' | reduce .[] as $t ({s:"",o:[]}; if ($t.value|type)!="string" then .o+=[$t]'
    ' elif $t.from=="system" then .s+=($t.value | if .=="" then . else .+"\\n\\n" end)'
    ' elif $t.from=="human" then .o+=[{from:"human",value:(.s+$t.value)}]|.s="" else .o+=[$t] end) | .o end; '
)
_DIALOGUE = (
    '| if type!="object" then . else {{id,conversations:(.conversations // {source} | turns)}}'
    " | if .id==null then del(.id) else . end end"
)
_STEP = "rows"


def conversion(source: str, inner: str = _STEP) -> str:
    """The jq program that reads dialogues in another format; ``source`` is what holds the turns of one."""
    return f"{_ROWS}{_TURNS}{inner} {_DIALOGUE.format(source=source)}"


def pairs(ask: tuple[str, ...], answer: str) -> str:
    """The jq source of turns where a question and its answer are keys of an object; earlier turns can be "history"."""
    keys = ",".join(f".{key}" for key in ("system", *ask))
    return (
        '([(.history // [])[]|{from:"human",value:.[0]},{from:"gpt",value:.[1]}]'
        f' + [{{from:"human",value:([{keys}]|map(strings|select(.!=""))|join("\\n"))}},{{from:"gpt",value:.{answer}}}])'
    )


def _python(program: str) -> str:
    return f"python3 -c '{program}' {{file}}"


# The file's text as {text}; what it becomes is printed.
_TEXT = 'import re,sys; t=open(sys.argv[1],encoding="utf-8-sig",newline="").read(); sys.stdout.write({})'
# A JSON string as a whole: what follows it in the pattern is never found inside of one.
_STRING = r'("(?:[^"\\]|\\.)*")'
_ARROW = (
    "import json,sys,pyarrow as a,pyarrow.dataset as d; b={}; "
    "[print(json.dumps(r,default=str)) for x in b for r in x.to_pylist()]"
)

CSV_ROWS = _python(
    "import csv,json,sys; csv.field_size_limit(2**31-1); "
    't=open(sys.argv[1],newline="",encoding="utf-8-sig"); '
    '[print(json.dumps(r)) for r in csv.DictReader(t,delimiter="{delimiter}")]'
)

REMEDIES: dict[str, Remedy] = {
    # Files that are something else as a whole.
    "gzip": Remedy("unpack it", "gzip -dc {file}"),
    "zstd": Remedy("unpack it", "zstd -dc {file}"),
    "bzip2": Remedy("unpack it", "bzip2 -dc {file}"),
    "xz": Remedy("unpack it", "xz -dc {file}"),
    "lz4": Remedy("unpack it", "lz4 -dc {file}"),
    # Files of one name in two folders stay two; what macOS adds to an archive is none of it.
    "zip": Remedy(
        "unpack it into a folder",
        _python(
            "import pathlib,shutil,sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); "
            "t=pathlib.Path(sys.argv[2]); t.mkdir(); "
            '[shutil.copyfileobj(z.open(n),(t/n.removeprefix("./").replace("/","-")).open("wb")) for n in z.namelist() '
            'if n[-1]!="/" and "/._" not in "/"+n]'
        )
        + " {to}",
        complete=True,
    ),
    "tar": Remedy(
        "unpack it into a folder",
        "mkdir {to} && tar -xf {file} -C {to} --exclude '._*' --transform 's,^\\./\\(.\\),\\1,;s,/\\(.\\),-\\1,g'",
        complete=True,
    ),
    "archive": Remedy("unpack it with the program that made it"),
    "office": Remedy("save its table as CSV in UTF-8, with the columns prompt and completion"),
    "parquet": Remedy(
        "write its rows as JSON Lines, by the Python package pyarrow",
        _python(_ARROW.format('d.dataset(sys.argv[1],format="parquet").to_batches()')),
    ),
    "orc": Remedy(
        "write its rows as JSON Lines, by the Python package pyarrow",
        _python(_ARROW.format('d.dataset(sys.argv[1],format="orc").to_batches()')),
    ),
    "arrow": Remedy(
        "write its rows as JSON Lines, by the Python package pyarrow",
        _python(_ARROW.format('d.dataset(sys.argv[1],format="feather").to_batches()')),
    ),
    "arrow_stream": Remedy(
        "write its rows as JSON Lines, by the Python package pyarrow",
        _python(_ARROW.format("a.ipc.open_stream(sys.argv[1])")),
    ),
    "sqlite": Remedy(
        "decide which table holds the dialogues, and write it as JSON: sqlite3 -json FILE 'select * from TABLE'; "
        "sqlite3 FILE .schema shows the tables"
    ),
    "csv": Remedy("make dialogues of its columns {ask} and {answer}", CSV_ROWS + " | jq -c '{program}'"),
    "csv_columns": Remedy(
        "decide which columns hold the question and the answer, and call them prompt and completion in the first line"
    ),
    "page": Remedy(
        "fetch the file itself: the address or the login was wrong. On a model hub, its address has /resolve/ "
        "where that of the page has /blob/"
    ),
    "pointer": Remedy(
        "fetch what it stands for, or set finetune_dataset_repo and finetune_dataset_revision, and the role fetches it",
        "git -C {folder} lfs pull --include {name} --exclude ''",
        complete=True,
    ),
    "binary": Remedy("export the dialogues as JSON Lines with the program that wrote the file"),
    "encoding": Remedy("convert it", "iconv -f {encoding} -t UTF-8 {file}"),
    "byte_order_mark": Remedy("nothing is needed here; for other programs, take it out", "tail -c +4 {file}"),
    # JSON that is none.
    "inner_byte_order_mark": Remedy("take it out", r"sed 's/^\xef\xbb\xbf//' {file}"),
    "relaxed": Remedy(
        "take out comments, and commas before a bracket that closes",
        _python(
            _TEXT.format(
                rf're.sub(r"""{_STRING}|,(?=\s*[\]}}])""",lambda m:m[1] or "",'
                rf're.sub(r"""{_STRING}|//[^\n]*|/\*[\s\S]*?\*/|\#[^\n]*""",lambda m:m[1] or "",t))'
            )
        ),
    ),
    "python": Remedy(
        "it is written as Python writes it; write it as JSON",
        _python(
            'import ast,json,sys; t=open(sys.argv[1],encoding="utf-8-sig").read(); '
            'a=t.lstrip()[:1]=="["; '
            "[print(json.dumps(ast.literal_eval(x))) for x in ([t.strip()] if a else t.splitlines()) if x.strip()]"
        ),
    ),
    "control": Remedy(
        "write line breaks and tabs within a text as JSON has them",
        _python('import json,sys; print(json.dumps(json.load(open(sys.argv[1],encoding="utf-8-sig"),strict=False)))'),
    ),
    # Only a comma can stand between a bracket that closes and one that opens.
    "line_commas": Remedy(
        "write the dialogues as one list",
        _python(
            _TEXT.format(
                rf'"["+re.sub(r"""{_STRING}|(?<=\}})\s*,?\s*(?=\{{)""",lambda m:m[1] or ",\n",'
                r't.strip().rstrip(",]\n\r "))+"]\n"'
            )
        ),
    ),
    "line": Remedy(
        "mend the JSON at this place; to leave out every line that jq cannot read", "jq -cR 'fromjson? // empty' {file}"
    ),
    "lists": Remedy("write one list of them", "jq -c '" + _ROWS + "rows' {file}"),
    "cut": Remedy("copy or export the file again: nothing can tell what its end was"),
    "broken": Remedy("mend the JSON at this place"),
    # Dialogues in another format.
    "convert": Remedy(
        "convert it; what a system turn says is put in front of the next question, "
        "and a role that is not known stays, and is named then",
        "jq -c '{program}' {file}",
    ),
    "duplicate_key": Remedy(
        "decide which of them is meant, and take the other out; to keep the last",
        "jq -c '" + _ROWS + "rows' {file}",
    ),
    "surrogate": Remedy(
        "write the whole character; where its other half is lost, U+FFFD can stand for it",
        _python(
            _TEXT.format(
                r're.sub(r"((?:\\\\)+|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F]..",'
                r'lambda m:m[1] or r"\ufffd",t)'
            )
        ),
    ),
    "nul": Remedy(
        "take it out", "jq -c '" + _ROWS + 'rows | (..|strings) |= (split([0]|implode)|join(""))' + "' {file}"
    ),
    "utf8": Remedy(
        "nothing in a file tells its encoding. If it is another than Windows-1252, iconv -l tells the names. "
        "If it is that, or has parts in it, convert them, and look at the result",
        _python(
            "import codecs,sys; "
            'codecs.register_error("w",lambda e:(e.object[e.start:e.end].decode("cp1252","replace"),e.end)); '
            'sys.stdout.reconfigure(encoding="utf-8"); '
            'sys.stdout.write(open(sys.argv[1],encoding="utf-8",errors="w",newline="").read())'
        ),
    ),
    "cesu": Remedy(
        "each half of a character is written on its own, as CESU-8 has it; write them whole",
        _python(
            'import sys; t=open(sys.argv[1],encoding="utf-8",errors="surrogatepass",newline="").read(); '
            'sys.stdout.buffer.write(t.encode("utf-16","surrogatepass").decode("utf-16","replace").encode())'
        ),
    ),
    "not_alternating": Remedy(
        "put the lost turn between; to join them",
        "jq -c '" + _ROWS + 'rows | if (.conversations?|type)=="array" then .conversations |= reduce .[] as $t ([]; '
        'if length>0 and .[-1].from==$t.from and (.[-1].value|type)=="string" and ($t.value|type)=="string" '
        'then .[-1].value+="\\n\\n"+$t.value else .+[$t] end) else . end' + "' {file}",
    ),
    # What nothing automatic can decide. That finetune_allow_dropped leaves such dialogues out is told once, at the end.
    "unknown_role": Remedy(
        "decide whose words these are, human's or gpt's, and rewrite the turn; nothing automatic can"
    ),
    "not_text": Remedy("decide what the text is, and write it; nothing automatic can"),
    "bad_turn": Remedy('name the speaker "from" and the text "value"; nothing automatic can tell which is which'),
    "empty_turn": Remedy("write what was said, or take the dialogue out"),
    "one_sided": Remedy("add the other speaker's turn, or take the dialogue out"),
    "not_object": Remedy("write it as such an object, or take it out"),
    "no_conversations": Remedy(
        "convert the dataset to ShareGPT's format; nothing automatic can tell which key holds a question, "
        "and which an answer"
    ),
    "error_answer": Remedy("fetch the file again: this is a server's answer to a request that failed"),
    # Of what can be used, and is hardly meant so.
    "not_read": Remedy("convert it, or take it out of the folder"),
    "leading_gpt": Remedy("nothing is needed here; or put a question before it"),
    "trailing_human": Remedy("nothing is needed here; or add its answer"),
    "no_id": Remedy("give each dialogue one; until then its place is its name"),
    "duplicate": Remedy("take one of them out"),
    "duplicate_id": Remedy("give them different ids"),
    "replacement": Remedy("restore the text from its source"),
    "special_token": Remedy("write it in another way, or take it out"),
}


def target(key: str, path: Path) -> Path:
    """Where the result goes: the file itself where its name is that of JSON, else the name without the other format."""
    if path.suffix.lower() in (".json", ".jsonl") and key not in ("zip", "tar"):
        return path
    if key in ("zip", "tar"):
        name = path.name
        for suffix in reversed(path.suffixes):
            if suffix.lower() not in (".json", ".jsonl"):
                name = name[: -len(suffix)]
        return path.with_name((name.removesuffix(".json").removesuffix(".jsonl") or "dataset") + "-unpacked")
    bare = path.with_suffix("")
    return bare if bare.suffix.lower() in (".json", ".jsonl") else path.with_suffix(".jsonl")


def remedy(key: str, path: Path, *, alone: bool = True, **parts: str) -> str:
    """The words and the command; ``alone`` where finetune_dataset names the file, not its folder."""
    words, command, complete = REMEDIES[key]
    words = words.format(**parts)
    if not command:
        return words
    to = target(key, path)
    quoted, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    names = {**parts, "file": quoted, "to": shlex.quote(str(to))}
    names |= {"folder": shlex.quote(str(path.parent)), "name": shlex.quote(path.name)}
    # Not str.format(): the programs are full of braces.
    filled = re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], match[0]), command)
    if not complete:
        filled += f" > {shlex.quote(str(to))}" if to != path else f" > {new} && mv --backup=numbered {new} {quoted}"
    then = f", and set finetune_dataset to {to}" if alone and to != path else ""
    return f"{words}: `{filled}`{then}"
