"""2.6M parameters on TinyStories, an hour of a CPU.

The data:  python prepare.py --tokenizer=bpe --vocab_size=4096
Training:  python train.py config/tinystories_cpu_hour.py

On two cores; windows that hold a story. docs/findings.md has its results and some of its stories.
Small enough for a web page below 4 MB (python export.py --to=html).
"""

out_dir = "out/tinystories_cpu_hour"
dataset = "tinystories_bpe4096"
gradient_accumulation_steps = 1
batch_size = 16
block_size = 256

arch = "qwen3"
n_layer = 4
n_head = 3
n_embd = 192
story_mask = True

max_minutes = 60
max_iters = 1_000_000  # never reached: max_minutes ends the run
optimizer = "muon"
muon_learning_rate = 0.01
learning_rate = 1.2e-2  # AdamW's, of the embedding and the vectors
lr_schedule = "linear"
cooldown = 0.8
min_lr = 0.0
warmup_iters = 40
ema = 0.5
eval_interval = 500
eval_tokens = 65_536
log_interval = 50
