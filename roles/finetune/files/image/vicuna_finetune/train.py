# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Training: transformers' Trainer, with checkpoints that survive a kill and a run that can be watched."""

from __future__ import annotations

import collections
import math
import os
import shutil
import signal
import time
import typing as t
from pathlib import Path
from types import FrameType

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from . import checkpoints, conversation, data
from .base_model import canonical, check_base, dtype_name, name_base, publish, put, set_modes
from .errors import BadInput, Diverged, Stopped
from .progress import Log, Progress, to_disk, write_atomically
from .settings import RunDir, Settings

# Steps over which speed is told.
WINDOW = 20
# Between two lines on the standard output, seconds.
TALK = 10.0


class Signals:
    """Remembers a wish to stop; the step at hand is finished first, and its result saved."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number

    def check(self) -> None:
        """Raise Stopped where nothing is worth saving yet."""
        if self.number:
            raise Stopped(f"stopped by signal {self.number} before the first step; run it again to go on", self.number)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Progress, log, held-out loss, divergence, signals, and the list that makes a checkpoint whole."""

    def __init__(self, run: RunDir, settings: Settings, progress: Progress, signals: Signals) -> None:
        self.run, self.settings, self.progress, self.signals = run, settings, progress, signals
        self.main = progress.writes
        self.log = Log(run.log, writes=self.main)
        self.heldout: t.Callable[[t.Any], float | None] = lambda model: None
        self.window: collections.deque[tuple[float, int]] = collections.deque(maxlen=WINDOW + 1)
        self.begun, self.begun_step, self.spoke = time.monotonic(), 0, 0.0
        self.earlier_seconds = 0.0
        self.earlier_peak: int | None = None
        self.final_loss: float | None = None

    @property
    def seconds(self) -> float:
        """Time in training, that of the runs which this one continues included."""
        return self.earlier_seconds + time.monotonic() - self.begun

    @property
    def peak_mib(self) -> int | None:
        own = torch.cuda.max_memory_reserved() >> 20 if self.settings.device == "cuda" else None
        return own if self.earlier_peak is None or own is None else max(own, self.earlier_peak)

    def on_train_begin(self, args: t.Any, state: TrainerState, control: TrainerControl, **kwargs: t.Any) -> None:
        self.begun, self.begun_step = time.monotonic(), state.global_step
        self.window.append((self.begun, state.num_input_tokens_seen))
        self.progress.update("training", step=state.global_step, steps=state.max_steps)

    def on_substep_end(self, args: t.Any, state: TrainerState, control: TrainerControl, **kwargs: t.Any) -> None:
        self.progress.update()

    def on_step_end(self, args: t.Any, state: TrainerState, control: TrainerControl, **kwargs: t.Any) -> None:
        if self.wish_to_stop():
            control.should_save = control.should_training_stop = True
        last = state.global_step >= state.max_steps
        if state.global_step % args.save_steps == 0 or last:
            loss = self.heldout(kwargs["model"])
            if loss is not None:
                self.log.add(step=state.global_step, heldout_loss=loss)

    def wish_to_stop(self) -> bool:
        """Whether any process was told to stop: all have to save at the same step."""
        number = self.signals.number
        if torch.distributed.is_initialized():
            device = "cuda" if self.settings.device == "cuda" else "cpu"
            shared = torch.tensor(number, device=device)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            number = self.signals.number = int(shared)
        return number != 0

    def on_log(
        self, args: t.Any, state: TrainerState, control: TrainerControl, logs: dict[str, t.Any], **kwargs: t.Any
    ) -> None:
        # The log is in log.jsonl; here it would make every checkpoint larger than the one before.
        state.log_history.clear()
        if "loss" not in logs:
            return
        step, loss, gradient, rate = state.global_step, logs["loss"], logs.get("grad_norm"), logs["learning_rate"]
        self.window.append((time.monotonic(), state.num_input_tokens_seen))
        (first, tokens_before), (last, tokens) = self.window[0], self.window[-1]
        speed = (tokens - tokens_before) / max(last - first, 1e-9)
        epoch = round(float(state.epoch or 0.0), 4)
        self.log.add(
            step=step,
            epoch=epoch,
            loss=loss,
            learning_rate=rate,
            grad_norm=gradient,
            tokens_per_second=round(speed, 1),
            time=round(time.time(), 3),
        )
        left = (last - self.begun) / max(1, step - self.begun_step) * (state.max_steps - step)
        self.progress.update(
            "training",
            step=step,
            steps=state.max_steps,
            epoch=epoch,
            loss=loss,
            learning_rate=rate,
            tokens_per_second=round(speed, 1),
            seconds_left=round(left, 1),
            gpu_memory_mib=self.peak_mib,
        )
        self.final_loss = loss
        if not math.isfinite(loss) or (gradient is not None and not math.isfinite(gradient)):
            raise Diverged(
                f"diverged at step {step} of {state.max_steps}: loss {loss}, gradient norm {gradient}; expected "
                f"numbers; lower finetune_learning_rate (now {self.settings.learning_rate:g}, "
                f"try {self.settings.learning_rate / 10:g})"
            )
        if self.main and last - self.spoke >= TALK:
            self.spoke = last
            print(f"step {step}/{state.max_steps} loss {loss:.4f} rate {rate:.2e} {speed:.0f} tokens/s", flush=True)

    def on_save(self, args: t.Any, state: TrainerState, control: TrainerControl, **kwargs: t.Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self.main:
            path = self.run.checkpoints / f"checkpoint-{state.global_step}"
            set_modes(path)
            # The curve goes on from where the training does.
            to_disk(self.run.log)
            figures = {"seconds": self.seconds, "peak": self.peak_mib, "loss": self.final_loss}
            checkpoints.complete(path, self.progress.update, **figures)
            checkpoints.keep_newest(self.run.checkpoints, self.settings.keep_checkpoints)
        if torch.distributed.is_initialized():
            # A process that is told to stop ends here, and the launcher ends the others soon after it.
            torch.distributed.barrier()
        self.progress.update("training")


class PhaseTrainer(Trainer):  # type: ignore[misc]
    """The Trainer, which says that it saves: for a large model that takes minutes."""

    progress: Progress

    def _save_checkpoint(self, model: t.Any, trial: t.Any) -> None:
        self.progress.update("saving")
        super()._save_checkpoint(model, trial)


def train(run: RunDir, base: Path, settings: Settings, progress: Progress) -> None:
    """Train, or go on from the last whole checkpoint; leaves adapter/ or result/, and trained.json."""
    signals = Signals()
    config = check_base(base)
    if run.trained.is_file():
        print("trained already")
        return
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("the container sees no GPU: expected one; run vicuna.fleet's role nvidia_container_toolkit")
    watch = Watch(run, settings, progress, signals)
    # Before the model: with several processes it tells from_pretrained that only the first reads the weights.
    arguments = training_arguments(run, settings)
    set_seed(settings.seed)

    def alive() -> None:
        signals.check()
        progress.update()

    tokenizer = conversation.load_tokenizer(base, settings.max_length)
    examples = data.load(run.train, tokenizer, settings, alive)
    heldout = data.load(run.heldout, tokenizer, settings, alive) if run.heldout.is_file() else data.Examples([], 0, 0)
    if not examples.items:
        raise BadInput("dataset/train.json holds no dialogue to learn from: expected 1 or more; set finetune_dataset")
    collator = data.Collator(tokenizer.pad_token_id)
    model = load_model(base, settings, arguments)
    signals.check()

    if watch.main:
        run.checkpoints.mkdir(exist_ok=True)
        for name in checkpoints.remove_broken(run.checkpoints):
            print(f"{name} is not whole: removed")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    last = checkpoints.newest_whole(run.checkpoints)
    noted = (checkpoints.figures(last) or {}) if last else {}
    watch.log.cut_after(checkpoints.step_of(last) if last else 0)
    watch.earlier_seconds, watch.earlier_peak = float(noted.get("seconds", 0.0)), noted.get("peak")
    watch.final_loss = noted.get("loss")
    if last and watch.main:
        print(f"going on from step {checkpoints.step_of(last)}", flush=True)

    trainer = PhaseTrainer(model=model, args=arguments, train_dataset=examples.items, data_collator=collator)
    trainer.progress = progress
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    watch.heldout = lambda model: data.mean_loss(
        model,
        heldout.items,
        collator,
        settings.batch_size,
        device=arguments.device,
        alive=progress.update,
        rank=arguments.process_index,
        world_size=arguments.world_size,
    )
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    state = trainer.state
    if signals.number and state.global_step < state.max_steps:
        raise Stopped(
            f"stopped at step {state.global_step} of {state.max_steps}; run it again to go on", signals.number
        )
    seconds = watch.seconds

    progress.update("saving")
    if settings.adapter:
        if watch.main:
            save_adapter(trainer, run, settings)
    else:
        save_full(trainer, run, base, dtype_name(config), watch.main)
    if watch.main:
        tokens = int(state.num_input_tokens_seen)
        figures = {
            "schema": 1,
            "run_id": settings.run_id,
            "dialogues": len(examples.items),
            "heldout": len(heldout.items),
            "tokens": examples.tokens,
            "cut": examples.cut + heldout.cut,
            "dropped": examples.dropped + heldout.dropped,
            "train": {
                "seconds": round(seconds, 1),
                "steps": int(state.global_step),
                "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
                "peak_gpu_memory_mib": watch.peak_mib,
                "final_loss": watch.final_loss,
            },
        }
        write_atomically(run.trained, canonical(figures), durable=True)


def training_arguments(run: RunDir, settings: Settings) -> TrainingArguments:
    """The Trainer's arguments; those that are not settings are here because a run's figures depend on them."""
    cuda = settings.device == "cuda"
    sharded = not settings.adapter and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if sharded:
        # Each process writes its own part of a checkpoint; a whole one would pass through one process's memory.
        os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    sharding: dict[str, t.Any] = {
        "fsdp": "full_shard auto_wrap",
        "fsdp_config": {
            "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
            "activation_checkpointing": settings.gradient_checkpointing,
            "cpu_ram_efficient_loading": True,
            "sync_module_states": True,
            "backward_prefetch": "backward_pre",
        },
    }
    return TrainingArguments(
        output_dir=str(run.checkpoints),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_ratio=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        seed=settings.seed,
        bf16=settings.bf16,
        use_cpu=not cuda,
        # FSDP has its own, without a second gathering of the weights.
        gradient_checkpointing=settings.gradient_checkpointing and not sharded,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=None,  # Watch removes old ones, once the new one is whole
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        ddp_find_unused_parameters=False,
        **(sharding if sharded else {}),
    )


def load_model(base: Path, settings: Settings, arguments: TrainingArguments) -> t.Any:
    """Return the model to train.

    The weights of a full run are float32, and computed with in bfloat16: steps of 2e-5 are lost in bfloat16's 8 bits.
    Those under an adapter never change: bfloat16, or 4 bits.
    """
    options: dict[str, t.Any] = {"dtype": torch.float32}
    if settings.adapter and settings.bf16:
        options["dtype"] = torch.bfloat16
    if settings.method == "qlora":
        options["device_map"] = {"": arguments.device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True, **options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"the base model cannot be loaded ({error}); fetch it again with playbooks/fetch.yml") from error
    model.config.use_cache = False
    # Vicuna's own has a temperature without sampling, which transformers refuses to save.
    model.generation_config = GenerationConfig()
    if settings.method == "qlora":
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=settings.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    if settings.adapter:
        model = get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.lora_rank,
                lora_alpha=settings.lora_alpha,
                lora_dropout=settings.lora_dropout,
                target_modules=list(settings.lora_targets),
            ),
        )
    return model


def save_adapter(trainer: Trainer, run: RunDir, settings: Settings) -> None:
    """Write adapter/ at once."""
    part = run.path / "adapter.part"
    shutil.rmtree(part, ignore_errors=True)
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(str(part))
    name_base(part, settings)
    put(part, run.adapter)


def save_full(trainer: Trainer, run: RunDir, base: Path, dtype: str, main: bool) -> None:
    """Write result/ in the base's dtype. Every process takes part: each holds a piece of the weights."""
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if not main:
        return
    part = run.path / "result.part"
    shutil.rmtree(part, ignore_errors=True)
    for name in weights:  # one by one: float32 and its copy together would be half as much memory again
        weights[name] = weights[name].to("cpu", getattr(torch, dtype))
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(str(part), state_dict=weights)
    publish(part, base, run.result)
