#!/usr/bin/env python3
"""Makes the networks of this folder with PyTorch, as a stranger would export them.

Usage: /usr/bin/python3 make.py FOLDER   (Debian: python3-torch)

Three channels move in rows as network_test.go has them; each network learns
them for a moment, by their mean and deviation unless its name says raw.
"""
import sys
import warnings

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(1)
C, T = 3, 16


def rows(n, seed):
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    x = np.stack([np.sin(2 * np.pi * t / 12), np.cos(2 * np.pi * t / 12), np.sin(2 * np.pi * t / 30)])
    return (x + rng.normal(0, 0.05, x.shape)).astype(np.float32)


LEVEL = np.array([[100.0], [3.0], [-0.5]], np.float32)
SPREAD = np.array([[5.0], [0.2], [0.01]], np.float32)
x = rows(4000, 1)
x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
windows = torch.tensor(np.stack([x[:, i : i + T + 1] for i in range(x.shape[1] - T)]))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = nn.Sequential(nn.Linear(C * T, 12), nn.GELU(), nn.Dropout(0.01), nn.Linear(12, C * T))

    def forward(self, x):
        return self.n(x.view(x.size(0), -1)).view(x.size(0), C, T)


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = nn.Sequential(
            nn.Conv1d(C, 8, 3, padding=1), nn.BatchNorm1d(8), nn.LeakyReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3, padding=1),
            nn.Upsample(scale_factor=2), nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, C, 1),
        )

    def forward(self, x):
        return self.n(x)


class Raw(nn.Module):
    """A network that brings its own units."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x):
        level, spread = torch.tensor(LEVEL), torch.tensor(SPREAD)
        return self.n((x - level) / spread) * spread + level


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.d, self.o = nn.LSTM(C, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True, bidirectional=True), nn.Linear(16, C)

    def forward(self, x):
        _, (h, _) = self.e(x)
        y, _ = self.d(h[-1].unsqueeze(1).repeat(1, x.size(1), 1))
        return self.o(y)


class GRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.g, self.o = nn.GRU(C, 8, batch_first=True), nn.Linear(8, C)

    def forward(self, x):
        y, _ = self.g(x)
        return self.o(y[:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.i, self.o = nn.Linear(C, 8), nn.Linear(8, C)
        self.t = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, activation="gelu", batch_first=True)

    def forward(self, x):
        return self.o(self.t(self.i(x)))


class Score(nn.Module):
    """The distance from a centre of what a few layers make of a window, and 7."""

    def __init__(self):
        super().__init__()
        self.n = nn.Sequential(nn.Flatten(), nn.Linear(C * T, 24), nn.Tanh(), nn.Linear(24, C * T))

    def forward(self, x):
        return 7 + (self.n(x) - x.flatten(1)).pow(2).mean(1, keepdim=True)


def learn(net, take, want, steps=400):
    o = torch.optim.Adam(net.parameters(), 0.01)
    for i in range(steps):
        b = windows[torch.randint(len(windows), (64,))]
        loss = (net(take(b)) - want(b)).pow(2).mean()
        o.zero_grad()
        loss.backward()
        o.step()
    return loss.item()


first = lambda b: b[:, :, :T].contiguous()
last = lambda b: b[:, :, :T].transpose(1, 2).contiguous()
raw = lambda b: first(b) * torch.tensor(SPREAD) + torch.tensor(LEVEL)
where = sys.argv[1]
for name, net, take, want, free in [
    ("flat", Flat(), first, first, {0: "batch"}),
    ("conv", Conv(), first, first, {0: "batch"}),
    ("lstm", LSTM(), last, last, {0: "batch", 1: "rows"}),
    ("gru", GRU(), last, lambda b: b[:, :, T], {0: "batch", 1: "rows"}),
    ("attention", Attention(), last, last, {0: "batch"}),
    ("score", Score(), first, lambda b: torch.full((len(b), 1), 7.0), {0: "batch"}),
    ("raw", Conv(), first, first, {0: "batch"}),
    ("one", Flat(), first, first, None),
]:
    loss = learn(net, take, want)
    if name == "raw":
        net, take = Raw(net), raw
    net.eval()
    torch.onnx.export(net, take(windows[:1 if free is None else 2]), f"{where}/{name}.onnx", opset_version=17, input_names=["x"],
                      output_names=["y"], dynamic_axes=free and {"x": free, "y": {0: "batch"}})
    print(f"{name}: loss {loss:.4f}")
