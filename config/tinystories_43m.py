"""43M parameters on TinyStories with 10,000 learned tokens.

The data:  python prepare.py --tokenizer=bpe --vocab_size=10000
Training:  python train.py config/tinystories_43m.py

Give it all the stories: 43M parameters learn a few thousand of them by heart, which looks like a
tiny training loss and reads like nonsense.
"""

out_dir = "out/tinystories_43m"
dataset = "tinystories_bpe10000"

gradient_accumulation_steps = 4
batch_size = 64
block_size = 512

n_layer = 12
n_head = 8
n_embd = 512

learning_rate = 1e-3
max_iters = 15_000
min_lr = 1e-4
warmup_iters = 300
