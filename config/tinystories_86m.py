"""86M parameters on TinyStories, 10,000 trained ids.

The data:  python prepare.py --tokenizer=bpe --vocab_size=10000
Training:  python train.py config/tinystories_86m.py

Not tuned; window and heads are for many hours of training, docs/findings.md is about minutes.
"""

out_dir = "out/tinystories_86m"
dataset = "tinystories_bpe10000"
gradient_accumulation_steps = 8
batch_size = 32
block_size = 512

n_layer = 11  # one fewer than GPT-2, to have 86M parameters in all
n_head = 12  # of 64 channels, as in GPT-2
n_embd = 768

learning_rate = 6e-4  # not tuned; that of GPT-2 (124M) in nanoGPT
max_iters = 15_000
min_lr = 6e-5
warmup_iters = 300
