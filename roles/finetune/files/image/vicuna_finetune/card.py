# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The model card, README.md of the result. Pure, and the same bytes for the same report."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Mapping

METHODS = {
    "full": "All weights were trained",
    "lora": "A low-rank adapter (LoRA) was trained and merged into the weights",
    "qlora": "A low-rank adapter was trained over weights of 4 bits (QLoRA) and merged into the unquantised ones",
}
# Settings that say where a run was, not what came out.
PLACES = {"schema", "model_name", "base_repo", "base_commit", "dataset_sha256", "run_id", "allow_cut", "allow_dropped"}
LORA = {"lora_rank", "lora_alpha", "lora_dropout", "lora_targets"}


def card(report: Mapping[str, t.Any], *, adapter: bool = False) -> str:
    """Return the card's text, for the merged model or for the adapter alone."""
    name = report["settings"]["model_name"]
    base, dataset, train, losses = report["base"], report["dataset"], report["train"], report["heldout_loss"]
    shown = {
        key: value
        for key, value in sorted(report["settings"].items())
        if key not in PLACES and (key not in LORA or report["method"] != "full")
    }
    sections = [
        front_matter(report, adapter),
        f"# {name}{', the adapter alone' if adapter else ''}",
        f"{METHODS[report['method']]}; the base is {code(base['repo'])} at commit {code(base['commit'])}.",
        "## Figures",
        table(
            ("figure", "value"),
            [
                ("held-out loss of the base", figure(losses["base"])),
                ("held-out loss of this model", figure(losses["tuned"]) + change(losses)),
                ("prompts with the expected answer", passed(report["answers"])),
                ("dialogues trained on / held out", f"{dataset['dialogues']} / {dataset['heldout']}"),
                ("tokens of the dialogues", f"{dataset['tokens']:,}"),
                ("steps", f"{train['steps']:,}"),
                ("training, seconds", figure(train["seconds"])),
                ("tokens a second", figure(train["tokens_per_second"])),
                ("most GPU memory, MiB", figure(train["peak_gpu_memory_mib"])),
            ],
        ),
        "Loss is the mean cross entropy of an answer's token, in nats, on dialogues that were not trained on.",
    ]
    if report["answers"]:
        rows = [
            (
                cell(item["prompt"]),
                cell(item["base"]),
                cell(item["tuned"]),
                {True: "yes", False: "no"}.get(item["passed"], ""),
            )
            for item in report["answers"]
        ]
        sections += ["## Answers at temperature 0", table(("prompt", "base", "this model", "as expected"), rows)]
    if adapter:
        sections.append("peft loads it over the base at that commit; FastChat serves the merged model, which is apart.")
    deploy = [
        "## Deploy",
        "With the Ansible collection `vicuna.fleet`, from a git-lfs repository that holds this directory:",
        "```yaml\n"
        "vicuna_model_repo: https://git.example.com/your/repository  # this one\n"
        "vicuna_model_revision: <the commit>\n"
        f"vicuna_model_name: {scalar(name)}\n"
        "```",
        "```sh\nansible-playbook vicuna.fleet.site -i inventories/gpu\n```",
        "The prompt is FastChat's template `vicuna_v1.1`. FastChat wants `vicuna` in the directory's name.",
    ]
    sections += [
        *([] if adapter else deploy),
        "## Made by",
        table(("setting", "value"), [(code(key), code(json.dumps(value))) for key, value in shown.items()]),
        table(("package", "version"), sorted(report["versions"].items())),
        f"Run {code(report['run_id'])}, dataset sha256 {code(dataset['sha256'])}.",
        "The base's licence and terms hold for this model too.",
    ]
    return "\n\n".join(sections) + "\n"


def front_matter(report: Mapping[str, t.Any], adapter: bool) -> str:
    """Return the card's metadata (https://huggingface.co/docs/hub/model-cards)."""
    lines = [
        "---",
        f"base_model: {scalar(report['base']['repo'])}",
        f"base_model_revision: {scalar(report['base']['commit'])}",
        f"base_model_relation: {'adapter' if adapter else 'finetune' if report['method'] == 'full' else 'merge'}",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags: [vicuna, vicuna.fleet]",
        f"dataset_sha256: {scalar(report['dataset']['sha256'])}",
        f"method: {report['method']}",
        f"run_id: {scalar(report['run_id'])}",
        f"heldout_loss: {json.dumps(report['heldout_loss'], sort_keys=True)}",
        "---",
    ]
    return "\n".join(lines)


def scalar(value: str) -> str:
    """A YAML string; JSON's form is always one."""
    return json.dumps(value, ensure_ascii=False)


def code(value: str) -> str:
    return f"`{value}`" if value else "(not said)"


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")


def change(losses: Mapping[str, float | None]) -> str:
    """Return by how much the loss fell, as a share of the base's."""
    before, after = losses["base"], losses["tuned"]
    return f" ({(after - before) / before:+.1%})" if before and after is not None else ""


def passed(answers: list[Mapping[str, t.Any]]) -> str:
    expected = [item["passed"] for item in answers if item["passed"] is not None]
    return f"{sum(expected)} of {len(expected)}" if expected else "-"


def cell(text: str) -> str:
    """Text that stays in its cell and in its line."""
    flat = " ".join(text.split())
    for character in "\\`*_[]<>|":
        flat = flat.replace(character, f"\\{character}")
    return flat if len(flat) <= 300 else flat[:300].rstrip("\\") + " …"


def table(head: tuple[str, ...], rows: t.Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
