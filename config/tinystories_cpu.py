"""2.1M parameters on TinyStories: the best result of ten minutes on two CPU cores.

The data:  python prepare.py --tokenizer=bpe --vocab_size=4096
Training:  python train.py config/tinystories_cpu.py

On two cores without bfloat16 it reached 0.928 bits per byte; nanoGPT, in its README's shape for a
CPU, reached 1.316. docs/findings.md shows how these settings were found. Short windows and few
tokens per step are for minutes; for hours take longer windows, more tokens per step, more layers.
"""

out_dir = "out/tinystories_cpu"
dataset = "tinystories_bpe4096"

gradient_accumulation_steps = 1
batch_size = 16
block_size = 64

n_layer = 3
n_head = 3
n_embd = 192

max_minutes = 10
max_iters = 1_000_000  # never reached: max_minutes ends the run
learning_rate = 2e-3
min_lr = 1e-4
warmup_iters = 20

eval_interval = 1000
eval_tokens = 65_536
log_interval = 50
