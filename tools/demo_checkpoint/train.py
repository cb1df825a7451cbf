"""Trains the demo model: python -m tools.demo_checkpoint.train --minutes 65 --output DIR

Three stages, each with a share of the time: the vision tower alone (telling colour, shape and count
through heads that are thrown away), copying alone, then everything together. The length of a stage is
measured in minutes of processor time, so the number of steps depends on the machine, but not on what
else runs there; the data and the initial weights depend on the seed alone. Every core runs a process of
its own on a part of each step, which suffers less from other work on the machine than one process with
several threads.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from tools.demo_checkpoint import tokenizer as tokenizer_module
from tools.demo_checkpoint.batches import loader
from tools.demo_checkpoint.model import Batch, VisionHeads, answer_logits, build, see


@dataclass(frozen=True, slots=True)
class Stage:
    """`kind` of batches (see `batches.Batches`), share of the time, peak learning rates, and the share
    of the peak that the rate falls to at the stage's end.
    """

    kind: str
    share: float
    text_rate: float
    vision_rate: float
    floor: float


STAGES = (
    Stage("vision", 0.12, 0.0, 4e-3, 0.5),
    Stage("copy", 0.06, 3e-3, 0.0, 0.7),
    Stage("joint", 0.82, 2.4e-3, 2.5e-3, 0.0),
)
_WARM_UP = 0.02
_HEADS = "heads.pt"
_SIGHT_LOSS = 0.4  # weight of the heads' losses beside that of the answers


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for all else; one learning rate for text, one for
    vision.
    """

    def __init__(self, model: nn.Module, heads: nn.Module) -> None:
        matrices: dict[str, list[Tensor]] = {"text": [], "vision": []}
        others: dict[str, list[Tensor]] = {"text": [], "vision": list(heads.parameters())}
        for name, parameter in model.named_parameters():
            part = "text" if "language_model" in name else "vision"
            in_layer = ".layers." in name and parameter.ndim == 2
            (matrices if in_layer else others)[part].append(parameter)
        groups = [{"params": matrices[part], "part": part} for part in ("text", "vision")]
        self.muon = torch.optim.Muon(groups, lr=1e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        groups = [{"params": others[part], "part": part} for part in ("text", "vision")]
        self.adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.97), weight_decay=0.0, fused=True)

    def step(self, text_rate: float, vision_rate: float) -> None:
        """Applies and clears the gradients."""
        for optimizer in (self.muon, self.adamw):
            for group in optimizer.param_groups:
                group["lr"] = text_rate if group["part"] == "text" else vision_rate
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad(set_to_none=True)


@dataclass(slots=True)
class Progress:
    """Running means that the log shows."""

    answers: float = 0.0
    groups: float = 0.0
    patches: float = 0.0

    def note(self, field: str, value: float) -> None:
        """Adds `value` to the running mean of `field`."""
        old = getattr(self, field)
        setattr(self, field, value if old == 0.0 else 0.97 * old + 0.03 * value)


class Trainer:
    """One of the training processes; all hold the same weights and average their gradients after each
    step.
    """

    def __init__(self, arguments: argparse.Namespace, rank: int) -> None:
        self.minutes, self.rate, self.seed = arguments.minutes, arguments.rate, arguments.seed
        self.output, self.rank = arguments.output, rank
        self.stages = [stage for stage in STAGES if stage.kind in arguments.stages]
        self.tokenizer = tokenizer_module.build()
        self.model = build(self.tokenizer, self.seed)
        config = self.model.config
        self.heads = VisionHeads(config.vision_config.hidden_size, config.text_config.hidden_size)
        if arguments.start is not None:
            self._load(arguments.start)
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizers = Optimizers(self.model, self.heads)
        self.progress = Progress()
        self.steps = 0

    def run(self) -> None:
        """Trains all stages and saves the result as "final"."""
        if self.rank == 0:
            self.output.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save_pretrained(self.output / "tokenizer")
        for stage in self.stages:
            self._run_stage(stage, loader(self.tokenizer, stage.kind, self.seed, self.rank))
        self.save("final")

    def _run_stage(self, stage: Stage, steps: Iterator[list[Batch]]) -> None:
        started, started_work = time.monotonic(), time.process_time()
        saved = logged = started
        first, done = self.steps, 0.0
        length = stage.share / sum(s.share for s in self.stages) * self.minutes * 60
        while done < 1.0:
            decay = stage.floor + (1 - stage.floor) * (1 + math.cos(math.pi * done)) / 2
            factor = self.rate * min(1.0, done / _WARM_UP) * decay
            self._step(next(steps))
            done = self._average((time.process_time() - started_work) / length)
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizers.step(stage.text_rate * factor, stage.vision_rate * factor)
            self.steps += 1
            now = time.monotonic()
            if now - logged > 20:
                rate = (self.steps - first) / (now - started)
                self._log(
                    f"{stage.kind} {done:5.1%} step {self.steps} ({rate:.2f}/s) "
                    f"answers {self.progress.answers:.4f} groups {self.progress.groups:.4f} "
                    f"patches {self.progress.patches:.4f}"
                )
                logged = now
            if now - saved > 300:
                self.save("latest")
                saved = now

    def _average(self, done: float) -> float:
        """Averages the gradients over the processes, and their clocks, so that all see the same
        schedule.
        """
        present = [p for p in self.parameters if p.grad is not None]
        flat = torch.cat([*(p.grad.flatten() for p in present), torch.tensor([done])])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        offset = 0
        for p in present:
            p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
            offset += p.numel()
        return flat[-1].item()

    def _log(self, line: str) -> None:
        if self.rank == 0:
            print(line, flush=True)

    def _step(self, batches: list[Batch]) -> None:
        """Adds up the gradients of one step; answer losses are a mean over all answer tokens of the
        step.
        """
        answers = sum(int((batch.targets != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = torch.zeros(())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                tokens = None
                if len(batch.pixels):
                    states, tokens = see(self.model, batch.pixels)
                    groups, patches = (
                        self.heads.group_loss(tokens, batch.groups),
                        self.heads.patch_loss(states, batch.patches),
                    )
                    self.progress.note("groups", groups.item())
                    self.progress.note("patches", patches.item())
                    share = len(batch.pixels) / sum(len(b.pixels) for b in batches)
                    loss = loss + (groups + patches) * share * (_SIGHT_LOSS if answers else 1.0)
                if len(batch.ids):
                    logits, targets = answer_logits(
                        self.model, batch, tokens, bidirectional=self.steps % 2 == 0
                    )
                    answer = nn.functional.cross_entropy(logits, targets, reduction="sum") / answers
                    total += answer.item()
                    loss = loss + answer
            loss.backward()  # type: ignore[no-untyped-call]
        if answers:
            self.progress.note("answers", total)

    def _load(self, checkpoint: Path) -> None:
        loaded = type(self.model).from_pretrained(checkpoint, dtype=torch.float32)
        self.model.load_state_dict(loaded.state_dict())
        if (
            checkpoint / _HEADS
        ).exists():  # exported weights come without; the heads learn again within minutes
            self.heads.load_state_dict(torch.load(checkpoint / _HEADS))

    def save(self, name: str) -> None:
        """Writes config and f32 weights in transformers' own form to OUTPUT/NAME, the heads beside them."""
        if self.rank == 0:
            self.model.save_pretrained(self.output / name)
            torch.save(self.heads.state_dict(), self.output / name / _HEADS)


def _run_process(rank: int, processes: int, store: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    Trainer(arguments, rank).run()
    dist.destroy_process_group()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for the tokenizer and the weights"
    )
    parser.add_argument("--minutes", type=float, default=65.0, help="processor time a process (default: 65)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the weights and of the data (default: 0)"
    )
    parser.add_argument(
        "--start", type=Path, help="weights to start from: a checkpoint of a training, or master/"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates (default: 1)")
    kinds = [stage.kind for stage in STAGES]
    parser.add_argument(
        "--stages", nargs="+", choices=kinds, default=kinds, help="stages to run (default: all)"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="training processes, one a core (default: 2)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = str(Path(directory) / "store")
        spawn(  # type: ignore[no-untyped-call]
            _run_process, (arguments.processes, store, arguments), arguments.processes
        )


if __name__ == "__main__":
    main()
