"""10M parameters on TinyStories with 4,096 trained ids: most parameters are in layers.

The data:  python prepare.py --tokenizer=bpe --vocab_size=4096
Training:  python train.py config/tinystories_10m.py

Not tuned. docs/findings.md recommends short windows and few heads for minutes of training; this is
for hours, in which a model can learn to use a longer context.
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
