"""0.7M parameters on stories with headers, in minutes.

The data:  python prepare.py --source=storybook --instruct=True --tokenizer=bpe --vocab_size=1024
Training:  python train.py config/storybook_instruct_1m.py
Sampling:  python sample.py --words="boat, brave" --features=Dialogue

It writes stories to order: with these words, features, summary or sentence. The settings are those
of storybook_1m, with windows of two records, so that most tokens see their header.
"""

out_dir = "out/storybook_instruct_1m"
dataset = "storybook_instruct_bpe1024"
gradient_accumulation_steps = 1
batch_size = 4
block_size = 512

arch = "qwen3"
n_layer = 3
n_head = 2
n_embd = 128
story_mask = True

max_minutes = 5
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
