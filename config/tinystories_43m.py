"""43M parameters on TinyStories, 10,000 trained ids.

The data:  python prepare.py --tokenizer=bpe --vocab_size=10000
Training:  python train.py config/tinystories_43m.py

Train it on all stories: with a few thousand it overfits. Not tuned; the window and the heads are
for hours of training, docs/findings.md is about minutes.
"""

out_dir = "out/tinystories_43m"
dataset = "tinystories_bpe10000"
gradient_accumulation_steps = 4
batch_size = 64
block_size = 512

n_layer = 12
n_head = 8  # of 64 channels, as in GPT-2
n_embd = 512

learning_rate = 1e-3  # not tuned; that of the 30M run
max_iters = 15_000
min_lr = 1e-4
warmup_iters = 300
