"""nanoGPT's settings, in ours: what its config files and command lines mean here.

Most names are the same. A config file that uses one of nanoGPT's own names was written for it, so
what the file leaves out takes nanoGPT's defaults, not ours.
"""

from configurator import Foreign, UserError

# nanoGPT's defaults that differ from train.py's. Its device and compile are left to "auto",
# its out_dir to ours.
DEFAULTS = {
    "dataset": "openwebtext",
    "gradient_accumulation_steps": 40,
    "batch_size": 12,
    "block_size": 1024,
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "learning_rate": 6e-4,
    "max_iters": 600_000,
    "lr_decay_iters": 600_000,
    "warmup_iters": 2000,
    "min_lr": 6e-5,
    "beta2": 0.95,
    "eval_interval": 2000,
    "eval_iters": 200,
    "log_interval": 1,
    "wandb_project": "owt",
    "wandb_run_name": "gpt2",
}
MEANS = {"lr": "learning_rate", "eval_iters": "eval_tokens"}
SHAPE = ("block_size", "n_layer", "n_head", "n_embd")  # a model that is fine-tuned has its own
NEEDLESS = {  # nothing has to be done for them
    "always_save_checkpoint": "ckpt.pt is always saved, and best.pt beside it",
    "backend": "the device decides it",
    "real_data": "random tokens are as fast as real ones",
    "profile": "use torch.profiler around train_step instead",
    "bias": "without biases, as nanoGPT's default",
    "seed": "the weights are random, and speed does not depend on them",
}


def train_settings(settings: type, given: dict, files: list[str]) -> tuple[dict, list[str]]:
    """train.py's settings for nanoGPT's; see `Foreign`."""
    notes = []
    fixed = SHAPE if given.get("init_from", "scratch") != "scratch" else ()
    known = {*given, *fixed}
    known |= {name for pair in MEANS.items() if known & {*pair} for name in pair}
    left_out = {name: value for name, value in DEFAULTS.items() if name not in known}
    if files and left_out:
        given = left_out | given
        listed = ", ".join(f"{name}={value}" for name, value in left_out.items())
        notes.append(f"{', '.join(files)}: written for nanoGPT, so its defaults hold: {listed}")
    ours = {name: value for name, value in given.items() if name not in TRAIN.kinds}
    for theirs, name in MEANS.items():
        if theirs in given and name in given:
            notes.append(f"{theirs}={given[theirs]}: not needed, {name} is given")
    if "lr" in given and "learning_rate" not in given:
        ours["learning_rate"] = given["lr"]
        notes.append(f"lr={given['lr']}: taken as learning_rate")
    if given.get("out_dir") in ("out", "out/"):
        ours["out_dir"] = "out/gpt"
        notes.append(f"out_dir={given['out_dir']}: taken as out/gpt, as out/ holds all runs")
    if given.get("wandb_log") and not given.get("log_to"):
        ours["log_to"] = "wandb"
        notes.append("wandb_log=True: taken as log_to=wandb")
    if "eval_iters" in given and "eval_tokens" not in given:
        shape: dict = vars(settings) | (DEFAULTS if files else {}) | ours
        windows, size = given["eval_iters"] * shape["batch_size"], shape["block_size"]
        ours["eval_tokens"] = windows * size
        notes.append(
            f"eval_iters={given['eval_iters']}: taken as eval_tokens={windows * size}, "
            f"{windows} windows of {size} tokens"
        )
    return ours, notes + needless(given, TRAIN)


def sample_settings(settings: type, given: dict, files: list[str]) -> tuple[dict, list[str]]:
    """sample.py's settings for nanoGPT's; see `Foreign`."""
    ours = {name: value for name, value in given.items() if name not in SAMPLE.kinds}
    notes = []
    init_from = given.get("init_from", "")
    if init_from == "resume":
        notes.append("init_from=resume: not needed, sample.py always loads the run in out_dir")
    elif init_from.startswith("gpt2"):
        ours["out_dir"] = f"hf:openai-community/{init_from}"
        notes.append(f"init_from={init_from}: taken as out_dir={ours['out_dir']}")
    elif init_from:
        raise UserError(f"init_from={init_from}: sample.py loads the run that --out_dir names")
    if "prompt" in given and "start" not in given:
        ours["start"] = given["prompt"]
        notes.append("prompt: taken as start")
    if "compile" in given:
        notes.append("compile: not needed, generation is not compiled")
    return ours, notes


def bench_settings(settings: type, given: dict, files: list[str]) -> tuple[dict, list[str]]:
    """bench.py's settings for nanoGPT's; see `Foreign`."""
    ours = {name: value for name, value in given.items() if name not in BENCH.kinds}
    return ours, needless(given, BENCH)


def needless(given: dict, foreign: Foreign) -> list[str]:
    """A line for each of nanoGPT's settings that needs nothing."""
    names = [name for name in NEEDLESS if name in given and name in foreign.kinds]
    return [f"{name}={given[name]}: not needed, {NEEDLESS[name]}" for name in names]


TRAIN = Foreign(
    {"eval_iters": int, "always_save_checkpoint": bool, "backend": str, "lr": float}
    | {"wandb_log": bool},
    train_settings,
    MEANS,
    shared=frozenset(["wandb_log"]),  # earlier versions of train.py had it, too
)
SAMPLE = Foreign(
    {"init_from": str, "compile": bool, "prompt": str}, sample_settings, {"prompt": "start"}
)
BENCH = Foreign(
    dict.fromkeys(("real_data", "profile", "bias"), bool) | {"seed": int}, bench_settings, {}
)
