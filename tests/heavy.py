"The libraries that a warm process finds loaded (tests/warm.py); none of this package."
# ruff: noqa: F401
import logging

logging.disable(logging.WARNING)  # bitsandbytes says that it has no kernels for a CPU
import datasets, joblib, pandas, peft, scipy.stats, torch, yaml
import transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama, transformers.trainer
import trl.trainer.sft_trainer

logging.disable(logging.NOTSET)
