"""0.7M parameters on the storybook, in minutes.

The data:  python prepare.py --source=storybook --tokenizer=bpe --vocab_size=1024
Training:  python train.py config/storybook_1m.py

The settings are those of tinystories_cpu, with windows that hold a story, and Muon's rate twice as
high; docs/findings.md compares widths. Its web page has
1.1 MB (python export.py --to=html).
"""

out_dir = "out/storybook_1m"
dataset = "storybook_bpe1024"
gradient_accumulation_steps = 1
batch_size = 8
block_size = 256

arch = "qwen3"
n_layer = 3
n_head = 2
n_embd = 128
story_mask = True

max_minutes = 4.5
max_iters = 20_000  # never reached: max_minutes ends the run
optimizer = "muon"
muon_learning_rate = 0.02
learning_rate = 1.2e-2  # AdamW's, of the embedding and the vectors
lr_schedule = "linear"
cooldown = 0.8
min_lr = 0.0
warmup_iters = 20
eval_interval = 500
eval_tokens = 32_768
log_interval = 50
