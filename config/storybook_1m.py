"""1M parameters on the built-in storybook, in minutes.

The data:  python prepare.py --source=storybook --tokenizer=bpe --vocab_size=1024
Training:  python train.py config/storybook_1m.py
"""

out_dir = "out/storybook_1m"
dataset = "storybook_bpe1024"
gradient_accumulation_steps = 1
batch_size = 16
block_size = 256

n_layer = 4
n_head = 4
n_embd = 128

max_minutes = 4.5
max_iters = 20_000  # never reached: max_minutes ends the run
learning_rate = 4e-3  # not tuned; for real stories 2e-3 is better (docs/findings.md)
min_lr = 2e-4
warmup_iters = 50
eval_interval = 500
eval_tokens = 32_768
log_interval = 50
