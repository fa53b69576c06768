"""10M parameters on TinyStories, 4,096 trained ids.

The data:  python prepare.py --tokenizer=bpe --vocab_size=4096
Training:  python train.py config/tinystories_10m.py

Most parameters are in layers. Not tuned. Long windows are for hours of training; docs/findings.md
advises short ones for minutes.
"""

out_dir = "out/tinystories_10m"
dataset = "tinystories_bpe4096"
gradient_accumulation_steps = 4
batch_size = 64
block_size = 512  # about two stories

n_layer = 7
n_head = 5  # of 64 channels, as in GPT-2
n_embd = 320

learning_rate = 2e-3  # not tuned; the best of minutes in docs/findings.md
max_iters = 10_000
min_lr = 2e-4
warmup_iters = 200
