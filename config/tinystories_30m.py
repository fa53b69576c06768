"""30M parameters on TinyStories, GPT-2's vocabulary.

The data:  python prepare.py
Training:  python train.py config/tinystories_30m.py

All values are those of a published run (github.com/WilsonCWu/TinyStories): with nanoGPT on one A100
it took 1.5 hours and reached a train loss of 1.4951 and a validation loss of 1.5131 at step 5000.
"""

out_dir = "out/tinystories_30m"
dataset = "tinystories"
gradient_accumulation_steps = 30
batch_size = 64
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
bias = False

learning_rate = 1e-3
max_iters = 5000
lr_decay_iters = 5000
min_lr = 1e-4
warmup_iters = 100
beta2 = 0.99
weight_decay = 0.1
