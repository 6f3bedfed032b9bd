"""Trains the forecaster of TestAGRUsTrajectoryMatchesPyTorch with PyTorch and prints the loss of each step.

Reads from standard input: {"x": [...], "y": [...], "weights": {name: [...]}, "steps": N}.
"""
import json
import sys

import torch

torch.set_num_threads(1)
job = json.load(sys.stdin)
w = {n: torch.tensor(v) for n, v in job["weights"].items()}


def reordered(v):
    """ONNX has the gates in the order z, r, h; PyTorch r, z, n."""
    z, r, h = v.chunk(3)
    return torch.cat([r, z, h])


gru = torch.nn.GRU(4, 5)
with torch.no_grad():
    gru.weight_ih_l0.copy_(reordered(w["w"].reshape(15, 4)))
    gru.weight_hh_l0.copy_(reordered(w["r"].reshape(15, 5)))
    gru.bias_ih_l0.copy_(reordered(w["b"][:15]))
    gru.bias_hh_l0.copy_(reordered(w["b"][15:]))
head = w["head"].reshape(5, 2).requires_grad_()
x, y = torch.tensor(job["x"]).reshape(7, 3, 4), torch.tensor(job["y"]).reshape(3, 2)
optimizer = torch.optim.Adam([*gru.parameters(), head], lr=0.01)
losses = []
for _ in range(job["steps"]):
    _, h = gru(x)
    loss = torch.nn.functional.mse_loss(h[0] @ head, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
json.dump(losses, sys.stdout)
