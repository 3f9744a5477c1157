"""Trains a small stack of Mamba-2 layers as a character model, then writes text with it one step at a time.

The layer is `mamba2.ssd` as it stands, compiled and used inside ordinary torch code. The text is English that every
Python installation carries: the language's own manual, `pydoc_data.topics`. What the model must beat is a bigram model
counted from the same training text and scored on the same held-out text. A minute or two on two cores:

    python examples/train_text.py
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

import ssdc

LAYER = Path(__file__).with_name("mamba2.ssd")
ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
CODE = {character: code for code, character in enumerate(ALPHABET)}


class Stack(nn.Module):
    """Characters in, logits of the next character out: residual Mamba-2 layers between an embedding and a head."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(depth))
        sizes = {"D": width, "P": 32, "N": 16}
        self.layers = nn.ModuleList(ssdc.compile(LAYER, sizes=sizes) for _ in range(depth))
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, len(ALPHABET)))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [b,t,v] of ids [b,t], every position at once."""
        h = self.embed(ids)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = h + layer(norm(h))
        return self.head(h)

    def start(self) -> list:
        """The states before the first character, one a layer."""
        return [layer.init_state(b=1) for layer in self.layers]

    def step(self, states: list, ids: Tensor) -> tuple[Tensor, list]:
        """Logits [b,v] of ids [b], one position, and the states after it."""
        h, after = self.embed(ids), []
        for norm, layer, state in zip(self.norms, self.layers, states, strict=True):
            y, state = layer.step(state, norm(h))
            h = h + y
            after.append(state)
        return self.head(h), after


def split_text() -> tuple[Tensor, Tensor]:
    """Character codes of the training and of the held-out text: the last tenth of the manual's distinct paragraphs.

    Topics quote each other at length; a paragraph that stands twice is kept once, so nothing held out was trained on.
    """
    manual = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = list(dict.fromkeys(paragraph.strip("\n") for paragraph in manual.split("\n\n")))
    cut = len(paragraphs) * 9 // 10
    train, held_out = ("\n\n".join(part) for part in (paragraphs[:cut], paragraphs[cut:]))
    return encode(train), encode(held_out)


def encode(text: str) -> Tensor:
    """Codes of the characters of the alphabet; others (a few hundred quotes and dashes) are left out."""
    return torch.tensor([CODE[character] for character in text if character in CODE])


def bigram_entropy(train: Tensor, held_out: Tensor) -> float:
    """Nats a character that a bigram model costs on the held-out text, its counts smoothed by unigram frequencies."""
    size = len(ALPHABET)
    unigram = torch.bincount(train, minlength=size).double() + 1
    pairs = torch.bincount(train[:-1] * size + train[1:], minlength=size * size).double().view(size, size)
    probability = pairs + unigram / unigram.sum()
    probability /= probability.sum(1, keepdim=True)
    return -probability[held_out[:-1], held_out[1:]].log().mean().item()


def loss_of(model: Stack, windows: Tensor) -> Tensor:
    """Mean nats a character over windows [b,t+1]."""
    return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: Stack, text: Tensor, length: int) -> float:
    """Mean nats a character over the whole held-out text, cut into windows that share their end characters."""
    windows = text[: (len(text) - 1) // length * length + 1].unfold(0, length + 1, length)
    losses = [loss_of(model, part) * len(part) for part in windows.split(32)]
    return sum(loss.item() for loss in losses) / len(windows)


def train(model: Stack, text: Tensor, steps: int, batch: int, length: int, bound: float) -> None:
    """Trains in place, with a bar on stderr that shows the loss against the bigram's."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(50, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: 4e-3 * min(1, (i + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * i / steps))
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    smooth, below = math.log(len(ALPHABET)), False
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("training", total=steps)
        for i in range(steps):
            starts = torch.randint(len(text) - length, (batch,))
            loss = loss_of(model, torch.stack([text[start : start + length + 1] for start in starts]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            smooth += (loss.item() - smooth) * max(0.05, 1 / (i + 1))
            progress.update(bar, advance=1, description=f"loss {smooth:.3f} (bigram {bound:.3f})")
            if smooth < bound and not below:
                below = True
                progress.console.print(f"step {i + 1}: the training loss falls below the bigram's {bound:.3f}")


@torch.no_grad()
def write(model: Stack, prompt: str, count: int, temperature: float = 0.7) -> str:
    """Goes on from a prompt by `count` characters, one step of the recurrence each."""
    states, text = model.start(), prompt
    for code in encode(prompt):
        logits, states = model.step(states, code[None])
    for _ in range(count):
        code = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
        text += ALPHABET[code.item()]
        logits, states = model.step(states, code)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--characters", type=int, default=400, help="how many to write at the end")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    text, held_out = split_text()
    bound = bigram_entropy(text, held_out)
    model = Stack(options.width, options.depth)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(text):,} characters to train on, {len(held_out):,} held out; {count:,} parameters")
    print(f"held out, bigram model:  {bound:.3f} nats a character")

    began = time.perf_counter()
    train(model, text, options.steps, options.batch, options.length, bound)
    loss = held_out_loss(model, held_out, options.length)
    print(f"held out, this model:    {loss:.3f} nats a character after {time.perf_counter() - began:.0f} s of training")
    print(f"\n{write(model, 'The ', options.characters)}")
    if loss >= bound:
        print("the model did not get below the bigram model", file=sys.stderr)
    return int(loss >= bound)


if __name__ == "__main__":
    sys.exit(main())
