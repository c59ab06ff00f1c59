"""The reference of environment variables: `python -m sglcore.cli.env_page > docs/reference/env.md`."""

from __future__ import annotations

import sys

from sglcore.cli.flags import PREFIX, flags_of
from sglcore.server_config import ServerConfig

HEAD = f"""# Environment variables

Generated from the code; do not edit. To write it anew: `python -m sglcore.cli.env_page > docs/reference/env.md`.

Every flag has a variable: `{PREFIX}` and its name in capitals with underscores. The command line and the config file go
before it; an empty variable counts as not set; booleans are `true`, `false`, `1` or `0`; flags that may be repeated
take a list with commas. What the flags mean: [Flags](flags.md).
"""

# Variables that are no flag's: name -> (who reads it, what it does).
OWN = {
    "SGLCORE_CONFIG": ("all commands with flags", "The config file, as `--config`."),
    "SGLCORE_API_KEY": (
        "`serve`; `chat` and `replay` as clients",
        "As the flag `--api-key`: a secret in a variable is not seen in lists of processes.",
    ),
    "SGLCORE_TRACE_HOOKS": ("all processes", "Tell of every call of a hook; `sglcore plugins trace` sets it."),
    "SGLCORE_VERIFY_REPORT": ("`sglcore plugins verify`", "Set for its own child process."),
    "SGLCORE_FALLBACK_SWAPS": (
        "the Transformers fallback",
        "`0` leaves a model's modules as they are, in place of sglcore's kernels.",
    ),
    "SGLCORE_FLASHINFER_PREFILL": (
        "the plugin `flashinfer`",
        "Which of its kernels computes prompts: `auto`, `fa2` or `fa3`.",
    ),
    "SGLCORE_TORCH_PROFILER_DIR": ("`serve`", "As the flag `--torch-profiler-dir`."),
}
OTHERS = {
    "ATEN_CPU_CAPABILITY": (
        "the CPU platform",
        "PyTorch's; `default` or `avx2` also keeps sglcore's CPU kernels from using more.",
    ),
    "OMP_NUM_THREADS": ("the CPU platform", "Threads of PyTorch; where it is not set, as many as it may use CPUs."),
    "CC": (
        "the plugins `cpu-kernels` and `triton-attention`",
        "The C compiler; default: the first there is of the usual ones.",
    ),
    "XDG_CACHE_HOME": ("the plugin `cpu-kernels`", "Where what was compiled is kept; default: `~/.cache`."),
    "CUDA_VISIBLE_DEVICES": ("the plugin `cuda`", "CUDA's; empty or `-1`: there is no GPU."),
    "CUDA_HOME": ("`sglcore doctor`", "CUDA's toolkit, as `CUDA_PATH`."),
    "CUDA_PATH": ("`sglcore doctor`", "CUDA's toolkit, as `CUDA_HOME`."),
    "FLASHINFER_DISABLE_VERSION_CHECK": (
        "the plugin `flashinfer`",
        "FlashInfer's; set: a kernel cache of another version is used.",
    ),
    "OPENAI_API_KEY": ("`sglcore bench serving`", "Key of the server that is measured, as `API_KEY`."),
    "API_KEY": ("`sglcore bench serving`", "Key of the server that is measured, as `OPENAI_API_KEY`."),
    "OTEL_EXPORTER_OTLP_HEADERS": (
        "OpenTelemetry's exporter",
        "Headers for the collector, with --enable-trace; other `OTEL_` variables work as well.",
    ),
    "HF_HUB_OFFLINE": ("huggingface-hub", "`1`: nothing is fetched from the hub; what is there already is used."),
    "HF_TOKEN": ("huggingface-hub", "Key for models that ask for one."),
    "HF_HOME": ("huggingface-hub", "Where downloads are kept, unless `--download-dir` says so."),
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": ("Transformers", "Set by the Transformers fallback, unless it is set."),
}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [
        HEAD,
        "## sglcore's own\n",
        _table(OWN),
        "## Of libraries, as far as sglcore looks at them\n",
        _table(OTHERS),
    ]
    parts += ["## Flags\n", "| Variable | Flag |", "|---|---|"]
    parts += [f"| `{flag.variable}` | `{flag.option}` |" for flag in flags_of(ServerConfig)]
    return "\n".join(parts) + "\n"


def _table(table: dict[str, tuple[str, str]]) -> str:
    rows = ["| Variable | Read by | Meaning |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {who} | {what} |" for name, (who, what) in table.items())]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
