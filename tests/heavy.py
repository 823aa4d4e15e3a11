"The libraries that a warm process finds loaded (tests/warm.py); none of this package."
# ruff: noqa: F401
import gc, logging

logging.disable(logging.WARNING)  # bitsandbytes says that it has no kernels for a CPU
import datasets, joblib, pandas, peft, scipy.stats, torch, yaml
import transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama, transformers.trainer
import trl.trainer.sft_trainer
import openai.lib._client_auth, openai.resources.chat   # what a teacher needs
import matplotlib.pyplot, nbdev.test, sklearn.linear_model   # what a notebook needs

logging.disable(logging.NOTSET)
gc.freeze()   # what is loaded here is never garbage, and need not be looked through by each process
