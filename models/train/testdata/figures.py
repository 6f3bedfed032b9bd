"""PyTorch's side of `make bench-train`: trains a described net and reports the CPU time it took.

The first line of standard input is {"net": [layers], "params": [[names' shapes]], "input": [shape],
"classes": N, "frozen": LAYERS, "weights": FILE, "data": FILE}. Every further line is a number of steps; each is
answered with a line {"cpu": seconds, "loss": of the last step}. At the end of the input comes
{"peakMiB": of the process, "startMiB": before the net was made, "blas": FILE}.
"""
import json
import os
import resource
import sys

import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)


def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) / 1024


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


def build(layers):
    made = []
    for l in layers:
        kind = l["op"]
        made.append({
            "conv": lambda: nn.Conv2d(l["in"], l["out"], l["kernel"], l["stride"], l["kernel"] // 2, groups=l["groups"], bias=l["bias"]),
            "norm": lambda: nn.BatchNorm2d(l["out"]),
            "linear": lambda: nn.Linear(l["in"], l["out"]),
            "relu": lambda: nn.ReLU(inplace=True),
            "relu6": lambda: nn.ReLU6(inplace=True),
            "tanh": nn.Tanh,
            "maxpool": lambda: nn.MaxPool2d(2),
            "mean": Mean,
            "residual": lambda: Residual(build(l["body"])),
        }[kind]())
    return nn.Sequential(*made)


start = status("VmRSS")
job = json.loads(sys.stdin.readline())
net = build(job["net"])
weights = torch.from_file(job["weights"], size=os.path.getsize(job["weights"]) // 4)
at = 0
with torch.no_grad():
    for p in net.parameters():
        p.copy_(weights[at:at + p.numel()].reshape(p.shape))
        at += p.numel()
assert at == weights.numel(), "the weights do not fit the net"
data = torch.from_file(job["data"], size=os.path.getsize(job["data"]) // 4).reshape(-1, *job["input"]).clone()

frozen, head = net[:job["frozen"]], net[job["frozen"]:]
for p in frozen.parameters():
    p.requires_grad = False
frozen.eval()
head.train()
labels = torch.arange(job["input"][0]) % max(job["classes"], 1)
optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
done = 0


def step():
    global done
    x = data[done % len(data)]
    done += 1
    with torch.no_grad():
        h = frozen(x)
    y = head(h)
    loss = F.cross_entropy(y, labels) if job["classes"] else F.mse_loss(y, x)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


for line in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(int(line)):
        loss = step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "loss": loss}), flush=True)
blas = sorted({l.split()[-1] for l in open("/proc/self/maps") if "blas" in l and ".so" in l})
print(json.dumps({"peakMiB": status("VmHWM"), "startMiB": start, "blas": os.path.realpath(blas[0]) if blas else ""}), flush=True)
