"""GGUF as an sglcore weight format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglcore.contracts.weights import TextAssets
from sglcore_plugin_gguf.config import architecture_of, generation_config, model_config
from sglcore_plugin_gguf.metadata import Metadata
from sglcore_plugin_gguf.parts import find_file, merged, read_parts
from sglcore_plugin_gguf.reader import MAGIC, TensorEntry
from sglcore_plugin_gguf.rope import FREQS_TENSOR
from sglcore_plugin_gguf.stream import Wanted, decoded
from sglcore_plugin_gguf.tokenizer import text_assets

if TYPE_CHECKING:
    import torch


class GGUFFormat:
    """See sglcore.contracts.weights.WeightFormat. A path is a .gguf file or a directory with one model in it."""

    def detects(self, path: Path) -> bool:
        """A file that starts with the magic or ends in .gguf; a directory with GGUF and no safetensors files."""
        if path.is_dir():
            return any(path.glob("*.gguf")) and not any(path.glob("*.safetensors"))
        if path.suffix.lower() == ".gguf":
            return True
        try:
            with path.open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        except OSError:
            return False

    def open(self, path: Path) -> GGUFCheckpoint:
        """Read and check the header. Raises ConfigError naming the file and what is wrong with it."""
        return GGUFCheckpoint(find_file(path))


class GGUFCheckpoint:
    """See sglcore.contracts.weights.Checkpoint. Tensors are freshly decoded, always float32."""

    def __init__(self, path: Path) -> None:
        self._parts = read_parts(path)
        whole = merged(self._parts)
        self._meta = Metadata(whole)
        self._arch = architecture_of(self._meta)
        self.config: dict[str, Any] = model_config(whole, self._meta)
        self.generation_config: dict[str, Any] = generation_config(self._meta)

    def text_assets(self) -> TextAssets:
        """Tokenizer and chat template built from the metadata; imports no torch."""
        return text_assets(self._meta)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face parameter name, float32 CPU tensor) in file order, decoded on all cores a few ahead.

        Until the iterator ends or is closed, torch runs the consumer's operations on one thread.
        """
        import torch  # here, so that API processes can open a file without it

        threads = torch.get_num_threads()
        # torch's team waits spinning after each copy and would take the cores from the decoders:
        # measured 3.5 to 5.6 s against 1.0 s for filling a model of 135 M parameters on two busy cores.
        torch.set_num_threads(1)
        try:
            for part in self._parts:
                wanted = [self._wanted(entry) for entry in part.tensors if entry.name != FREQS_TENSOR]
                for name, array in decoded(part.data, wanted):
                    yield name, torch.from_numpy(array)
        finally:
            torch.set_num_threads(threads)

    def _wanted(self, entry: TensorEntry) -> Wanted:
        name = self._arch.hf_name(entry.name) or entry.name  # opening has refused names without one
        heads = 0
        if self._arch.permutes_qk and ".self_attn.q_proj." in name:
            heads = self.config["num_attention_heads"]
        elif self._arch.permutes_qk and ".self_attn.k_proj." in name:
            heads = self.config["num_key_value_heads"]
        return Wanted(name, entry, heads, self._arch.norm_shift if name.endswith("norm.weight") else 0.0)
