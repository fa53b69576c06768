"""2.1M parameters on TinyStories, ten minutes of a CPU.

The data:  python prepare.py --tokenizer=bpe --vocab_size=4096
Training:  python train.py config/tinystories_cpu.py

The best result of ten minutes on two cores: docs/findings.md shows how the settings were found, and
what nanoGPT reaches in the same time; for hours, take longer windows.
"""

out_dir = "out/tinystories_cpu"
dataset = "tinystories_bpe4096"
gradient_accumulation_steps = 1
batch_size = 16
block_size = 128

arch = "qwen3"
n_layer = 3
n_head = 3
n_embd = 192
story_mask = True

max_minutes = 10
max_iters = 1_000_000  # never reached: max_minutes ends the run
optimizer = "muon"
muon_learning_rate = 0.01
learning_rate = 1.2e-2  # AdamW's, of the embedding and the vectors
lr_schedule = "linear"
cooldown = 0.8
min_lr = 0.0
warmup_iters = 20
eval_interval = 250
eval_tokens = 65_536
log_interval = 50
