#!/usr/bin/env python3
"""One training step of a GPT-2 shaped model in PyTorch: the yardstick for the time of a step here (docs/benchmarks.md).

Forward, backward and AdamW on random tokens (nanoGPT's architecture: pre-LN, tied head, tanh GELU, scaled-dot-product
attention, biases). Prints one JSON line. The yardstick is PyTorch at its best: run it eager and compiled and take the faster.

    pip install torch==2.13.0 numpy          # any recent release will do; the version is printed
    python torch_step.py --shape char --threads 2 [--compile] [--bf16] [--device cuda] [--seconds 15] [--profile FILE]

Shapes (layers, heads, width, T, batch, vocabulary): char 6 6 384 256 8 65; small 4 4 256 128 16 8192;
gpt2 12 12 768 512 1 50257; gpt2-gpu 12 12 768 1024 32 50257; or L,H,C,T,B,V.
GFLOP/s counts 6 x (parameters without positions) per token plus 12 x L x T x C for attention (nothing off for the causal mask).
"""
import argparse, json, os, resource, statistics, time

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="char")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--device", default="cpu")
parser.add_argument("--seconds", type=float, default=15)
parser.add_argument("--profile", default="")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(args.threads)
torch.manual_seed(1337)
SHAPES = {
    "char": (6, 6, 384, 256, 8, 65),
    "small": (4, 4, 256, 128, 16, 8192),
    "gpt2": (12, 12, 768, 512, 1, 50257),
    "gpt2-gpu": (12, 12, 768, 1024, 32, 50257),
}
L, H, C, T, B, V = SHAPES.get(args.shape) or map(int, args.shape.split(","))
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rss_at_start = rss()
sync = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, H, c // H).transpose(1, 2) for z in self.attn(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
        self.h = nn.ModuleList(Block() for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, 0, 0.02)

    def forward(self, idx, target):
        x = self.wte(idx) + self.wpe.weight
        for block in self.h:
            x = block(x)
        return F.cross_entropy((self.ln_f(x) @ self.wte.weight.T).view(-1, V), target.view(-1))


model = GPT().to(args.device)
params = sum(p.numel() for p in model.parameters())
groups = [
    {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
loss_of = torch.compile(model) if args.compile else model
data = torch.randint(0, V, (200_000,), device=args.device)
autocast = torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16)


def step():
    at = torch.randint(0, len(data) - T - 1, (B,)).tolist()
    x = torch.stack([data[i : i + T] for i in at])
    y = torch.stack([data[i + 1 : i + T + 1] for i in at])
    with autocast:
        loss = loss_of(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


for _ in range(3):
    step()
sync()
if args.profile:
    from torch.profiler import profile

    with profile() as prof:
        for _ in range(3):
            step()
    open(args.profile, "w").write(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
times, begin = [], time.perf_counter()
while time.perf_counter() - begin < args.seconds or len(times) < 5:
    t0 = time.perf_counter()
    loss = step()
    sync()
    times.append(time.perf_counter() - t0)
median, best = statistics.median(times), min(times)
quartiles = statistics.quantiles(times, n=4, method="inclusive")
flops = B * T * (6 * (params - T * C) + 12 * L * T * C)
print(json.dumps({
    "bench": "step", "peer": "torch_" + ("compile" if args.compile else "eager") + ("_bf16" if args.bf16 else "_f32"),
    "version": torch.__version__, "device": args.device, "shape": args.shape, "sizes": [L, H, C, T, B, V],
    "threads": args.threads, "precision": "bf16" if args.bf16 else "f32", "params": params,
    "steps": len(times), "ms_median": round(median * 1e3, 3), "ms_best": round(best * 1e3, 3),
    "spread": round((quartiles[2] - quartiles[0]) / median, 4),
    "tokens_per_s": round(B * T / median), "gflops": round(flops / median / 1e9, 1),
    "rss_mb": round(rss()), "rss_at_start_mb": round(rss_at_start), "loss": round(loss.item(), 4),
}))
