"""30M parameters on TinyStories-Instruct.

The data:  python prepare.py --source=tinystories_instruct
Training:  python train.py config/tinystories_instruct_30m.py
Sampling:  python sample.py --words="boat, brave, soup" --features=Twist
It writes stories from a summary, a sentence, words or features. A step has as many tokens as one of
tinystories_30m; its learning rate is taken over and not tuned here.
"""

out_dir = "out/tinystories_instruct_30m"
dataset = "tinystories_instruct"
gradient_accumulation_steps = 15
batch_size = 64
block_size = 512  # header lines make a record longer than a story

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.1  # not tuned

learning_rate = 1e-3
max_iters = 5000
min_lr = 1e-4
warmup_iters = 100
