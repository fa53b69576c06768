"""1M parameters on stories with headers, in minutes.

The data:  python prepare.py --source=storybook --instruct=True --tokenizer=bpe --vocab_size=2048
Training:  python train.py config/storybook_instruct_1m.py
Sampling:  python sample.py --words="boat, brave" --features=Dialogue

It writes stories to order: with these words, features, summary or sentence. The optimizer is that
of tinystories_cpu. A window has two records, so most of its tokens see their header. Not tuned.
"""

out_dir = "out/storybook_instruct_1m"
dataset = "storybook_instruct_bpe2048"
gradient_accumulation_steps = 1
batch_size = 4
block_size = 512

arch = "qwen3"
n_layer = 4
n_head = 4
n_embd = 128
story_mask = True

max_minutes = 5
max_iters = 1_000_000  # never reached: max_minutes ends the run
optimizer = "muon"
muon_learning_rate = 0.01
learning_rate = 1.2e-2  # AdamW's, of the embedding and the vectors
lr_schedule = "linear"
cooldown = 0.8
min_lr = 0.0
warmup_iters = 20
eval_interval = 500
eval_tokens = 32_768
log_interval = 50
