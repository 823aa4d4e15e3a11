"What a warm process finds loaded (tests/warm.py): the libraries, and every chapter of this package."
# ruff: noqa: F401
import gc, importlib, logging, pkgutil

logging.disable(logging.WARNING)  # bitsandbytes says that it has no kernels for a CPU
import datasets, joblib, pandas, peft, scipy.stats, torch, yaml
import transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama, transformers.trainer
import trl.trainer.sft_trainer
import aiohttp, genai_prices, openai.resources.chat   # what a teacher needs
import jsonargparse, rapidfuzz.distance, rapidfuzz.process, tabulate   # commands, filters and tables
import matplotlib.pyplot, matplotlib_inline.backend_inline, nbdev.test, sklearn.linear_model   # what a notebook needs
import llm2llm
import warm

for module in pkgutil.walk_packages(llm2llm.__path__, 'llm2llm.'):
    if not module.name.endswith('__main__'): importlib.import_module(module.name)
logging.disable(logging.NOTSET)
gc.freeze()   # what is loaded here is never garbage, and need not be looked through by each process
