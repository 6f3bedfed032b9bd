"""Trains the network of TestTrajectoriesMatchPyTorch with PyTorch and prints the loss of each step.

Reads from standard input: {"x": [...], "y": [...], "weights": {name: [...]}, "optimizer": NAME, "steps": N}.
"""
import json
import sys

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
job = json.load(sys.stdin)
shapes = {
    "k1": (6, 2, 3, 3), "s1": (6,), "b1": (6,),
    "k2": (6, 1, 3, 3), "k3": (8, 6, 1, 1), "c3": (8,),
    "w": (8, 3), "b": (3,),
}
p = {n: torch.tensor(job["weights"][n]).reshape(s).requires_grad_() for n, s in shapes.items()}
x = torch.tensor(job["x"]).reshape(12, 2, 9, 9)
y = torch.tensor(job["y"])
mean, var = torch.zeros(6), torch.ones(6)
weights = [v for v in p.values() if v.dim() > 1]
others = [v for v in p.values() if v.dim() == 1]
groups = lambda decay: [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
optimizer = {
    "adam": lambda: torch.optim.Adam(groups(0.0), lr=0.01),
    "adamw": lambda: torch.optim.AdamW(groups(0.1), lr=0.01),
    "momentum": lambda: torch.optim.SGD(groups(0.01), lr=0.05, momentum=0.9),
    "nesterov": lambda: torch.optim.SGD(groups(0.0), lr=0.05, momentum=0.9, nesterov=True),
    "clipped": lambda: torch.optim.SGD(groups(0.0), lr=0.5),
}[job["optimizer"]]()
losses = []
for _ in range(job["steps"]):
    h = F.conv2d(x, p["k1"], stride=2, padding=1)
    h = F.relu(F.batch_norm(h, mean, var, p["s1"], p["b1"], training=True, momentum=0.1))
    h = F.max_pool2d(h, 2, stride=1)
    h = F.relu(F.conv2d(h, p["k2"], padding=1, groups=6))
    h = F.conv2d(h, p["k3"], p["c3"])
    h = F.layer_norm(h.mean(dim=(2, 3)), (8,))
    loss = F.cross_entropy(F.gelu(h) @ p["w"] + p["b"], y)
    optimizer.zero_grad()
    loss.backward()
    if job["optimizer"] == "clipped":
        torch.nn.utils.clip_grad_norm_(list(p.values()), 0.1)
    optimizer.step()
    losses.append(loss.item())
json.dump({"losses": losses, "mean": mean.tolist(), "var": var.tolist()}, sys.stdout)
