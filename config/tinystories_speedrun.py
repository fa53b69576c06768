"""30M parameters, nine minutes of a GPU: not yet run.

The data:  python prepare.py
Training:  python train.py config/tinystories_speedrun.py

The aim: the validation loss of 1.5131 nats that a nanoGPT run with the settings of
config/tinystories_30m.py reached in 1.5 hours of an A100, with the block and the optimizer that
docs/findings.md measured on a CPU. Rates and tokens per step are guesses until it has been run.
"""

out_dir = "out/tinystories_speedrun"
gradient_accumulation_steps = 1
dataset = "tinystories"
batch_size = 256  # 65,536 tokens per step
block_size = 256

arch = "qwen3"
n_layer = 6
n_head = 6
n_embd = 384

optimizer = "muon"
muon_learning_rate = 0.02
learning_rate = 4e-3
min_lr = 0.0
beta2 = 0.98
lr_schedule = "linear"
cooldown = 0.6
warmup_iters = 100
max_minutes = 9
max_iters = 1_000_000  # never reached: max_minutes ends the run
eval_interval = 1000
