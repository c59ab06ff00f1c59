"""Specs of the built-in weight sources and format; imports neither torch nor the libraries behind them."""

from sglcore.contracts.weights import WeightFormatSpec, WeightSourceSpec

LOCAL = WeightSourceSpec(
    name="local",
    factory="sglcore.builtin.local_source:LocalSource",
    summary="a directory or file on this machine",
    order=10,
)
HUB = WeightSourceSpec(
    name="hub",
    factory="sglcore.builtin.hub_source:HubSource",
    summary="a Hugging Face Hub model by its id, org/name",
    order=200,
)
SAFETENSORS = WeightFormatSpec(
    name="safetensors",
    factory="sglcore.builtin.safetensors_format:SafetensorsFormat",
    summary="a Hugging Face directory: config.json and *.safetensors",
    suffixes=(".safetensors",),
)
