"""10M parameters on TinyStories with 4,096 learned tokens: the parameters go into layers.

The data:  python prepare.py --tokenizer=bpe --vocab_size=4096
Training:  python train.py config/tinystories_10m.py
"""

out_dir = "out/tinystories_10m"
dataset = "tinystories_bpe4096"

gradient_accumulation_steps = 4
batch_size = 64
block_size = 512

n_layer = 7
n_head = 5
n_embd = 320

learning_rate = 2e-3
max_iters = 10_000
min_lr = 2e-4
warmup_iters = 200
