"""86M parameters on TinyStories with 10,000 learned tokens.

The data:  python prepare.py --tokenizer=bpe --vocab_size=10000
Training:  python train.py config/tinystories_86m.py
"""

out_dir = "out/tinystories_86m"
dataset = "tinystories_bpe10000"

gradient_accumulation_steps = 8
batch_size = 32
block_size = 512

n_layer = 11
n_head = 12
n_embd = 768

learning_rate = 6e-4
max_iters = 15_000
min_lr = 6e-5
warmup_iters = 300
